"""One preloaded process and one enrolled consortium for all tests; a copy and a run for each."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults.rig import Federation, Forge, Template, opened


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    made = Forge()
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
