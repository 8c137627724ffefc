"""Control messages: what is sent arrives as it was, and what breaks a limit names its field."""

import hashlib

import pytest

from adpfl.errors import ProtocolError
from adpfl.wire import limits, messages
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import RunStatus, SiteActivity, TaskKind
from adpfl.wire.receipts import CommitOutcome, Receipt, SignedReceipt

HEX = "ab" * 32
INSTANCE = "0f" * 16
PLAN = b'{"run":"demo"}'

RECEIPT = Receipt("demo", 1, "hospital1", HEX, HEX, HEX, CommitOutcome.ACCEPTED, received_unix_millis=5)

GOOD = [
    messages.EnrollRequest("site", "hospital1", "token", b"csr"),
    messages.EnrollResponse(b"-----BEGIN"),
    messages.EnrollResponse(b"", awaits_signature=True),
    messages.JoinRequest("hospital1", INSTANCE, "1.0", None, {"skin_lesion": 12}),
    messages.JoinRequest("hospital1", INSTANCE, "1.0", "demo", {}),
    messages.RunOffer("demo", PLAN, hashlib.sha256(PLAN).hexdigest(), RunStatus.RUNNING),
    messages.JoinResponse((), "1.0", INSTANCE),
    messages.JoinResponse((), "1.0", INSTANCE, SignedReceipt(RECEIPT, b"signature")),
    messages.NextTaskRequest("demo", 30),
    messages.NextTaskResponse(TaskKind.WAIT, wait_hint_seconds=3, detail="later"),
    messages.NextTaskResponse(TaskKind.TRAIN, 3, HEX),
    messages.NextTaskResponse(TaskKind.FINISHED, 9, HEX),
    messages.NextTaskResponse(TaskKind.FAILED, detail="why"),
    messages.ReportMetricsRequest("demo", 2, {"dice": 0.5}),
    messages.HeartbeatRequest("demo", 1, SiteActivity.TRAINING, 3, 10),
    messages.HeartbeatRequest("demo", 0, SiteActivity.REFUSED, detail="over budget"),
    messages.HeartbeatResponse(obsolete=True),
]


@pytest.mark.parametrize("message", GOOD, ids=lambda message: type(message).__name__)
def test_what_is_sent_arrives(message):
    wire = message.to_wire()
    received = type(wire).FromString(wire.SerializeToString())
    assert type(message).from_wire(received) == message


BAD = [
    (
        messages.EnrollRequest,
        pb.EnrollRequest(name="../x", token="t", certificate_signing_request=b"c"),
        "name",
    ),
    (
        messages.EnrollRequest,
        pb.EnrollRequest(name="a", token="t" * 257, certificate_signing_request=b"c"),
        "token",
    ),
    (
        messages.EnrollRequest,
        pb.EnrollRequest(name="a", token="t", certificate_signing_request=b"c" * 8193),
        "certificate_signing_request",
    ),
    (messages.EnrollResponse, pb.EnrollResponse(), "certificate_chain"),
    *(
        (
            messages.HeartbeatRequest,
            pb.HeartbeatRequest(run="demo", activity=1, detail=f"over{odd}budget"),
            "detail",
        )
        for odd in ("\n", "\r", "\x1b[2J", "\x00", "\x9b1m", "\u202e", "\u2028", "\u200b")
    ),
    (
        messages.JoinRequest,
        pb.JoinRequest(site="a", instance_id=INSTANCE, software_version="1\x1b"),
        "software_version",
    ),
    (
        messages.EnrollResponse,
        pb.EnrollResponse(certificate_chain=b"-", awaits_signature=True),
        "certificate_chain",
    ),
    (messages.JoinRequest, pb.JoinRequest(site="Hospital", instance_id=INSTANCE), "site"),
    (messages.JoinRequest, pb.JoinRequest(site="a", instance_id="F" * 32), "instance_id"),
    (messages.JoinRequest, pb.JoinRequest(site="a", instance_id=INSTANCE, run="a b"), "run"),
    (
        messages.JoinRequest,
        pb.JoinRequest(site="a", instance_id=INSTANCE, training_patients={"skin": 0}),
        "training_patients",
    ),
    (
        messages.JoinRequest,
        pb.JoinRequest(site="a", instance_id=INSTANCE, training_patients={f"t{n}": 1 for n in range(65)}),
        "training_patients",
    ),
    (
        messages.JoinRequest,
        pb.JoinRequest(site="a", instance_id=INSTANCE, software_version="v" * 1025),
        "software_version",
    ),
    (
        messages.RunOffer,
        pb.RunOffer(run="a", plan_json=PLAN, plan_digest=b"\0" * 32, status=1),
        "plan_digest",
    ),
    (
        messages.RunOffer,
        pb.RunOffer(run="a", plan_json=b"x" * (2**20 + 1), plan_digest=b"\0" * 32, status=1),
        "plan_json",
    ),
    (
        messages.RunOffer,
        pb.RunOffer(run="a", plan_json=PLAN, plan_digest=hashlib.sha256(PLAN).digest()),
        "status",
    ),
    (messages.JoinResponse, pb.JoinResponse(server_instance_id="x"), "server_instance_id"),
    (messages.NextTaskRequest, pb.NextTaskRequest(run="a", wait_seconds=31), "wait_seconds"),
    (messages.NextTaskResponse, pb.NextTaskResponse(), "kind"),
    (messages.NextTaskResponse, pb.NextTaskResponse(kind=2, round=1), "base_digest"),
    (messages.NextTaskResponse, pb.NextTaskResponse(kind=2, base_digest=b"\0" * 32), "round"),
    (messages.NextTaskResponse, pb.NextTaskResponse(kind=2, round=1, base_digest=b"\0" * 31), "base_digest"),
    (
        messages.ReportMetricsRequest,
        pb.ReportMetricsRequest(run="a", metrics=[pb.Metric(name="x", value=float("nan"))]),
        "metrics.x",
    ),
    (
        messages.ReportMetricsRequest,
        pb.ReportMetricsRequest(run="a", metrics=[pb.Metric(name="x"), pb.Metric(name="x")]),
        "metrics",
    ),
    (messages.HeartbeatRequest, pb.HeartbeatRequest(run="a"), "activity"),
    (
        messages.HeartbeatRequest,
        pb.HeartbeatRequest(run="a", activity=3, steps_done=5, steps_total=4),
        "steps_done",
    ),
    (messages.HeartbeatRequest, pb.HeartbeatRequest(run="a", activity=5, detail="ü" * 600), "detail"),
]


@pytest.mark.parametrize(("kind", "wire", "field"), BAD)
def test_what_breaks_a_limit_is_refused_by_field(kind, wire, field):
    with pytest.raises(ProtocolError, match=rf"^{kind.__name__}\.{field}"):
        kind.from_wire(wire)


def test_secrets_do_not_show():
    shown = repr(messages.EnrollRequest("site", "hospital1", "very-secret", b"request"))
    assert "very-secret" not in shown


def test_an_unknown_value_of_a_newer_peer_is_refused_with_the_known_ones():
    with pytest.raises(ProtocolError, match="2 TRAIN"):
        messages.NextTaskResponse.from_wire(pb.NextTaskResponse(kind=17))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(RunStatus, pb.RunStatus), (TaskKind, pb.TaskKind), (SiteActivity, pb.SiteActivity)],
    ids=["RunStatus", "TaskKind", "SiteActivity"],
)
def test_enumerations_match_the_contract(ours, theirs):
    named = {name.split("_", 2)[-1]: number for name, number in theirs.items() if number}
    assert {member.name: member.value for member in ours} == named


@pytest.mark.parametrize(
    ("receipt", "field"),
    [
        (pb.SignedReceipt(receipt=RECEIPT.to_wire()), r"SignedReceipt\.signature"),
        (pb.SignedReceipt(receipt=RECEIPT.to_wire(), signature=b"s" * 129), r"SignedReceipt\.signature"),
        (pb.SignedReceipt(signature=b"s"), r"Receipt\."),
    ],
)
def test_a_remembered_receipt_that_is_not_whole_is_refused(receipt, field):
    answer = pb.JoinResponse(server_instance_id=INSTANCE, newest_receipt=receipt)
    with pytest.raises(ProtocolError, match=f"^{field}"):
        messages.JoinResponse.from_wire(answer)


@pytest.mark.parametrize("text", ["", "über dem Budget (ε = 8,0)", "予算", "12\u202f000\u00a0€"])
def test_text_of_any_language_passes(text):
    message = messages.HeartbeatRequest("demo", 1, SiteActivity.REFUSED, detail=text)
    assert messages.HeartbeatRequest.from_wire(message.to_wire()) == message
    assert limits.shown_text(text) == text


@pytest.mark.parametrize("text", ["a\nb\x1b[0mc", "x" * 5000, "ü" * 5000, "\u202e" * 3, "\ud800"])
def test_shown_text_passes_the_check(text):
    shown = limits.shown_text(text)
    limits.check_text("detail", shown)
    assert shown[:1] == (text[:1] if text[0].isprintable() else " ")
    assert shown.endswith("...") == (len(text) > 1000)
