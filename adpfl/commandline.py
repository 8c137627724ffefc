"""What the commands share: one line for an error, the right exit code, --debug and --version."""

import os
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from adpfl import __version__
from adpfl.errors import AdpflError

DEBUG_VARIABLE = "ADPFL_DEBUG"


def show_version(wanted: bool) -> None:  # noqa: FBT001 - the signature of an option's callback
    """Print the version and end, where it is asked for."""
    if wanted:
        typer.echo(f"adpfl {__version__}")
        raise typer.Exit


VersionOption = Annotated[
    bool,
    typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and end."),
]
"""The option `--version` of each of the commands; the parameter's default is False."""


class LogLevel(StrEnum):
    """How much a daemon says in its log."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


LogLevelOption = Annotated[LogLevel, typer.Option(help="The least level that is logged.")]
"""The option `--log-level` of the daemons."""


def run_command(app: Callable[[], object]) -> None:
    """Run a typer application and turn what goes wrong into one line on stderr and an exit code.

    0: done. 1: an operation failed. 2: bad usage or configuration. 130: interrupted. `--debug` anywhere on
    the command line, or ADPFL_DEBUG=1, adds the traceback.
    """
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG_VARIABLE] = "1"
    try:
        app()
    except AdpflError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail("interrupted", 130)
    except Exception as error:  # noqa: BLE001 - the last boundary before the person
        _fail(f"internal error: {type(error).__name__}: {error} (--debug shows the traceback)", 1)


def _fail(message: str, exit_code: int) -> None:
    if os.environ.get(DEBUG_VARIABLE) == "1":
        traceback.print_exc()
    sys.stderr.write(f"error: {' '.join(message.split())}\n")
    sys.exit(exit_code)
