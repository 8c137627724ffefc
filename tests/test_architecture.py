"""The directions of the house: who may import whom, read from the source itself."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("adpfl", "adpfl_server", "adpfl_client")

LAYERS = [
    {"adpfl.errors", "adpfl.config", "adpfl.kill_points"},
    {"adpfl.kernels"},
    {"adpfl.privacy", "adpfl.data"},
    {"adpfl.federated", "adpfl.learning", "adpfl.tasks", "adpfl.evaluation", "adpfl.wire", "adpfl.security"},
    {"adpfl.commandline", "adpfl.logs"},
    {"adpfl_server", "adpfl_client", "adpfl.experiment"},
]
TORCH_FREE = [
    "adpfl_server",
    "adpfl.federated",
    "adpfl.wire",
    "adpfl.security",
    "adpfl.config",
    "adpfl.privacy.plan",
    "adpfl.learning.plan",
    "adpfl.learning.trainable",
]


def room(module: str) -> str | None:
    """`adpfl.kernels` for adpfl.kernels.lattice, `adpfl_server` for adpfl_server.cli, None for `adpfl`."""
    parts = module.split(".")
    if parts[0] in {"adpfl_server", "adpfl_client"}:
        return parts[0]
    if parts[0] == "adpfl" and len(parts) > 1:
        return ".".join(parts[:2])
    return None


def level(name: str) -> int:
    return next(index for index, layer in enumerate(LAYERS) if name in layer)


def modules() -> list[tuple[str, Path]]:
    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            found.append((dotted, path))
    return found


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import; imports are absolute"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def test_the_walk_sees_the_house():
    seen = {room(name) for name, _ in modules()} - {None}
    assert seen == set().union(*LAYERS)


def test_imports_never_point_upwards():
    wrong = []
    for name, path in modules():
        here = room(name)
        if here is None or "_generated" in name:
            continue
        for imported in imports(path):
            there = room(imported)
            if there is None or there == here:
                continue
            if there not in set().union(*LAYERS):
                continue  # adpfl.__version__
            if level(there) > level(here):
                wrong.append(f"{name} imports {imported}")
    assert wrong == []


def test_the_daemons_never_import_each_other():
    other = {"adpfl_server": "adpfl_client", "adpfl_client": "adpfl_server"}
    for name, path in modules():
        for imported in imports(path):
            assert room(imported) != other.get(str(room(name)), ""), f"{name} imports {imported}"


def test_no_modules_import_each_other_in_a_circle():
    """Imports for types alone count: who must be named to be used is depended on."""
    names = {name for name, _ in modules()}
    left = {
        name: {
            target
            for imported in imports(path)
            for target in ({imported, imported.rpartition(".")[0]} & names)
            if target != name
        }
        for name, path in modules()
    }
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        for name in free:
            del left[name]
    assert left == {}


def loaded_after_importing(names: list[str], blocked: tuple[str, ...] = ()) -> set[str]:
    program = (
        "import sys, importlib\n"
        f"for name in {list(blocked)!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print('\\n'.join(name for name, module in sys.modules.items() if module is not None))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_server_side_starts_without_torch():
    names = [name for name, _ in modules() if (name + ".").startswith(tuple(p + "." for p in TORCH_FREE))]
    names = [name for name in names if not name.endswith("__main__")]
    loaded = loaded_after_importing(names)
    assert "adpfl_server.cli" in loaded
    assert not loaded & {"torch", "monai", "scipy", "matplotlib"}


@pytest.mark.parametrize("package", ["adpfl.privacy"])
def test_privacy_stands_without_grpc_and_protobuf(package):
    names = [name for name, _ in modules() if name == package or name.startswith(package + ".")]
    assert len(names) > 3
    loaded_after_importing(names, blocked=("grpc", "google.protobuf"))
