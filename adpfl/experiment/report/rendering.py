"""Templates into pages: one file each that loads nothing, runs no script and escapes every name."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

import adpfl
from adpfl.experiment.report.palette import DARK, LIGHT, css_variables
from adpfl.experiment.report.words import prose


def rendered(template: str, context: Mapping[str, Any], *, css: Sequence[str]) -> str:
    """A page from a template of this package that extends `layout.html.j2`.

    Args:
        template: its file, below this package.
        context: what it shows; everything but `Markup` is escaped.
        css: style sheets of this package, in their order.
    """
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["prose"] = prose
    frame = {
        "version": adpfl.__version__,
        "light": Markup(css_variables(LIGHT)),  # noqa: S704 - constants of this package
        "dark": Markup(css_variables(DARK)),  # noqa: S704 - constants of this package
        "css": Markup("".join(_resource(name) for name in css)),  # noqa: S704 - files of this package
    }
    return environment.get_template(template).render(**frame, **context) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8; it appears whole or not at all."""
    unfinished = path.with_name(path.name + ".partial")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def css_color(rgb: tuple[int, int, int]) -> str:
    """`#rrggbb` of red, green and blue, each 0 to 255."""
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
