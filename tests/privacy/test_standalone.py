"""The privacy package can be had alone."""

import subprocess
import sys
from pathlib import Path

BLOCKED = """
import sys
for name in ("grpc", "google.protobuf"):
    sys.modules[name] = None
import adpfl.privacy.engine, adpfl.privacy.accounting, adpfl.privacy.ledger, adpfl.privacy.thresholds
"""


def test_imports_with_grpc_and_protobuf_blocked() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_accounting_and_ledger_rules_need_no_torch() -> None:
    root = Path(__file__).parents[2]
    code = "import sys, adpfl.privacy.ledger, adpfl.privacy.guarantee; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
