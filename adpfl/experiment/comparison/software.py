"""What computed a cell, by name and version: part of what was run, exactly."""

import platform
from importlib.metadata import version

_PACKAGES = ("adpfl", "torch", "monai", "numpy")


def software_versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide figures, and the active kernels."""
    from adpfl.kernels import ops  # noqa: PLC0415 - brings torch

    found = {package: _version(package) for package in _PACKAGES}
    return {**found, "python": platform.python_version(), "kernels": ops.active_backend()}


def _version(package: str) -> str:
    if package == "adpfl":
        from adpfl import __version__  # noqa: PLC0415 - a source checkout may not be installed

        return __version__
    return version(package)
