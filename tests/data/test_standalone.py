"""Reading data needs no torch: the server's machine and a data steward's laptop can look through a folder."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_data_is_read_without_torch() -> None:
    paths = sorted((ROOT / "adpfl" / "data").rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    assert len(names) > 20
    program = (
        "import importlib, sys\n"
        "sys.modules['torch'] = sys.modules['monai'] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
