"""Tasks by name: built in, from other packages, and what is said where a name leads nowhere."""

import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from adpfl.errors import ConfigError
from adpfl.tasks.registry import _BUILT_IN, get_task, known_tasks

Install = Callable[[str, str, str], None]
RETINA = """
from adpfl.tasks.skin_lesion import SkinLesion

class Retina(SkinLesion):
    name = "retina"
"""


@pytest.mark.parametrize(
    "name",
    [
        f"{base}{kind}"
        for base in ("brain_tumor", "kidney_tumor", "skin_lesion")
        for kind in ("", "_presence")
    ],
)
def test_the_built_in_tasks_are_known_without_installation(name: str) -> None:
    assert name in known_tasks()
    task = get_task(name)
    assert task.name == name
    assert len(task.surface_tolerances) == len(task.structures)


def test_entry_points_agree_with_the_built_in_table() -> None:
    """An installed package and a source checkout must know the same tasks."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["adpfl.tasks"]
    assert declared == {entry.name: entry.value for entry in _BUILT_IN}


def test_an_unknown_name_lists_the_known_ones(install: Install) -> None:
    install("ophthalmology", "retina = ophthalmology:Retina", RETINA)
    with pytest.raises(ConfigError, match=r"task is 'skin'; must be one of: .*retina, skin_lesion") as raised:
        get_task("skin")
    assert raised.value.exit_code == 2


def test_another_package_adds_a_task(install: Install) -> None:
    install("eyes", "retina = eyes:Retina", RETINA)
    assert "retina" in known_tasks()
    assert list(known_tasks()) == sorted(known_tasks())
    assert get_task("retina").name == "retina"


def test_listing_imports_neither_the_package_nor_torch(install: Install) -> None:
    install("explosive", "bang = explosive:Bang", "raise RuntimeError('imported')")
    assert "bang" in known_tasks()
    code = "import sys; import adpfl.tasks.registry as r; r.known_tasks(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_two_packages_with_one_name_are_refused(install: Install) -> None:
    install("first", "retina = first:Retina", RETINA)
    install("second", "retina = second:Retina", RETINA)
    with pytest.raises(ConfigError, match=r"registered more than once \(first:Retina, second:Retina\)"):
        get_task("retina")


def test_no_package_can_take_a_built_in_name(install: Install) -> None:
    install("usurper", "skin_lesion = usurper:Retina", RETINA)
    with pytest.raises(ConfigError, match="'skin_lesion' is registered more than once"):
        get_task("skin_lesion")


@pytest.mark.parametrize(
    ("package", "entry_point", "rule"),
    [
        ("broken_a", "x = broken_a:Absent", "cannot be imported"),
        ("broken_b", "x = nowhere.to.be_found:X", "cannot be imported"),
        ("broken_c", "x = broken_c:NotATask", "is not a subclass of adpfl.tasks.task.Task"),
        ("broken_d", "x = broken_d:Retina", "calls itself 'retina'; names must agree"),
        ("broken_e", "x = broken_e:Abstract", "is abstract"),
    ],
)
def test_what_is_no_task_is_refused(install: Install, package: str, entry_point: str, rule: str) -> None:
    more = (
        "\nclass NotATask: pass\n\nfrom adpfl.tasks.task import Task\nclass Abstract(Task):\n    name = 'x'\n"
    )
    install(package, entry_point, RETINA + more)
    with pytest.raises(ConfigError, match=f"task 'x'.*{rule}"):
        get_task("x")
