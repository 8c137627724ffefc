"""Bounds of the wire contract and the checks that name the field, the value and the bound.

The numbers are those of `proto/adpfl/v1/federation.proto`. Inside the project a digest is 64 lower-case
hexadecimal digits; on the wire it is 32 bytes.
"""

import re
import unicodedata
from collections.abc import Sized
from enum import IntEnum
from typing import TypeVar

from adpfl.errors import ProtocolError

MESSAGE_BYTES = 8 * 2**20
CONTROL_BYTES = 64 * 2**10
"""A message other than a chunk, a manifest or a list of digests."""
DIGEST_LIST_BYTES = 256 * 2**10
"""A message with a list of digests."""
CHUNK_SIZE_MIN = 64 * 2**10
CHUNK_SIZE_MAX = 4 * 2**20
CHUNKS_PER_OBJECT = 65_536
TENSORS_PER_OBJECT = 16_384
TENSOR_NAME_BYTES = 256
TENSOR_DIMENSIONS = 8
DIGESTS_PER_REQUEST = 4_096
PLAN_BYTES = 2**20
TEXT_BYTES = 1_024
TOKEN_BYTES = 256
CERTIFICATE_REQUEST_BYTES = 8 * 2**10
CERTIFICATE_CHAIN_BYTES = 64 * 2**10
SIGNATURE_BYTES = 128
WAIT_SECONDS = 30
METRICS_PER_REPORT = 64
TASKS_PER_JOIN = 64
ROUND_MAX = 100_000

RETRY_AFTER_METADATA = "retry-after-millis"
"""Trailing metadata of a RESOURCE_EXHAUSTED that time alone mends."""

EnumType = TypeVar("EnumType", bound=IntEnum)

_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, format characters (bidirectional marks among them), surrogates and line
separators."""
_CUT = "..."
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_INSTANCE_ID = re.compile(r"[0-9a-f]{32}")


def check_name(field: str, value: str) -> None:
    """Refuse what is not a run's, site's or task's name.

    Raises:
        ProtocolError: `value` is not 1 to 63 of a-z, 0-9, `_`, `-`, starting with a letter or digit.
    """
    if not _NAME.fullmatch(value):
        raise ProtocolError(
            f"{field} is {_short(value)}; must be 1 to 63 of a-z 0-9 _ - and start with a-z 0-9"
        )


def check_text(field: str, value: str, *, limit: int = TEXT_BYTES) -> None:
    """Refuse text of more than `limit` UTF-8 bytes, or that a terminal would obey instead of showing it.

    Raises:
        ProtocolError: the text is too long, or has a line break, a control character or one that hides or
            reorders its neighbours.
    """
    size = len(value.encode("utf-8", "surrogatepass"))
    if size > limit:
        raise ProtocolError(f"{field} has {size} bytes; must be at most {limit}")
    for character in value:
        if unicodedata.category(character) in _UNSHOWN:
            raise ProtocolError(
                f"{field} has the character {character!a}; must be one line of shown characters"
            )


def shown_text(text: str, *, limit: int = TEXT_BYTES) -> str:
    """The text as `check_text` lets it pass: characters that are not shown become spaces, the end is cut."""
    shown = "".join(" " if unicodedata.category(each) in _UNSHOWN else each for each in text)
    if len(shown.encode()) <= limit:
        return shown
    return shown.encode()[: limit - len(_CUT.encode())].decode("utf-8", "ignore") + _CUT


def check_size(field: str, value: Sized, limit: int, *, least: int = 0) -> None:
    """Refuse a list or byte string with fewer than `least` or more than `limit` items.

    Raises:
        ProtocolError: the length is outside `least`..`limit`.
    """
    if not least <= len(value) <= limit:
        raise ProtocolError(f"{field} has length {len(value)}; must be {least} to {limit}")


def check_range(field: str, value: int, least: int, most: int) -> None:
    """Refuse what is not an integer of `least`..`most`; in JSON, 1.0 and true are none.

    Raises:
        ProtocolError: the value is of another kind, or outside the range.
    """
    if type(value) is not int:
        raise ProtocolError(f"{field} is {value!r:.40}; must be a whole number")
    if not least <= value <= most:
        raise ProtocolError(f"{field} is {value}; must be {least} to {most}")


def check_digest(field: str, value: str) -> None:
    """Refuse what is not 64 lower-case hexadecimal digits.

    Raises:
        ProtocolError: the digest is malformed.
    """
    if not _HEX_DIGEST.fullmatch(value):
        raise ProtocolError(f"{field} is {_short(value)}; must be 64 lower-case hexadecimal digits (SHA-256)")


def check_instance_id(field: str, value: str) -> None:
    """Refuse what is not 32 lower-case hexadecimal digits.

    Raises:
        ProtocolError: the instance id is malformed.
    """
    if not _INSTANCE_ID.fullmatch(value):
        raise ProtocolError(f"{field} is {_short(value)}; must be 32 lower-case hexadecimal digits")


def digest_from_wire(field: str, raw: bytes) -> str:
    """Turn a digest's 32 bytes into hexadecimal.

    Raises:
        ProtocolError: not 32 bytes.
    """
    if len(raw) != 32:
        raise ProtocolError(f"{field} has {len(raw)} bytes; must be 32 (SHA-256)")
    return raw.hex()


def enum_from_wire(name: str, kind: type[EnumType], value: int) -> EnumType:
    """Turn a protobuf enum into ours.

    Raises:
        ProtocolError: unspecified, or a value that this version does not know.
    """
    try:
        return kind(value)
    except ValueError as error:
        known = ", ".join(f"{member.value} {member.name}" for member in kind)
        raise ProtocolError(f"{name} is {value}; must be one of {known}") from error


def _short(value: str) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
