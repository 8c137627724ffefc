"""A disk in trouble is told in one line that says what to mend."""

import errno
import os
import sqlite3

import pytest

from adpfl_server.storage.trouble import STORAGE_ERRORS, storage_reason


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/srv/x"), "/srv/x: No space left on device"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS)), "Read-only file system"),
        (OSError("stale handle"), "stale handle"),
        (OSError(), "OSError"),
        (sqlite3.OperationalError("database or disk is full"), "database: database or disk is full"),
    ],
)
def test_the_reason_names_the_file_and_the_rule(error, reason):
    assert isinstance(error, STORAGE_ERRORS)
    assert storage_reason(error) == reason
