"""Obtains and starts the real servers natively, without containers.

The tests and the laptop edition use the same classes. Each server has the same shape:

    server = Kafka(directory)   # its data, log and remembered ports live there
    server.obtain()             # pinned, checksummed, once for each cache; `start` does it too
    server.start()              # returns when the server answers, or raises ServerError
    server.kill()               # SIGKILL, for fault tests; `start` again recovers the data
    server.stop()               # SIGTERM, a bounded wait, then SIGKILL

The interface is synchronous on purpose; asynchronous callers use `asyncio.to_thread`.
"""

from tools.servers.envoy import Envoy
from tools.servers.errors import ServerError
from tools.servers.ferretdb import FerretDB
from tools.servers.kafka import Kafka, KafkaIdentity
from tools.servers.minio import MinIO
from tools.servers.server import Server
from tools.servers.triton import Triton

__all__ = [
    "Envoy",
    "FerretDB",
    "Kafka",
    "KafkaIdentity",
    "MinIO",
    "Server",
    "ServerError",
    "Triton",
]
