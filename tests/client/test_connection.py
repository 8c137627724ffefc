"""The link: what is retried, what is final, what resumes, what is given up."""

import errno
import threading
import time

import grpc
import pytest

from adpfl.errors import DiskUnwritableError, IdentityError, IntegrityError, ProtocolError
from adpfl.security.tls import CHANNEL_OPTIONS, channel_credentials
from adpfl.wire._generated.adpfl.v1 import federation_pb2 as pb
from adpfl.wire.messages import HeartbeatRequest, JoinRequest, NextTaskRequest, SiteActivity, TaskKind
from adpfl.wire.transfers import CommitUpdateRequest, HaveRequest
from adpfl_client.connection import (
    LONGEST_PUSHBACK_SECONDS,
    RETRIED,
    Connection,
    ServerRefusalError,
    StopRequestedError,
)
from adpfl_client.rounds.models import ModelStore
from adpfl_client.rounds.partial_payload import PartialPayload
from adpfl_client.spool import Spool, SpoolKey

JOIN = JoinRequest("hospital1", "1" * 32, "0.1.0", None, {"skin_lesion": 12})


@pytest.mark.parametrize("code", sorted(RETRIED, key=lambda code: code.name))
def test_a_failing_link_is_tried_again_with_growing_waits(connection, federation, pauses, code):
    federation.service.faults["Join"] = [code] * 4
    assert connection.join(JOIN).server_instance_id == "0" * 32
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert connection.outages == 1


def test_waits_begin_anew_after_an_answer(connection, federation, pauses):
    for _ in range(2):
        federation.service.faults["Join"] = [grpc.StatusCode.UNAVAILABLE] * 2
        connection.join(JOIN)
    assert pauses == [0.5, 1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.NOT_FOUND]
)
def test_an_answer_that_no_retry_changes_is_raised_at_once(connection, federation, pauses, code):
    federation.service.faults["Join"] = [code]
    with pytest.raises(ServerRefusalError, match=f"Join: the server answered {code.name}") as raised:
        connection.join(JOIN)
    assert raised.value.code is code
    assert pauses == []


@pytest.mark.parametrize("code", [grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED])
def test_a_refused_identity_is_final(connection, federation, code):
    federation.service.faults["Join"] = [code]
    with pytest.raises(IdentityError, match=code.name):
        connection.join(JOIN)


def test_every_code_is_either_retried_or_final():
    final = set(grpc.StatusCode) - RETRIED - {grpc.StatusCode.OK}
    assert grpc.StatusCode.RESOURCE_EXHAUSTED in final
    assert grpc.StatusCode.INVALID_ARGUMENT in final
    assert grpc.StatusCode.UNAVAILABLE not in final


def test_a_server_that_says_later_is_asked_again_later(connection, federation, pauses):
    federation.service.pushbacks["Join"] = ["1500", "250", "999999999"]
    assert connection.join(JOIN).server_instance_id == "0" * 32
    assert pauses == [1.5 + 0.5, 0.25 + 1.0, LONGEST_PUSHBACK_SECONDS + 2.0]
    assert connection.outages == 0


@pytest.mark.parametrize("said", ["", "-1", "soon", "1e3", "9" * 30, "\u0663"])
def test_a_limit_that_time_does_not_mend_is_final(connection, federation, pauses, said):
    federation.service.pushbacks["Join"] = [said.encode("ascii", "replace").decode()]
    with pytest.raises(ServerRefusalError, match="RESOURCE_EXHAUSTED"):
        connection.join(JOIN)
    assert pauses == []


def test_a_server_of_another_consortium_is_not_talked_to(foreign_consortium, federation, stopping, pauses):
    channel = grpc.secure_channel(
        federation.address,
        channel_credentials(foreign_consortium.site(federation.address)),
        options=CHANNEL_OPTIONS,
    )
    stranger = Connection(channel, stopping, pause=pauses.append)
    with pytest.raises(IdentityError, match="certificate was not accepted"):
        stranger.join(JOIN)
    stranger.close()
    assert federation.service.calls == []


def test_a_model_is_fetched_over_a_link_that_breaks_and_goes_on_where_it_was(
    connection, federation, make_object, make_plan, tmp_path, pauses
):
    federation.service.base = model = make_object()
    federation.service.chunks_before_cut["Fetch"] = [1, 2]
    manifest = connection.have(HaveRequest("derm", model.manifest.digest)).manifest
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, manifest)
    connection.fetch("derm", incoming)
    assert incoming.missing == ()
    payload = b"".join(model.chunks[one] for one in manifest.chunk_digests)
    assert incoming.path.read_bytes().endswith(payload)
    assert federation.service.calls.count("Fetch") == 3
    assert pauses == [0.5, 0.5]  # each chunk is an answer


def test_a_link_that_breaks_after_the_last_chunk_has_cost_nothing(
    connection, federation, make_object, make_plan, tmp_path
):
    """All is there but the stream's own end: there is nothing left to ask for."""
    federation.service.base = model = make_object()
    federation.service.chunks_before_cut["Fetch"] = [len(model.manifest.indices_of)]
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    connection.fetch("derm", incoming)
    assert incoming.missing == ()
    assert federation.service.calls.count("Fetch") == 1


def test_a_restarted_agent_fetches_only_what_it_lacks(
    connection, federation, make_object, make_plan, tmp_path
):
    federation.service.base = model = make_object()
    first = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    held = first.missing[0]
    first.write(held, model.chunks[held])
    again = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    assert held not in again.missing
    connection.fetch("derm", again)
    assert again.missing == ()


def test_a_stream_that_stands_still_is_cut_off_and_resumed(
    connection, federation, make_object, make_plan, tmp_path
):
    federation.service.base = model = make_object()
    federation.service.stall.add("Fetch")
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    started = time.monotonic()
    connection.fetch("derm", incoming)
    assert incoming.missing == ()
    assert 0.9 < time.monotonic() - started < 30.0


def test_a_stream_that_is_slow_and_moves_is_not_cut_off(
    connection, federation, make_object, make_plan, tmp_path
):
    """It takes longer than nothing may move for, and no chunk of it does."""
    federation.service.base = model = make_object()
    federation.service.pause_seconds = 0.4
    assert len(model.manifest.indices_of) == 4
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    connection.fetch("derm", incoming)
    assert incoming.missing == ()
    assert federation.service.calls.count("Fetch") == 1


def test_a_forged_chunk_is_refused(connection, federation, make_object, make_plan, tmp_path):
    federation.service.base = model = make_object()
    federation.service.swap_chunk = b"\0" * 65_536
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    with pytest.raises(IntegrityError, match="do not match"):
        connection.fetch("derm", incoming)


def test_a_stream_that_ends_without_what_was_asked_for_is_not_asked_for_again(
    connection, federation, make_object, make_plan, tmp_path, stopping
):
    federation.service.base = model = make_object()
    federation.service.withholds = True
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    too_late = threading.Timer(10.0, stopping.set)
    too_late.start()
    with pytest.raises(ProtocolError, match=f"ended without sending chunk {incoming.missing[0][:12]}"):
        connection.fetch("derm", incoming)
    too_late.cancel()
    assert federation.service.calls.count("Fetch") == 1


def test_a_forged_chunk_is_refused_though_the_link_breaks_after_it(
    connection, federation, make_object, make_plan, tmp_path
):
    """Who forges and hangs up is not asked again for ever."""
    federation.service.base = model = make_object()
    federation.service.swap_chunk = b"\0" * 65_536
    federation.service.chunks_before_cut["Fetch"] = [1]
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    with pytest.raises(IntegrityError, match="do not match"):
        connection.fetch("derm", incoming)
    assert federation.service.calls.count("Fetch") == 1


def test_a_disk_that_refuses_a_chunk_ends_the_fetch_and_keeps_the_others(
    connection, federation, make_object, make_plan, tmp_path, monkeypatch
):
    federation.service.base = model = make_object()
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    _, refused, *_ = incoming.missing
    keep = PartialPayload.write

    def write(payload, digest, data):
        if digest == refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        keep(payload, digest, data)

    with monkeypatch.context() as full:
        full.setattr(PartialPayload, "write", write)
        with pytest.raises(DiskUnwritableError, match="No space left"):
            connection.fetch("derm", incoming)
    assert incoming.missing[0] == refused
    connection.fetch("derm", incoming)
    assert incoming.missing == ()


def test_a_stop_ends_a_stream_that_stands_still(
    connection, federation, make_object, make_plan, stopping, tmp_path, monkeypatch
):
    federation.service.base = model = make_object()
    federation.service.stall.add("Fetch")
    incoming = ModelStore(tmp_path).receive(make_plan(), 0, model.manifest)
    monkeypatch.setattr(connection, "_progress_seconds", 30.0)  # it is the stop that ends it, not the stall
    threading.Timer(0.2, stopping.set).start()
    started = time.monotonic()
    with pytest.raises(StopRequestedError):
        connection.fetch("derm", incoming)
    assert time.monotonic() - started < 10.0
    assert incoming.missing == tuple(model.manifest.indices_of)[1:]  # what came before is kept


def test_a_manifest_of_another_object_is_refused(connection, federation, make_object):
    federation.service.base = make_object(1)
    with pytest.raises(IntegrityError, match="manifest"):
        connection.have(HaveRequest("derm", make_object(2).manifest.digest))


@pytest.fixture
def spooled(tmp_path, make_object):
    update = make_object(5)
    key = SpoolKey("derm", 1, "a" * 64)
    return Spool(tmp_path / "spool").seal(
        key, update.arrays(), chunk_size=65_536, reservation="r1", steps=(), engine_state=None
    )


def test_a_push_over_a_breaking_link_sends_each_chunk_once(connection, federation, spooled):
    federation.service.chunks_before_cut["Push"] = [1, 1]
    connection.push(spooled)
    assert federation.service.pushed_bytes == spooled.manifest.payload_bytes
    assert set(federation.service.received) == set(spooled.manifest.chunk_digests)


def test_a_server_that_asks_for_what_it_has_received_is_not_sent_it_for_ever(
    connection, federation, spooled, stopping
):
    federation.service.forgets = True
    too_late = threading.Timer(10.0, stopping.set)
    too_late.start()
    with pytest.raises(ProtocolError, match="still asks for chunk"):
        connection.push(spooled)
    too_late.cancel()
    assert federation.service.calls.count("Push") == 1


def test_a_push_of_what_the_server_has_sends_nothing(connection, federation, spooled):
    connection.push(spooled)
    sent = federation.service.pushed_bytes
    connection.push(spooled)
    assert federation.service.pushed_bytes == sent


def test_spooled_bytes_that_changed_on_disk_are_not_sent(connection, federation, spooled):
    payload = spooled.folder / "update.payload"
    payload.write_bytes(b"\1" + payload.read_bytes()[1:])
    with pytest.raises(IntegrityError, match="do not match"):
        connection.push(spooled)
    assert federation.service.committed == {}


def test_a_commit_whose_answer_was_lost_is_answered_alike(connection, federation, make_object, spooled):
    federation.service.base = make_object()
    federation.service.faults["CommitUpdate.answer"] = [grpc.StatusCode.UNAVAILABLE]
    connection.push(spooled)
    request = CommitUpdateRequest("derm", 1, "a" * 64, spooled.manifest.digest, "b" * 64)
    answer = connection.commit(request)
    assert answer.receipt.update_digest == spooled.manifest.digest
    assert len(federation.service.committed) == 1


def test_a_lost_heartbeat_is_not_tried_again(connection, federation, pauses):
    federation.service.faults["Heartbeat"] = [grpc.StatusCode.UNAVAILABLE]
    request = HeartbeatRequest("derm", 1, SiteActivity.TRAINING, 1, 2)
    assert connection.heartbeat(request) is None
    answer = connection.heartbeat(request)
    assert answer is not None
    assert not answer.obsolete
    assert pauses == []


def test_standing_aside_is_said_until_it_is_heard(connection, federation):
    federation.service.faults["Heartbeat"] = [grpc.StatusCode.UNAVAILABLE] * 2
    connection.stand_aside(HeartbeatRequest("derm", 0, SiteActivity.REFUSED, detail="epsilon_cap"))
    assert federation.service.heartbeats[-1].detail == "epsilon_cap"


def test_the_server_may_be_away_for_long_and_come_back_on_its_port(
    consortium, federation, make_object, stopping
):
    federation.service.base = make_object()
    federation.stop()
    channel = grpc.secure_channel(
        federation.address,
        channel_credentials(consortium.site(federation.address)),
        options=(*CHANNEL_OPTIONS, ("grpc.initial_reconnect_backoff_ms", 100)),
    )
    connection = Connection(channel, stopping, pause=lambda _seconds: time.sleep(0.1))
    threading.Timer(0.8, federation.start).start()
    assert connection.next_task(NextTaskRequest("derm", 0)).kind is TaskKind.TRAIN
    assert connection.outages == 1
    assert connection.last_outage_seconds > 0.5
    connection.close()


def test_a_stopped_agent_makes_no_call(connection, federation, stopping):
    stopping.set()
    with pytest.raises(StopRequestedError):
        connection.join(JOIN)
    assert federation.service.calls == []


def test_a_stop_ends_a_long_wait(consortium, federation, stopping):
    federation.stop()
    channel = grpc.secure_channel(
        federation.address, channel_credentials(consortium.site(federation.address))
    )
    connection = Connection(channel, stopping)
    threading.Timer(0.3, stopping.set).start()
    started = time.monotonic()
    with pytest.raises(StopRequestedError):
        connection.join(JOIN)
    assert time.monotonic() - started < 10.0  # the wait would go on for a minute
    connection.close()


def test_an_answer_that_breaks_the_contract_is_no_link_failure(connection, federation, pauses):
    federation.service.spoiled_join = pb.JoinResponse(server_instance_id="not hexadecimal")
    with pytest.raises(ProtocolError, match="server_instance_id"):
        connection.join(JOIN)
    assert pauses == []
