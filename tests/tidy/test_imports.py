"""Who may know whom."""

from __future__ import annotations

import ast

import pytest

from tests.tidy.source import SERVICES, dotted, imported, is_within, name_of, python_files, tree

# What touches the world: the core decides, and asks for these through its ports.
INPUT_AND_OUTPUT = (
    *(
        "aiokafka",
        "confluent_kafka",
        "faststream",
        "grpc",
        "grpc_status",
        "httpx",
        "http",
        "motor",
        "pymongo",
    ),
    *("minio", "requests", "socket", "sqlite3", "starlette", "subprocess", "tritonclient"),
    *("urllib", "urllib3", "uvicorn"),
    *("libs.common.access", "libs.common.bus", "libs.common.foundation", "libs.common.pb"),
    *("libs.common.peers", "libs.common.publishing", "libs.common.rpc", "libs.common.settings"),
    *(
        "libs.common.status",
        "libs.common.stores.directory",
        "libs.common.stores.minio",
        "libs.common.stores.s3",
    ),
    *(
        "libs.common.http",
        "libs.common.kafka",
        "libs.common.stores.mongo",
        "libs.common.stores.mongo_collections",
    ),
    *("libs.common.stores.sqlite",),
)
ABOVE = ("services", "standalone", "apps", "tests", "bench")
# The clients of brokers and stores, and who alone may hold them.
CLIENTS = {
    "faststream": ("libs/common/",),
    "motor": ("libs/common/stores/",),
    # Monitoring keeps its minutes beside the journal: they are many, and nobody decides on them.
    "pymongo": ("libs/common/stores/", "services/monitoring/outbound/"),
    # Checkpoints lie under object lock, which no store of objects has a call for.
    "minio": ("libs/common/stores/", "services/security/outbound/"),
    # High-rate records do not pass through the bus; the offsets are in the journal.
    "aiokafka": ("libs/common/", "services/ingest/outbound/"),
    # Who administers Kafka: the others have no call for users and rights.
    "confluent_kafka": ("services/security/outbound/",),
}
READS_THE_ENVIRONMENT = {
    # The only reader of a service's settings.
    *("libs/common/settings.py", *(f"services/{service}/settings.py" for service in SERVICES)),
    # A child process: its parent hands the trace over as the W3C variable TRACEPARENT.
    "services/trainer/training/__main__.py",
    # Their parents: PATH and the like are passed on, and the settings with their secrets are not.
    "services/trainer/outbound/process.py",
    "services/inference/outbound/evaluation.py",
    # And where temporary files lie, for them too.
    "libs/common/work.py",
}
# `basalt up` and `status` find the platform where it is installed beside the client.
STARTS_THE_PLATFORM = ("libs/sdk/basalt/cli/platform.py", "libs/sdk/basalt/cli/local.py")
ENVIRONMENT = ("os.environ", "os.getenv", "os.environb", "os.putenv")


def forbidden(folders: tuple[str, ...], packages: tuple[str, ...]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}"
        for path in python_files(*folders)
        for line, name in imported(path)
        if is_within(name, packages)
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_the_core_imports_nothing_that_touches_the_world(service: str) -> None:
    own = (f"services.{service}.inbound", f"services.{service}.outbound", f"services.{service}.app")

    assert forbidden((f"services/{service}/core",), INPUT_AND_OUTPUT + own) == []


@pytest.mark.parametrize("service", SERVICES)
def test_ports_know_no_technology(service: str) -> None:
    found = forbidden((f"services/{service}",), INPUT_AND_OUTPUT)

    assert [line for line in found if f"{service}/ports.py" in line] == []


@pytest.mark.parametrize("service", SERVICES)
def test_no_service_imports_another(service: str) -> None:
    others = tuple(f"services.{other}" for other in SERVICES if other != service)

    assert forbidden((f"services/{service}",), others) == []


def test_what_is_shared_knows_no_service() -> None:
    assert forbidden(("libs/common",), (*ABOVE, "tools", "basalt")) == []


def test_the_client_needs_nothing_of_the_platform() -> None:
    found = forbidden(("libs/sdk",), (*ABOVE, "libs", "tools"))

    assert [line for line in found if not line.startswith(STARTS_THE_PLATFORM)] == []
    assert forbidden(("libs/sdk",), ("libs", "services")) == []


def test_services_do_not_need_what_only_development_has() -> None:
    assert (
        forbidden(("services",), ("tools", "tests", "standalone", "apps", "bench", "basalt")) == []
    )
    assert forbidden(("standalone", "tools", "apps"), ("tests", "bench")) == []


@pytest.mark.parametrize("client", CLIENTS)
def test_each_client_has_one_home(client: str) -> None:
    found = forbidden(("libs", "services", "standalone"), (client,))

    assert [line for line in found if not line.startswith(CLIENTS[client])] == []


def test_only_settings_read_the_environment() -> None:
    readers = {
        f"{name_of(path)}:{getattr(node, 'lineno', 0)}"
        for path in python_files("libs/common", "services")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute | ast.Name) and dotted(node) in ENVIRONMENT
    }

    assert [
        each for each in sorted(readers) if each.split(":")[0] not in READS_THE_ENVIRONMENT
    ] == []


def test_nobody_unpickles() -> None:
    """A pickle runs whatever it was told to; models and checkpoints are data."""
    modules = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    assert forbidden((), modules) == []
    calls = [
        f"{name_of(path)}:{node.lineno} calls {dotted(node.func)}"
        for path in python_files()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and (
            dotted(node.func) in {"torch.load", "torch.save", "pandas.read_pickle"}
            or any(word.arg == "allow_pickle" for word in node.keywords)
        )
        and not any(
            word.arg == "allow_pickle" and ast.unparse(word.value) == "False"
            for word in node.keywords
        )
    ]
    assert calls == []
