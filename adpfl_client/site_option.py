"""For which site a command is: `--site` and `--config`, before the subcommand or after it."""

# ruff: noqa: PLC0415 - imports stand inside the functions: `--help` answers at once

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adpfl_client.config import SiteConfig

SiteOption = Annotated[
    str | None,
    typer.Option(
        "--site", metavar="NAME", help="This site's name; finds NAME.yaml in ./sites or /etc/adpfl/sites."
    ),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="The site's configuration file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@dataclass(frozen=True)
class Where:
    """`--site` and `--config` as they stand before the subcommand."""

    site: str | None
    config: Path | None


def where_of(context: typer.Context, site: str | None, config: Path | None) -> Where:
    """What the options say: after the subcommand, or else before it."""
    before: Where = context.obj
    return Where(site or before.site, config or before.config)


def load(context: typer.Context, site: str | None = None, config: Path | None = None) -> "SiteConfig":
    """Read the configuration that the options name.

    Raises:
        ConfigError: there is none, or it breaks a rule.
    """
    return load_from(where_of(context, site, config))


def load_from(where: Where) -> "SiteConfig":
    """The same, of a known place."""
    from adpfl_client.config import load_site_config

    return load_site_config(where.site, where.config)


def settle_tls() -> None:
    """Set the TLS policy; in each command that loads gRPC, before it does."""
    from adpfl.security.tls import require_tls13

    require_tls13()
