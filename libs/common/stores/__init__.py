"""Where state lives: the ports, one adapter a technology, and their addresses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from libs.common.errors import InvalidInputError
from libs.common.stores.ports import JournalStore, ObjectStore

if TYPE_CHECKING:
    from libs.common.settings import CommonSettings


def open_journal(address: str, service: str) -> JournalStore:
    """`sqlite:FOLDER` or `mongodb://HOST/DATABASE`: each service has a journal of its own there."""
    # Adapters are imported when chosen: a laptop needs no MongoDB client in memory.
    if address.startswith("sqlite:"):
        from libs.common.stores.sqlite import SqliteJournal

        return SqliteJournal(Path(address.removeprefix("sqlite:")) / f"{service}.db")
    if address.startswith("mongodb://"):
        from libs.common.stores.mongo import MongoJournal

        return MongoJournal(address, service)
    raise InvalidInputError(
        f"BASALT_JOURNAL is {address!r}.",
        which="BASALT_JOURNAL",
        next_step="Use sqlite:FOLDER or mongodb://HOST/DATABASE.",
    )


def open_objects(settings: CommonSettings, service: str) -> ObjectStore:
    """`directory:FOLDER` or `s3:http://HOST:PORT/BUCKET`: each service has a prefix of its own."""
    address = settings.objects
    if address.startswith("directory:"):
        from libs.common.stores.directory import DirectoryObjects

        return DirectoryObjects(Path(address.removeprefix("directory:")) / service)
    if address.startswith("s3:"):
        from libs.common.stores.minio import MinioObjects

        return MinioObjects(
            address.removeprefix("s3:"),
            prefix=service,
            access_key=settings.s3_access_key.get_secret_value(),
            secret_key=settings.s3_secret_key.get_secret_value(),
        )
    raise InvalidInputError(
        f"BASALT_OBJECTS is {address!r}.",
        which="BASALT_OBJECTS",
        next_step="Use directory:FOLDER or s3:http://HOST:PORT/BUCKET.",
    )
