"""Generate the wire contract's Python code into `adpfl/wire/_generated`, or check that it has not drifted.

    python proto/generate.py            write the generated files
    python proto/generate.py --check    exit 1, naming the files, if they differ from what the contract gives

Generated files are never edited. protoc's gRPC plugin imports by the proto package's path (`adpfl.v1`); here
the code lives below `adpfl.wire._generated`, so that one import is rewritten.
"""  # noqa: INP001 - a script beside the contract, not a package

import argparse
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

PROTO_ROOT = Path(__file__).resolve().parent
PROTO = "adpfl/v1/federation.proto"
GENERATED_ROOT = PROTO_ROOT.parent / "adpfl" / "wire" / "_generated"
IMPORT_AS_GENERATED = "from adpfl.v1 import federation_pb2"
IMPORT_AS_PLACED = "from adpfl.wire._generated.adpfl.v1 import federation_pb2"
PACKAGE_MARKS = {
    "adpfl/__init__.py": '"""Generated; see proto/generate.py."""\n',
    "adpfl/v1/__init__.py": '"""Generated from proto/adpfl/v1/federation.proto; see proto/generate.py."""\n',
}


def generate() -> dict[str, str]:
    """Run protoc; return each generated file's text by its path below the root of the generated code.

    Raises:
        RuntimeError: protoc failed, or its output no longer has the import that must be rewritten.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--python_out={folder}",
                f"--pyi_out={folder}",
                f"--grpc_python_out={folder}",
                PROTO,
            ]
        )
        if code != 0:
            raise RuntimeError(f"protoc ended with exit code {code} on {PROTO}")
        root = Path(folder)
        files = {
            path.relative_to(root).as_posix(): path.read_text(encoding="utf-8")
            for path in sorted(root.rglob("*.py*"))
        }
    grpc_file = "adpfl/v1/federation_pb2_grpc.py"
    if IMPORT_AS_GENERATED not in files[grpc_file]:
        raise RuntimeError(
            f"{grpc_file} lacks {IMPORT_AS_GENERATED!r}; protoc's plugin has changed its imports"
        )
    files[grpc_file] = files[grpc_file].replace(IMPORT_AS_GENERATED, IMPORT_AS_PLACED)
    return {**files, **PACKAGE_MARKS}


def drifted(files: dict[str, str]) -> list[str]:
    """Paths below the generated root that differ, are absent, or should not be there."""
    present = {
        path.relative_to(GENERATED_ROOT).as_posix()
        for path in (GENERATED_ROOT / "adpfl").rglob("*.py*")
        if path.suffix in {".py", ".pyi"}
    }
    changed = {
        name
        for name in files.keys() & present
        if (GENERATED_ROOT / name).read_text(encoding="utf-8") != files[name]
    }
    return sorted(changed | (files.keys() ^ present))


def main(arguments: list[str] | None = None) -> int:
    """Generate or check; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 on drift")
    options = parser.parse_args(arguments)
    files = generate()
    if options.check:
        names = drifted(files)
        if names:
            sys.stderr.write(
                f"error: generated code differs from {PROTO}: {', '.join(names)}; run `make proto`\n"
            )
        return 1 if names else 0
    for name, text in files.items():
        target = GENERATED_ROOT / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
