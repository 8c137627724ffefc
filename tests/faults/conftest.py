"""One preloaded process and one enrolled consortium for all tests; a copy and a run for each."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rig import Federation, Forge, Template, opened


@pytest.fixture(scope="session")
def clock_library(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """What moves a process's clock; None where there is no C compiler to make it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    library = tmp_path_factory.mktemp("clocks") / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    options = ["-O1", "-shared", "-fPIC", "-Wall", "-Werror"]
    subprocess.run([compiler, *options, "-o", library, source, "-ldl", "-lm"], check=True, timeout=60)
    return library


@pytest.fixture(scope="session")
def forge(clock_library: Path | None) -> Iterator[Forge]:
    made = Forge(clock_library)
    yield made
    made.close()


@pytest.fixture(scope="session")
def template(forge: Forge, tmp_path_factory: pytest.TempPathFactory) -> Template:
    return Template.make(tmp_path_factory.mktemp("consortium") / "template", forge)


@pytest.fixture
def federate(template: Template, tmp_path: Path) -> Iterator[Callable[..., Federation]]:
    """Make a federation; its processes and links end with the test."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Federation:
            root = tmp_path / "federation"
            root.mkdir()
            return stack.enter_context(opened(Federation(root, template, **settings)))

        yield make
