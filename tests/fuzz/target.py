"""What is fuzzed: a parser, examples of what it reads, and the errors that it may answer with."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from adpfl.errors import AdpflError


@dataclass(frozen=True)
class Target:
    """One parser of bytes from somebody else."""

    name: str
    parse: Callable[[bytes], None] = field(repr=False)
    seeds: tuple[bytes, ...] = field(repr=False)
    """Inputs that it takes; a fuzzer starts from them."""
    errors: tuple[type[AdpflError], ...]
    """What its documentation says that it raises."""

    def run(self, data: bytes) -> bool:
        """Parse; returns whether the input was taken. Any other error than the documented ones gets out."""
        try:
            self.parse(data)
        except self.errors as error:
            said = str(error)
            assert said, "an error says what is wrong"
            assert len(said) < 100_000, "an error is no copy of its input"
            return False
        return True


@cache
def scratch() -> Path:
    """A folder of this process, for parsers that read files."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


def file_of(data: bytes, name: str = "input") -> Path:
    """The input as a file that only its owner can read."""
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(data)
    return path
