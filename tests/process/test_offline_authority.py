"""A consortium whose authority's key never comes to the server: real commands, files carried by hand."""

import json
import shutil
import subprocess

import pytest

pytestmark = [pytest.mark.process, pytest.mark.timeout(300)]

SITE = "hospital1"


@pytest.fixture
def offline(federation):
    """A server and one site; `carry` takes a file of requests to the authority's machine and back."""
    federation.sites = (SITE,)
    federation.write_data(federation.root / "data" / SITE, "A", 0)
    federation.configure(federation.plan(rounds=1))
    federation.command("adpfl_server", "init-authority", "vault", "--consortium", "Lesion Study")
    shutil.copy(federation.root / "vault" / "ca.pem", federation.root / "ca.pem")

    def server(*arguments, code=0):
        return federation.command("adpfl_server", *arguments, code=code)

    def carry():
        shown = server("requests", "export", "requests.json").stdout
        signed = server("sign", "requests.json", "--authority", "vault", "--yes").stdout
        assert shown.split("wrote")[0] == signed.split("wrote")[0], "both machines show the same keys"
        return server("requests", "import", "certificates.json").stdout

    federation.server_command = server
    federation.carry = carry
    return federation


def audit_kinds(federation):
    shown = federation.server_command("audit-log", "show", "--last", "0").stdout
    return [json.loads(line)["kind"] for line in shown.splitlines()]


def test_a_consortium_is_founded_enrolled_and_renewed_by_carried_files(offline):
    server, root = offline.server_command, offline.root
    founded = server("init", "--offline-authority", "ca.pem").stdout
    assert "'Lesion Study'" in founded
    assert "waits for the authority's signature" in founded
    assert sorted(path.name for path in (root / "server" / "pki").iterdir()) == ["ca.pem", "server.key"]
    assert "waits for the authority's signature" in server(code=1).stderr
    assert "server at 127.0.0.1: certified until" in offline.carry()

    offline.start_server()
    server("enroll", SITE, "--output", "h.json")
    waiting = offline.command("adpfl_client", "enroll", "h.json", "--site", SITE, code=1).stderr
    assert "your request waits for the consortium's signature; nothing is lost" in waiting
    fingerprint = waiting.strip().rpartition("fingerprint: ")[2]
    assert fingerprint in server("requests", "list").stdout
    assert offline.command("adpfl_client", "enroll", "h.json", "--site", SITE, code=1).stderr == waiting
    patient = subprocess.Popen(
        [*offline.interpreter, "adpfl_client", "enroll", "h.json", "--site", SITE, "--wait"],
        cwd=root,
        env=offline.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert f"site {SITE}: certified until" in offline.carry()
    told, said = patient.communicate(timeout=60)
    assert f"{SITE} is enrolled with Lesion Study" in told, said

    (key,) = (root / "server" / "pki").glob("server.key")
    before = key.read_bytes()
    assert "waits for the authority's signature" in server("renew-certificate").stdout
    listed = json.loads(server("certificates", "--json").stdout)
    standings = [(row["role"], row["standing"]) for row in listed]
    assert standings == [
        ("authority", "works"),
        ("server", "works"),
        ("site", "works"),
        ("server", "renewal waits for a signature"),
    ]
    old = (root / "server" / "pki" / "server.pem").read_bytes()
    assert "server at 127.0.0.1: certified until" in offline.carry()
    assert (root / "server" / "pki" / "server.pem").read_bytes() != old
    assert key.read_bytes() == before

    offline.start_agent(SITE)
    assert offline.finish(SITE) == 0, offline.log(SITE)
    assert offline.terminate("server") == 0
    kinds = audit_kinds(offline)
    for kind, count in {
        "signature_requested": 3,
        "requests_exported": 3,
        "server_certificate_installed": 2,
        "enrolled": 1,
    }.items():
        assert kinds.count(kind) == count, kinds
    server("audit-log", "verify")
    assert not list(root.glob("server/**/ca.key"))


def test_an_online_consortium_moves_its_key_away(offline):
    server, root = offline.server_command, offline.root
    server("init")
    (root / "moved").mkdir(mode=0o700)
    shutil.move(root / "server" / "pki" / "ca.key", root / "moved" / "ca.key")
    shutil.copy(root / "server" / "pki" / "ca.pem", root / "moved" / "ca.pem")
    offline.start_server()
    assert "the authority's key is not on this machine" in offline.log("server")
    server("enroll", SITE, "--output", "h.json")
    offline.command("adpfl_client", "enroll", "h.json", "--site", SITE, code=1)
    server("requests", "export", "requests.json")
    foreign = server("sign", "requests.json", "--authority", "vault", "--yes", code=1).stderr
    assert "is for another authority" in foreign
    server("sign", "requests.json", "--authority", "moved", "--yes")
    server("requests", "import", "certificates.json")
    assert "was signed and taken before" in server("requests", "import", "certificates.json", code=1).stderr
    offline.command("adpfl_client", "enroll", "h.json", "--site", SITE)
