"""`adpfl audit`: its answer as a table and as JSON, its exit code, its refusals."""

import json
from typing import Any

import pytest
import typer
from torch import Tensor
from typer.testing import CliRunner

from adpfl.errors import ConfigError, PrivacyError
from adpfl.experiment.audit_command import audit
from adpfl.kernels import ops
from adpfl.privacy.audit.report import AuditReport

SMALL = ["--canaries", "300", "--steps", "2", "--images", "2", "--seed", "3"]


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(audit)
    return app


def test_a_sound_engine_gives_a_table_and_exit_code_0(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, SMALL)
    assert result.exit_code == 0, result.output
    for word in (
        "telling apart",
        "contribution",
        "update",
        "promise: epsilon",
        "zero-out",
        "probability 1e-06",
    ):
        assert word in " ".join(result.output.split())


def test_json_is_the_whole_report(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, [*SMALL, "--mechanism", "laplace_l2", "--json"])
    assert result.exit_code == 0, result.output
    report = AuditReport.model_validate_json(result.stdout)
    assert json.loads(result.stdout)["verdict"] == report.verdict
    assert report.guarantee.mechanism == "laplace_l2"
    assert (report.canaries, report.steps) == (300, 2)


def test_a_leaking_engine_fails_the_command(app: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ops.release

    def release(total: Tensor, *, clip_norm: float, **keys: Any) -> Tensor:
        released = honest(total, clip_norm=clip_norm, **keys)
        return total.double().mul(clip_norm / keys["lattice"].sensitivity).float() + 0.01 * released

    monkeypatch.setattr(ops, "release", release)
    result = CliRunner().invoke(app, SMALL)
    assert result.exit_code == 1
    assert "failed: MORE WAS SHOWN THAN PROMISED" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--noise-multiplier", "0"], ConfigError, "noise_multiplier"),
        (["--delta", "1"], ConfigError, "delta"),
        (["--canaries", "10000000"], PrivacyError, "canaries is 10000000; must be 100 to"),
    ],
)
def test_bad_options_are_refused(
    app: typer.Typer, options: list[str], error: type[Exception], message: str
) -> None:
    result = CliRunner().invoke(app, [*SMALL, *options])
    assert isinstance(result.exception, error)
    assert message in str(result.exception)
