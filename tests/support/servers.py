"""Real servers for any suite: one of each a pytest process, started by the first test that asks.

A test that kills or reconfigures a server starts one of its own instead.
"""

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.topics import make_platform_topics
from tools.servers import FerretDB, Kafka, KafkaIdentity, MinIO, Triton

TRITON_CONTROL_KEY = "the-key-of-the-tests"
ADMINISTRATOR_PASSWORD = "of-the-administrator"


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """It asks nobody who they are, and has the platform's topics."""
    with Kafka(tmp_path_factory.mktemp("kafka")) as server:
        asyncio.run(make_platform_topics(server.bootstrap))
        yield server


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """As the platform runs it; nobody but its administrator has any right yet."""
    identity = KafkaIdentity("of-the-broker", ADMINISTRATOR_PASSWORD)
    with Kafka(tmp_path_factory.mktemp("secured-kafka"), identity=identity) as server:
        yield server


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    directory = tmp_path_factory.mktemp("triton")
    with Triton(directory, control_key=TRITON_CONTROL_KEY) as server:
        yield server


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinIO]:
    with MinIO(tmp_path_factory.mktemp("minio")) as server:
        yield server


@pytest.fixture(scope="session")
def ferretdb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FerretDB]:
    with FerretDB(tmp_path_factory.mktemp("ferretdb")) as server:
        yield server
