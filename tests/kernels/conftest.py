from collections.abc import Callable, Iterator

import pytest

from adpfl.kernels.keystream import KeystreamKey

VECTOR_KEY = bytes(range(32))


@pytest.fixture
def key() -> Iterator[KeystreamKey]:
    """The key of the published vectors, bytes 00 to 1f."""
    with KeystreamKey.from_bytes(VECTOR_KEY) as key:
        yield key


@pytest.fixture
def same_key() -> Callable[[], KeystreamKey]:
    """Another owner of the very same bytes, for comparing two paths to one release."""
    return lambda: KeystreamKey.from_bytes(VECTOR_KEY)
