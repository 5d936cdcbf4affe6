"""What a caller is told names things, never where they lie on our machines."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from libs.common.errors import BY_CODE, BasaltError
from libs.common.status import to_status
from libs.common.stores.directory import DirectoryObjects
from libs.common.stores.minio import MinioObjects
from libs.common.stores.sqlite import SqliteJournal
from libs.common.wording import without_folders
from services.gateway.outbound.folder import DiskDoorFolder

ROOT = Path(__file__).resolve().parents[3]
KEY = "acme/models/0123456789abcdef"
# In an f-string of an error: what says where something lies.
PLACE = re.compile(r"(\w+\.)*_?(path|root|folder|address|host|bootstrap|key)(\.name|\[.*)?( /.*)?$")
# Said at the start, to whoever starts it, who chose these places; or a thing's name for callers.
SAID_TO_OPERATORS = {
    ("libs/common/stores/__init__.py", "address"),
    ("libs/common/stores/s3.py", "address"),
    ("services/trainer/core/pipeline.py", "path"),
    ("services/gateway/dispatcher/app.py", "self._folder / DISPATCHER_SOCKET"),
}


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ('File "/srv/basalt/services/trainer/fit.py", line 3', 'File "…/fit.py", line 3'),
        ("cannot open /tmp/folderAbCdEf/1/model.onnx: no", "cannot open …/model.onnx: no"),
        ("in /root/.basalt/objects/ it is", "in …/ it is"),
        ("see https://example.com/a/b and 3/4 of rows, and/or", None),
    ],
)
def test_paths_lose_their_folders(said: str, told: str | None) -> None:
    assert without_folders(said) == (told or said)


async def errors_of_stores(folder: Path) -> list[BasaltError]:
    """Of what is missing, damaged, unreachable, and in the way."""
    blocked = folder / "blocked"
    blocked.write_text("A file where a folder should be.")
    (folder / "broken.db").write_bytes(b"no database at all" * 100)
    directory, in_the_way = DirectoryObjects(folder / "objects"), DirectoryObjects(blocked)
    minio = MinioObjects(
        "http://127.0.0.1:1/bucket", prefix="", access_key="key", secret_key="secret"
    )
    journal = SqliteJournal(folder / "broken.db")
    found: list[BasaltError] = []
    for act in (
        lambda: directory.get(KEY),
        lambda: directory.get("../" + KEY),
        lambda: in_the_way.get(KEY),
        lambda: in_the_way.put(KEY, b""),
        lambda: minio.get(KEY),
        lambda: journal.latest("acme/model/m"),
    ):
        with pytest.raises(BasaltError) as raised:
            await act()
        found.append(raised.value)
    await minio.close()
    await journal.close()
    with pytest.raises(BasaltError) as raised:
        DiskDoorFolder(blocked / "door").prepare()
    return [*found, raised.value]


async def test_errors_of_stores_tell_callers_neither_place_nor_key(tmp_path: Path) -> None:
    for error in await errors_of_stores(tmp_path):
        told = str(to_status(error))
        for secret in (str(tmp_path), "acme/models", "127.0.0.1:1"):
            assert secret not in told, error
        # Our own logs have it.
        assert error.inside
        assert error.inside in error.whole


def errors_in_code() -> Iterator[tuple[str, str]]:
    """What the texts of our errors are made of, by file."""
    kinds = {kind.__name__ for kind in BY_CODE.values()}
    for file in sorted([*(ROOT / "libs/common").rglob("*.py"), *(ROOT / "services").rglob("*.py")]):
        if "pb" in file.parts:
            continue
        for call in ast.walk(ast.parse(file.read_text())):
            if not (isinstance(call, ast.Call) and ast.unparse(call.func) in kinds):
                continue
            texts = [*call.args, *(each.value for each in call.keywords if each.arg != "inside")]
            for text in texts:
                for part in ast.walk(text):
                    if isinstance(part, ast.FormattedValue):
                        yield file.relative_to(ROOT).as_posix(), ast.unparse(part.value)


def test_no_error_is_made_of_a_place() -> None:
    made = {(file, said) for file, said in errors_in_code() if PLACE.match(said)}
    assert made - SAID_TO_OPERATORS == set(), "Put it into `inside`: it is for our own logs."
