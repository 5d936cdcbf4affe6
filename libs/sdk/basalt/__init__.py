"""The Basalt client: what business applications install.

import basalt
with basalt.connect("127.0.0.1:7080", token=key) as client:
    model = client.load_model("tumour")
    model.predict(rows).labels
"""

from basalt.aio import AsyncClient, connect_async
from basalt.client import Client, Model, connect
from basalt.errors import BasaltError
from basalt.model import AsyncModel
from basalt.prediction import Prediction

__all__ = [
    "AsyncClient",
    "AsyncModel",
    "BasaltError",
    "Client",
    "Model",
    "Prediction",
    "connect",
    "connect_async",
]
__version__ = "0.1.0"
