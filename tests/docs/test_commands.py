"""Every command that a page shows exists, with every option that it shows."""

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import adpfl.experiment.cli
import adpfl_client.cli
import adpfl_server.cli
from adpfl.tasks.registry import known_tasks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
APPS = {
    "adpfl": adpfl.experiment.cli.app,
    "adpfl-server": adpfl_server.cli.app,
    "adpfl-client": adpfl_client.cli.app,
}
NAMES = r"adpfl(?:-server|-client)?"
IN_BLOCK = re.compile(rf"^({NAMES} .+)$", re.MULTILINE)
IN_TEXT = re.compile(rf"`({NAMES} [^`]+)`")


def commands_of(text):
    blocks = re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)
    shown = [line for block in blocks for line in IN_BLOCK.findall(block.replace("\\\n", " "))]
    return shown + IN_TEXT.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL))


SHOWN = [(page.name, command) for page in PAGES for command in commands_of(page.read_text(encoding="utf-8"))]


def unknown_part(line):
    """The first word that is neither a subcommand where one must stand nor a known option, or None."""
    words = shlex.split(line, comments=True)
    command = typer.main.get_command(APPS[words[0]])
    known = {option for parameter in command.params for option in parameter.opts}
    expects_subcommand = hasattr(command, "commands")
    for word in words[1:]:
        if word.startswith("-"):
            if word.partition("=")[0] not in known | {"--help", "-h"}:
                return word
        elif expects_subcommand:
            if word not in command.commands:
                # A group's own option may take a value: `adpfl-server --config server.yaml`.
                if "--config" in words or "--site" in words:
                    continue
                return word
            command = command.commands[word]
            known |= {option for parameter in command.params for option in parameter.opts}
            expects_subcommand = hasattr(command, "commands")
    return None


def test_pages_show_commands():
    assert len(SHOWN) > 40


@pytest.mark.parametrize(("page", "line"), SHOWN, ids=lambda value: value)
def test_a_shown_command_exists(page, line):
    assert unknown_part(line) is None


@pytest.mark.parametrize(
    "line", ["adpfl-server exprot a b", "adpfl-server status --wach", "adpfl-client operate stop"]
)
def test_a_wrong_one_is_seen(line):
    assert unknown_part(line) is not None


def groups_of(command, *words):
    """The words that lead to each group of subcommands, the command itself first."""
    if not hasattr(command, "commands"):
        return []
    inner = [groups_of(part, *words, name) for name, part in command.commands.items()]
    return [words, *(group for groups in inner for group in groups)]


GROUPS = [(name, words) for name, app in APPS.items() for words in groups_of(typer.main.get_command(app))]


@pytest.mark.parametrize(("name", "words"), GROUPS, ids=str)
def test_no_short_help_is_cut_on_a_narrow_terminal(name, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = CliRunner().invoke(APPS[name], [*words, "--help"])
    assert shown.exit_code == 0
    listed = shown.output.partition("Commands:")[2].splitlines()
    assert len(listed) > 1
    assert [line for line in listed if line.endswith("...")] == []


@pytest.mark.parametrize("line", ["data generate", "data check", "compare", "sweep", "pretrain"])
def test_the_help_of_a_task_names_every_task(line):
    shown = CliRunner().invoke(APPS["adpfl"], [*line.split(), "--help"])
    assert [task for task in known_tasks() if task not in shown.output] == []


def test_the_sites_first_file_may_be_for_every_task():
    shown = CliRunner().invoke(APPS["adpfl-client"], ["init", "--help"])
    assert [task for task in known_tasks() if task not in shown.output] == []
