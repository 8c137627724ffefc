"""Which configuration a command is about: `--config`, before the subcommand or after it."""

# ruff: noqa: PLC0415 - imports stand inside the functions: `--help` answers at once

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from adpfl_server.config import ServerConfig

DEFAULT_CONFIG = Path("server.yaml")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", metavar="FILE", help="The server's configuration; default: server.yaml."),
]


def path_of(config: Path | None, context: typer.Context) -> Path:
    """`--config` after the subcommand, before it, or the default."""
    before: Path | None = context.obj
    return config or before or DEFAULT_CONFIG


def load(config: Path | None, context: typer.Context) -> "ServerConfig":
    """Read the configuration that the command line names.

    Raises:
        ConfigError: there is none, or it breaks a rule.
    """
    from adpfl_server.config import load_server_config

    return load_server_config(path_of(config, context))
