"""The Makefile: every target is explained and can be planned, and what is missing is named."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments):
    """Run make as from a shell, although these tests may be run by another make."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def test_help_explains_every_target():
    explained = re.findall(r"^  make (\S+) +\S", make().stdout, re.MULTILINE)
    assert sorted(explained) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_can_be_planned_from_a_fresh_clone(target, tmp_path):
    done = make("--dry-run", target, f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_an_old_python_is_refused_by_name(tmp_path):
    old = tmp_path / "python3"
    old.write_text(f"#!{sys.executable}\nimport sys\nsys.version_info = (3, 9, 2)\nexec(sys.argv[2])\n")
    old.chmod(0o755)
    done = make("install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "adpfl needs Python 3.11 or later" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_new_sources_of_the_kernels_are_compiled_by_the_next_install(tmp_path):
    """Behind an installation newer than everything else; `make --what-if` takes a file for changed."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").touch()
    (tmp_path / ".installed").touch()
    quiet, changed = (
        make("-n", "install", f"VENV={tmp_path}"),
        make("-n", "install", f"VENV={tmp_path}", "--what-if=csrc/cpu/draws.h"),
    )
    assert "--editable" not in quiet.stdout
    assert "--editable" in changed.stdout
