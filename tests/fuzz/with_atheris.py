"""Coverage-guided fuzzing: `python -m tests.fuzz.with_atheris [NAME] --seconds 60`; without a name, of all.

Exits 0 when the time is over, and otherwise leaves the input that broke the parser where it was started, as
libFuzzer does.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

LONGEST_INPUT_BYTES = 16_384
MEMORY_MEBIBYTES = 4096
SECONDS_AN_INPUT = 300


def main() -> int:
    """Fuzz until the time is over or something breaks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", nargs="?", help="name of a parser; all of them without it")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    options = parser.parse_args()
    with atheris.instrument_imports(include=["adpfl", "adpfl_client", "adpfl_server", "yaml", "json"]):
        from tests.fuzz.database_targets import DATABASE_TARGETS  # noqa: PLC0415 - instrumented as it is read
        from tests.fuzz.file_targets import FILE_TARGETS  # noqa: PLC0415
        from tests.fuzz.wire_targets import WIRE_TARGETS  # noqa: PLC0415
    targets = {target.name: target for target in (*WIRE_TARGETS, *FILE_TARGETS, *DATABASE_TARGETS)}
    if not options.target:
        command = [sys.executable, "-m", "tests.fuzz.with_atheris", "--seconds", str(options.seconds)]
        broken = [name for name in targets if subprocess.run([*command, name], check=False).returncode]
        print(f"broken: {', '.join(broken)}" if broken else f"{len(targets)} parsers, none broken")
        return len(broken)
    target = targets[options.target]
    corpus = Path(tempfile.mkdtemp(prefix="corpus-"))
    for number, seed in enumerate(target.seeds):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            str(corpus),
            f"-max_total_time={options.seconds}",
            f"-max_len={max(LONGEST_INPUT_BYTES, *map(len, target.seeds))}",
            f"-rss_limit_mb={MEMORY_MEBIBYTES}",
            f"-timeout={SECONDS_AN_INPUT}",
            "-seed=1",
        ],
        lambda data: void(target.run(data)),
    )
    atheris.Fuzz()
    return 0


def void(_taken: object) -> None:
    """What libFuzzer wants to hear."""


if __name__ == "__main__":
    sys.exit(main())
