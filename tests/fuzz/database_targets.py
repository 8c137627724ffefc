"""The daemons' databases as a failing disk or another hand may leave them: opened, or refused in one line."""

import shutil
from pathlib import Path

from adpfl.errors import IdentityError, IntegrityError, StateError, StorageError
from adpfl.security.certificates import Holder
from adpfl_client.ledger.ledger_files import DATABASE_NAME
from adpfl_client.ledger_store import LedgerStore
from adpfl_server.identity.audit_log import record, verify
from adpfl_server.storage.database import open_database, transaction
from tests.fuzz.file_targets import HEX, NOW
from tests.fuzz.target import Target, file_of, scratch

_AT = 1.9e9
"""Unix seconds at which the ledger below is kept."""


def _ledger() -> bytes:
    folder = scratch() / "ledger"
    with LedgerStore.open(folder, _AT) as ledger:
        ledger.approve("demo", HEX, by="the test", now=_AT)
    return (folder / DATABASE_NAME).read_bytes()


def _server() -> bytes:
    path = scratch() / "whole" / "server.sqlite"
    database = open_database(path)
    with transaction(database):
        record(database, NOW, "enrolled", subject=Holder("site", "hospital1"))
    database.execute("PRAGMA journal_mode=DELETE")
    database.close()
    return path.read_bytes()


def _open_ledger(data: bytes) -> None:
    for left in (scratch() / "ledger").glob(f"{DATABASE_NAME}-*"):
        left.unlink()
    file_of(data, f"ledger/{DATABASE_NAME}")
    with LedgerStore.open(scratch() / "ledger", _AT) as ledger:
        ledger.head()
        ledger.reservations("demo")


def _open_server(data: bytes) -> None:
    shutil.rmtree(scratch() / "server", ignore_errors=True)
    path: Path = file_of(data, "server/server.sqlite")
    database = open_database(path)
    try:
        verify(database)
    finally:
        database.close()


DATABASE_TARGETS = (
    Target(
        "ledger database",
        _open_ledger,
        (_ledger(),),
        (IdentityError, IntegrityError, StateError, StorageError),
    ),
    Target("server database", _open_server, (_server(),), (IntegrityError, StateError)),
)
