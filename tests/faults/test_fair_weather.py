"""Without a fault the rig runs a federation, and the invariants find what is wrong with it."""

import copy
import shutil
import sqlite3

import pytest

from tests.faults.invariants import check_all, database_of
from tests.faults.rig import Federation, opened
from tests.faults.witness import RELEASES_FILE

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]


def test_a_run_without_faults_holds_every_invariant(federate):
    federation = federate()
    federation.start_all()
    federation.finish()
    check_all(federation)


def lose_a_commit(federation):
    database = sqlite3.connect(database_of(federation.root))
    database.execute("DELETE FROM commits WHERE site = 'hospital1' AND round = 1")
    database.commit()
    database.close()


def draw_without_paying(federation):
    path = federation.root / "state" / "hospital2" / RELEASES_FILE
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def change_a_model(federation):
    for path in (federation.root / "state").glob("*/models/*/round-0001.safetensors"):
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def change_an_update(federation):
    """As if the server had added up something else than what the site sealed."""
    for path in (federation.root / "state" / "hospital3").rglob("update.payload"):
        data = bytearray(path.read_bytes())
        data[-2] ^= 64
        path.write_bytes(data)


def damage_a_chunk(federation):
    path = next((federation.root / "server" / "blobs").glob("[0-9a-f][0-9a-f]/*"))
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def say_something_unforeseen(federation):
    with (federation.root / "server.log").open("a") as log:
        log.write("Traceback (most recent call last):\n")


@pytest.fixture(scope="module")
def ended(template, tmp_path_factory):
    root = tmp_path_factory.mktemp("ended") / "federation"
    root.mkdir()
    with opened(Federation(root, template)) as federation:
        federation.start_all()
        federation.finish()
        yield federation


@pytest.mark.parametrize(
    "wrong",
    [
        lose_a_commit,
        draw_without_paying,
        change_a_model,
        change_an_update,
        damage_a_chunk,
        say_something_unforeseen,
    ],
)
def test_the_invariants_notice(ended, tmp_path, wrong):
    copied = copy.copy(ended)
    copied.root = tmp_path / "copy"
    shutil.copytree(ended.root, copied.root, symlinks=True)
    check_all(copied)
    wrong(copied)
    with pytest.raises(AssertionError):
        check_all(copied)
