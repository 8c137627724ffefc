"""Print the entries of a lock file that a list names, with their hashes: a part pinned as the whole is.

Usage: select_locked.py requirements.lock NAMES.txt [NAME ...] > part.lock
"""

import re
import sys
from pathlib import Path

_ENTRY = re.compile(r"^([A-Za-z0-9._-]+)==")


def entries(lock: str) -> dict[str, str]:
    """Each package's lines of a lock file, by its normalised name."""
    found: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in lock.splitlines():
        match = _ENTRY.match(line)
        if match:
            lines = found.setdefault(normalised(match[1]), [])
        if lines is not None and line and not line.lstrip().startswith("#"):
            lines.append(line)
    return {name: "\n".join(text) for name, text in found.items()}


def names_in(text: str) -> list[str]:
    """The names of a list, one a line; `#` begins a comment."""
    return [normalised(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def normalised(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def main(arguments: list[str]) -> int:
    """Print the part; exit code 1 where the lock lacks a name."""
    known = entries(Path(arguments[0]).read_text(encoding="utf-8"))
    wanted = names_in(Path(arguments[1]).read_text(encoding="utf-8")) + arguments[2:]
    missing = [name for name in wanted if name not in known]
    if missing:
        sys.stderr.write(f"error: {arguments[0]} lacks {', '.join(missing)}; run `make lock`\n")
        return 1
    sys.stdout.write("\n".join(known[name] for name in wanted) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
