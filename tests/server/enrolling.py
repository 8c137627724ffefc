"""What the tests of enrolment share."""

from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives import serialization

from adpfl.security.certificates import create_request, new_key

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


def new_request(key=None, name="hospital1"):
    return create_request(key or new_key(), name).public_bytes(serialization.Encoding.DER)


def rows(database, table):
    return [dict(row) for row in database.execute(f"SELECT * FROM {table}")]
