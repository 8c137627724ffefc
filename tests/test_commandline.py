"""What a command prints and returns when it fails."""

import pytest
import typer

from adpfl import __version__
from adpfl.commandline import run_command, show_version
from adpfl.errors import ConfigError, DataError


@pytest.fixture(autouse=True)
def no_debug(monkeypatch):
    monkeypatch.setattr("sys.argv", ["adpfl"])
    monkeypatch.setenv("ADPFL_DEBUG", "0")


def failing(error: BaseException):
    def app() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (DataError("case ISIC_1 has no mask"), 1, "error: case ISIC_1 has no mask\n"),
        (ConfigError("rounds is 0;\nmust be > 0"), 2, "error: rounds is 0; must be > 0\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_one_line_and_the_exit_code(capsys, error, code, text):
    with pytest.raises(SystemExit) as caught:
        run_command(failing(error))
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_an_unforeseen_error_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as caught:
        run_command(failing(ZeroDivisionError("division by zero")))
    assert caught.value.code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ZeroDivisionError" in err
    assert "--debug" in err


def test_debug_adds_the_traceback(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["adpfl", "--debug"])
    with pytest.raises(SystemExit):
        run_command(failing(DataError("no mask")))
    assert "Traceback" in capsys.readouterr().err


def test_a_command_that_succeeds_returns():
    run_command(lambda: None)


def test_version_ends_before_anything_else(capsys):
    show_version(wanted=False)
    assert not capsys.readouterr().out
    with pytest.raises(typer.Exit):
        show_version(wanted=True)
    assert capsys.readouterr().out == f"adpfl {__version__}\n"
