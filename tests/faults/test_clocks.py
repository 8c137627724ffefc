"""Clocks that jump by hours while the daemons run: the whole process sees it, gRPC and TLS included."""

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.invariants import check_all
from tests.faults.rig import Federation, Forge, Template, opened

pytestmark = [pytest.mark.process, pytest.mark.timeout(600)]

HOURS = 3600.0


class Clock:
    """The shift file of one process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.write_bytes(struct.pack("d", 0.0))

    def jump(self, seconds: float) -> None:
        """Move the wall clock so far from the true time, at once."""
        with self.path.open("r+b") as file:
            file.write(struct.pack("d", seconds))


@pytest.fixture(scope="module")
def shifted_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    """A consortium whose processes were forked where the clock can be moved."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler: the library that moves the clock cannot be made here")
    folder = tmp_path_factory.mktemp("clocks")
    library = folder / "clock_shift.so"
    source = Path(__file__).with_name("clock_shift.c")
    subprocess.run(
        [compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lm"], check=True, timeout=60
    )
    forge = Forge(preload=library)
    yield Template.make(folder / "template", forge)
    forge.close()


@pytest.fixture
def federation(shifted_template: Template, tmp_path: Path) -> Iterator[Federation]:
    root = tmp_path / "federation"
    root.mkdir()
    with opened(Federation(root, shifted_template, changes={"rounds": 3})) as made:
        yield made


@pytest.fixture
def clocks(federation: Federation, tmp_path: Path) -> dict[str, Clock]:
    return {name: Clock(tmp_path / f"{name}.clock") for name in ("server", *federation.sites)}


@pytest.fixture
def start(federation: Federation, clocks: dict[str, Clock]) -> Callable[..., None]:
    def start(*names: str) -> None:
        for name in names or tuple(clocks):
            federation.start(name, clock=clocks[name].path)

    return start


def trains(federation: Federation, site: str, number: int) -> bool:
    return any(
        entry.get("event") == "training" and entry["round"] >= number for entry in federation.logged(site)
    )


def committed(federation: Federation, site: str, number: int) -> bool:
    return any(
        entry.get("event") == "update committed" and entry["round"] >= number
        for entry in federation.logged(site)
    )


def test_the_processes_see_the_clock_that_they_are_given(federation, clocks, start):
    clocks["server"].jump(24 * HOURS)
    start("server")
    federation.wait_until(lambda: "serving" in federation.events("server"), "the server to serve")
    clocks["hospital1"].jump(-24 * HOURS)
    start("hospital1")  # its certificate is of tomorrow, as it thinks
    federation.wait_until(lambda: federation.running["hospital1"].code() is not None, "hospital1 to give up")
    assert federation.running.pop("hospital1").code() == 1
    assert "not valid before" in federation.log("hospital1") or "not yet valid" in federation.log("hospital1")
    (created,) = [one for one in federation.logged("server") if one.get("kind") == "run_created"]
    (listening,) = [one for one in federation.logged("server") if one.get("event") == "serving"]
    assert created["timestamp"][:10] == listening["timestamp"][:10]


@pytest.mark.parametrize("hours", [3.0, -3.0, 0.05, -0.05])
def test_the_servers_clock_jumps_in_the_middle_of_a_round(federation, clocks, start, hours):
    """Backwards the sites' certificates are of the future for it; connections that stand go on."""
    start()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    clocks["server"].jump(hours * HOURS)
    federation.finish()
    check_all(federation)


@pytest.mark.parametrize("hours", [3.0, 0.05, -0.05])
def test_a_sites_clock_jumps_in_the_middle_of_a_round(federation, clocks, start, hours):
    start()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    clocks["hospital1"].jump(hours * HOURS)
    federation.finish()
    check_all(federation)


def test_a_site_whose_clock_jumps_back_spends_nothing_until_a_person_has_looked(federation, clocks, start):
    start()
    federation.wait_until(lambda: trains(federation, "hospital1", 1), "hospital1 to train")
    clocks["hospital1"].jump(2 * HOURS)
    federation.wait_until(lambda: committed(federation, "hospital1", 2), "an entry of the future")
    clocks["hospital1"].jump(0.0)  # the time server was mended
    federation.wait_until(
        lambda: federation.running["hospital1"].code() is not None or federation.is_over(), "a refusal"
    )
    if federation.running["hospital1"].code() == 0:
        pytest.skip("the run was over before the clock was mended")
    assert federation.running.pop("hospital1").code() == 1
    assert "clock" in federation.log("hospital1")
    status = federation.status()
    assert "hospital1 refuses the run (ledger.clock)" in status["summary"]
    federation.command(
        "adpfl_client", "acknowledge-clock", "--site", "hospital1", "--reason", "a test", "--by", "the test"
    )
    start("hospital1")
    federation.finish()
    check_all(federation)


def test_a_jump_of_the_servers_clock_is_no_silence(shifted_template, tmp_path):
    """A round must not close without a site that is at work, only because the time of day has changed."""
    root = tmp_path / "federation"
    root.mkdir()
    clock = Clock(tmp_path / "server.clock")
    deadline = {"cohort": {"sites": ["hospital1", "hospital2", "hospital3"], "quorum": 2}}
    with opened(Federation(root, shifted_template, changes={"rounds": 1} | deadline)) as federation:
        federation.links["hospital3"].slow(megabits_per_second=4.0)
        federation.start("server", clock=clock.path)
        for site in federation.sites:
            federation.start(site)
        federation.wait_until(
            lambda: all(committed(federation, site, 1) for site in ("hospital1", "hospital2")), "two updates"
        )
        assert not committed(federation, "hospital3", 1)
        clock.jump(0.5 * HOURS)  # the deadline is an hour
        federation.finish()
        check_all(federation)
        (closed,) = federation.record()["rounds"]
        assert closed["missing"] == [], federation.record()["timeline"]


def test_a_server_whose_clock_falls_behind_the_sites_certificates_and_is_mended(federation, clocks, start):
    """No site is let in, none gives up, and the run goes on when the clock is right again."""
    start("server")
    federation.wait_until(lambda: "serving" in federation.events("server"), "the server")
    clocks["server"].jump(-3 * HOURS)
    start(*federation.sites)
    federation.wait_until(
        lambda: all("call failed; will try again" in federation.events(site) for site in federation.sites),
        "every site to be turned away",
    )
    clocks["server"].jump(0.0)
    federation.finish()
    check_all(federation)


def test_a_server_does_not_start_before_its_own_authority_is_valid(federation, clocks, start):
    clocks["server"].jump(-3 * HOURS)
    start("server")
    federation.wait_until(lambda: federation.running["server"].code() is not None, "the server to give up")
    assert federation.running.pop("server").code() == 1
    assert "not valid before" in federation.log("server")
    assert federation.log("server").count("\n") == 1
