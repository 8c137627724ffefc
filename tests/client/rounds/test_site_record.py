"""The site's own record of a run: always whole on the disk, restored after a restart."""

import itertools
import math

import pytest

from adpfl.errors import StateError
from adpfl.federated.records import EvaluationRecord, SiteRunRecord, StepRecord
from adpfl.privacy.guarantee import Guarantee
from adpfl_client.rounds.site_record import SiteRecorder, read_record

GUARANTEE = Guarantee(
    epsilon=math.inf,
    epsilon_if_fixed=3.5,
    delta=1e-5,
    unit="patient",
    neighboring_relation="zero-out",
    sampling="full",
    mechanism="laplace_l2",
    steps=0,
    accountant="renyi",
)


@pytest.fixture
def fresh():
    return SiteRunRecord(
        site="hospital1",
        run="derm",
        plan_digest="a" * 64,
        status="running",
        summary="running",
        training_patients=8,
        held_out_patients=2,
        steps=(),
        evaluations=(),
        overlays=(),
        guarantee=GUARANTEE,
        timeline=(),
    )


@pytest.fixture
def clock():
    ticks = itertools.count(100.0)
    return lambda: next(ticks)


def step(round_number, index):
    return StepRecord(
        round=round_number,
        step=index,
        clip_norm=1.0,
        noise_scale=None,
        norm_quantiles=(),
        units=0,
        clipped_units=0,
        nonfinite_units=0,
    )


def test_every_change_is_on_the_disk(tmp_path, fresh, clock):
    recorder = SiteRecorder.open(tmp_path, fresh, clock)
    recorder.add_steps(1, (step(1, 0), step(1, 1)))
    recorder.add_evaluation(EvaluationRecord(round=0, mean_dice=0.5, scores=()))
    recorder.set_overlays(("overlay-case-001.png",))
    recorder.close("finished", "finished: all of it")
    assert read_record(tmp_path) == recorder.record
    assert recorder.record.guarantee.epsilon == math.inf
    assert recorder.has_evaluation(0)
    assert not recorder.has_evaluation(1)


def test_a_restart_keeps_what_happened_and_says_so(tmp_path, fresh, clock):
    SiteRecorder.open(tmp_path, fresh, clock).add_steps(1, (step(1, 0),))
    (tmp_path / "site.json.partial").write_bytes(b"{")
    again = SiteRecorder.open(tmp_path, fresh, clock, interrupted_round=2)
    assert [(event.kind, event.round) for event in again.record.timeline] == [
        ("agent_started", None),
        ("agent_restarted", 2),
    ]
    assert again.record.timeline[0].at_unix_seconds == 100.0
    assert again.record.steps == (step(1, 0),)
    assert not (tmp_path / "site.json.partial").exists()


def test_a_round_done_again_replaces_its_steps_and_scores(tmp_path, fresh, clock):
    recorder = SiteRecorder.open(tmp_path, fresh, clock)
    recorder.add_steps(2, (step(2, 0),))
    recorder.add_steps(1, (step(1, 0), step(1, 1)))
    recorder.add_steps(1, (step(1, 0),))
    assert [(one.round, one.step) for one in recorder.record.steps] == [(1, 0), (2, 0)]
    for dice in (0.1, 0.2):
        recorder.add_evaluation(EvaluationRecord(round=1, mean_dice=dice, scores=()))
    assert [one.mean_dice for one in recorder.record.evaluations] == [0.2]


def test_a_record_of_another_plan_is_not_continued(tmp_path, fresh, clock):
    SiteRecorder.open(tmp_path, fresh, clock)
    with pytest.raises(StateError, match="a changed plan needs a new name"):
        SiteRecorder.open(tmp_path, fresh.model_copy(update={"plan_digest": "b" * 64}), clock)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"schema_version": 2}'])
def test_a_damaged_record_is_refused(tmp_path, content):
    (tmp_path / "site.json").write_text(content)
    with pytest.raises(StateError, match=r"site\.json") as raised:
        read_record(tmp_path)
    assert "\n" not in str(raised.value)


def test_no_record_is_none(tmp_path):
    assert read_record(tmp_path) is None
