"""The generated code is what the contract gives, and is found out when it is not."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "proto" / "generate.py"


@pytest.fixture(scope="module")
def generate():
    pytest.importorskip("grpc_tools", reason="grpcio-tools is a development tool")
    spec = importlib.util.spec_from_file_location("generate", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def files(generate):
    return generate.generate()


def test_nothing_has_drifted(generate, files):
    assert generate.drifted(files) == []


def test_a_change_an_absence_and_an_extra_file_are_drift(generate, files, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "GENERATED_ROOT", tmp_path)
    assert set(generate.drifted(files)) == set(files)
    assert generate.main([]) == 0
    assert generate.drifted(files) == []
    (tmp_path / "adpfl/v1/federation_pb2.py").write_text("# edited")
    (tmp_path / "adpfl/v1/other_pb2.py").write_text("# left over")
    assert generate.drifted(files) == ["adpfl/v1/federation_pb2.py", "adpfl/v1/other_pb2.py"]


def test_the_check_changes_nothing_and_fails_on_drift(generate, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(generate, "GENERATED_ROOT", tmp_path)
    assert generate.main(["--check"]) == 1
    assert "make proto" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
