"""A run is closed to every site that its plan does not name, call by call."""

from contextlib import nullcontext

import grpc
import pytest
from structlog.testing import capture_logs

from adpfl.wire import messages, transfers

ROUND = 1


@pytest.fixture
def calls(joined):
    """Every call that names a run, as a site of the run would make it, by method; each needs a run's name."""
    member = joined[0]
    base = member.next_task().base_digest
    manifest, _ = member.fetch(base)
    update = transfers.OfferRequest("demo", ROUND, base, manifest)

    def once(request):
        return lambda stub, method, run: getattr(stub, method)(request(run).to_wire(), timeout=20)

    def push(stub, method, run):
        header = transfers.PushHeader(run, ROUND, update.manifest.digest).to_wire()
        return getattr(stub, method)(iter((header,)), timeout=20)

    return {
        "NextTask": once(lambda run: messages.NextTaskRequest(run, 0)),
        "Have": once(lambda run: transfers.HaveRequest(run, base)),
        "Fetch": lambda stub, method, run: list(
            getattr(stub, method)(
                transfers.FetchRequest(run, base, manifest.chunk_digests[:1]).to_wire(), timeout=20
            )
        ),
        "Offer": once(lambda run: transfers.OfferRequest(run, ROUND, base, manifest)),
        "Push": push,
        "CommitUpdate": once(
            lambda run: transfers.CommitUpdateRequest(run, ROUND, base, manifest.digest, "")
        ),
        "ReportMetrics": once(lambda run: messages.ReportMetricsRequest(run, ROUND, {})),
        "Heartbeat": once(lambda run: messages.HeartbeatRequest(run, ROUND, messages.SiteActivity.LEFT)),
    }


METHODS = ("NextTask", "Have", "Fetch", "Offer", "Push", "CommitUpdate", "ReportMetrics", "Heartbeat")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("run", "code", "words"),
    [
        ("demo", grpc.StatusCode.PERMISSION_DENIED, "run demo does not name site hospital9"),
        ("other", grpc.StatusCode.NOT_FOUND, "there is no run other"),
    ],
)
def test_a_stranger_to_the_run_is_refused(running, calls, method, run, code, words):
    stranger = running.caller("hospital9")
    with pytest.raises(grpc.RpcError) as error:
        calls[method](stranger.stub, method, run)
    assert (error.value.code(), error.value.details()) == (code, words)


@pytest.mark.parametrize("method", METHODS)
def test_a_site_of_the_run_is_not_refused_for_being_a_stranger(joined, calls, method):
    announced = method not in {"Push", "CommitUpdate"}
    refused = nullcontext() if announced else pytest.raises(grpc.RpcError, match="was not announced")
    with refused:
        calls[method](joined[1].stub, method, "demo")


@pytest.mark.parametrize(("run", "level"), [("other", "info"), ("demo", "warning")])
def test_the_log_warns_of_a_foreign_run_and_not_of_a_question_about_none(running, calls, run, level):
    stranger = running.caller("hospital9")
    with capture_logs() as logs, pytest.raises(grpc.RpcError):
        calls["NextTask"](stranger.stub, "NextTask", run)
    assert [line["log_level"] for line in logs if line["event"] == "call refused"] == [level]
