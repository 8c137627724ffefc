"""A cell is what the daemons' parts give by hand, goes on where it was cut off, and leaves their records."""

import math

import pytest
import torch

from adpfl.config import FrozenModel
from adpfl.data.partition import split_held_out
from adpfl.errors import DataError, StateError
from adpfl.experiment.comparison.checkpoint import read_checkpoint
from adpfl.experiment.comparison.folder import load_comparison
from adpfl.experiment.comparison.simulator import Hooks, run_cell
from adpfl.experiment.report.record import read_record
from adpfl.federated.records import ServerRunRecord, SiteRunRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.learning.initial_model import (
    build_network,
    load_weights,
    model_layout,
    save_weights,
    update_layout,
)
from adpfl.learning.local_update import TrainingStoppedError, local_update
from adpfl.learning.networks import dimension, weights_of
from adpfl.learning.units import TrainingUnits
from adpfl.privacy import accounting
from adpfl.privacy.engine import PrivacyEngine
from adpfl.tasks.registry import get_task
from adpfl.wire.chunks import manifest_of_arrays
from adpfl.wire.safetensors_file import read_warm_start


def final_digest(folder, cell):
    return read_record(folder.cell(cell.cell).record, ServerRunRecord).rounds[-1].result_digest


class StopAfter:
    """Says stop once so many local steps have been asked about."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


@pytest.fixture
def repeatable(tmp_path, comparison_of, repeatable_cell):
    folder, plan = comparison_of(tmp_path / "a")
    return folder, plan, repeatable_cell(plan.cell("fl-seed0"))


def test_a_cell_is_federated_averaging_of_the_agents_own_updates(repeatable):
    folder, plan, cell = repeatable
    run_cell(folder, plan, cell)

    task = get_task("skin_lesion")
    weights = weights_of(build_network(cell.plan, task))
    trained = {
        site: split_held_out(task.read(folder.site_data(site)), 0.25, 0).training for site in plan.data.sites
    }
    patients = {site: len({case.patient for case in cases}) for site, cases in trained.items()}
    for number in (1, 2):
        total = {name: tensor.double() for name, tensor in weights.items()}
        for site, cases in trained.items():
            units = TrainingUnits(cases, task=task, plan=cell.plan)
            engine = PrivacyEngine(
                cell.plan.privacy,
                unit_count=len(units),
                dimension=dimension(model_layout(cell.plan, task)),
                key=None,
            )
            update = local_update(
                weights, plan=cell.plan, task=task, units=units, engine=engine, round_number=number
            )
            share = patients[site] / sum(patients.values())
            total = {name: value + share * update.delta[name].double() for name, value in total.items()}
        weights = {name: value.float() for name, value in total.items()}
    expected = manifest_of_arrays({name: tensor.numpy() for name, tensor in weights.items()}).digest
    assert final_digest(folder, cell) == expected


@pytest.mark.parametrize("steps", [1, 5])
def test_a_cell_cut_off_goes_on_to_the_same_bytes(tmp_path, repeatable, comparison_of, steps):
    whole_folder, plan, cell = repeatable
    run_cell(whole_folder, plan, cell)
    folder, _ = comparison_of(tmp_path / "b")
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=StopAfter(steps)))
    assert not folder.cell(cell.cell).is_over
    timing = run_cell(folder, plan, cell)

    assert final_digest(folder, cell) == final_digest(whole_folder, cell)
    found, expected = (
        read_record(place.cell(cell.cell).site("site1") / "site.json", SiteRunRecord)
        for place in (folder, whole_folder)
    )
    assert found.evaluations == expected.evaluations
    assert found.steps == expected.steps
    assert timing.starts == (2 if steps == 5 else 1)  # before the first checkpoint a cell begins afresh


def test_records_load_as_the_daemons_do_with_the_honest_figure_in_them(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    for cell in plan.cells:
        run_cell(folder, plan, cell)
    comparison = load_comparison(tmp_path)

    assert (comparison.unfinished, comparison.failed) == ((), {})
    for cell in plan.cells:
        record = comparison.runs[cell.cell].record
        assert record.server.status == "finished"
        assert record.server.training_patients == plan.data.training_patients
        assert record.data_note.synthetic
        for site in record.sites:
            assert [one.round for one in site.evaluations] == [0, 1, 2]
            assert len(site.steps) == 4
            assert site.held_out_patients == plan.data.held_out_patients[site.site]
            assert site.guarantee == accounting.guarantee(
                cell.plan.privacy,
                unit_count=site.training_patients,
                dimension=dimension(model_layout(cell.plan, get_task("skin_lesion"))),
                steps=4,
            )
    epsilons = {cell.arm: comparison.runs[cell.cell].record.sites[0].guarantee.epsilon for cell in plan.cells}
    assert math.isinf(epsilons["fl"])
    assert math.isinf(epsilons["adp-fl"])
    assert math.isfinite(epsilons["dp-fl"])


def test_the_same_patients_are_drawn_and_scored_in_every_arm(tmp_path, comparison_of):
    folder, plan = comparison_of(tmp_path)
    for cell in plan.cells:
        run_cell(folder, plan, cell)
    runs = load_comparison(tmp_path).runs.values()
    assert len({tuple((one.site, one.case) for one in run.overlays) for run in runs}) == 1
    labels = {
        tuple(
            (score.case, score.patient) for site in run.record.sites for score in site.evaluations[-1].scores
        )
        for run in runs
    }
    assert len(labels) == 1


def test_seconds_add_up_and_nothing_unfinished_is_left(repeatable):
    folder, plan, cell = repeatable
    rounds: list[int] = []
    timing = run_cell(folder, plan, cell, hooks=Hooks(round_closed=rounds.append))
    parts = timing.training_seconds + timing.evaluation_seconds + timing.coordination_seconds
    assert parts == pytest.approx(timing.total_seconds)
    assert timing.software.keys() >= {"adpfl", "torch", "python", "kernels"}
    assert rounds == [0, 1, 2]
    assert not folder.cell(cell.cell).checkpoint.exists()


def test_training_that_diverges_is_recorded_as_failed(tmp_path, comparison_of, repeatable_cell):
    folder, plan = comparison_of(tmp_path)
    cell = repeatable_cell(plan.cell("fl-seed0"))
    local = cell.plan.local.model_copy(update={"learning_rate": 3e38, "momentum": 0.9, "steps": 6})
    wild = cell.model_copy(update={"plan": cell.plan.model_copy(update={"local": local})})
    run_cell(folder, plan, wild)

    record = read_record(folder.cell(cell.cell).record, ServerRunRecord)
    assert record.status == "failed"
    assert "no longer finite" in record.summary
    assert record.timeline[-1].kind == "run_failed"
    comparison = load_comparison(tmp_path)
    assert list(comparison.failed) == ["fl-seed0"]
    assert "fl-seed0" not in comparison.runs
    assert comparison.unfinished == ("dp-fl-seed0", "adp-fl-seed0")


def changed(cell, **update):
    return cell.model_copy(update={"plan": type(cell.plan).model_validate(cell.plan.model_dump() | update)})


def test_an_average_is_published_and_survives_a_cut(tmp_path, repeatable, comparison_of):
    whole_folder, plan, cell = repeatable
    averaging = {**cell.plan.aggregation.model_dump(), "averaging": {"method": "ema", "decay": 0.5}}
    averaged = changed(cell, aggregation=averaging, rounds=3)
    run_cell(whole_folder, plan, averaged)
    folder, _ = comparison_of(tmp_path / "b")
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, averaged, hooks=Hooks(should_stop=StopAfter(9)))  # in the third round
    run_cell(folder, plan, averaged)

    found, expected = (
        read_record(place.cell(cell.cell).record, ServerRunRecord) for place in (folder, whole_folder)
    )
    assert found.rounds[-1].averaged_digest == expected.rounds[-1].averaged_digest is not None
    evaluations = read_record(folder.cell(cell.cell).site("site1") / "site.json", SiteRunRecord).evaluations
    assert [one.weights for one in evaluations] == ["global", "global", "global", "averaged"]


@pytest.mark.parametrize("trainable", ["all", ["head", "norms"]])
def test_the_servers_moments_survive_a_cut(tmp_path, repeatable, comparison_of, trainable):
    whole_folder, plan, cell = repeatable
    adam = changed(
        cell,
        aggregation={"strategy": "fedadam", "weights": "patients"},
        rounds=3,
        network={**cell.plan.network.model_dump(), "trainable": trainable},
    )
    run_cell(whole_folder, plan, adam)
    folder, _ = comparison_of(tmp_path / "b")
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, adam, hooks=Hooks(should_stop=StopAfter(9)))  # in the third round
    run_cell(folder, plan, adam)
    found, expected = (
        read_record(place.cell(cell.cell).record, ServerRunRecord).rounds for place in (folder, whole_folder)
    )
    assert [one.result_digest for one in found] == [one.result_digest for one in expected]
    assert [one.tau for one in found] == [1e-3] * 3


def test_a_warm_start_begins_with_the_weights_that_the_plan_names(repeatable):
    folder, plan, cell = repeatable
    task = get_task("skin_lesion")
    other = changed(cell, seed=99)
    save_weights(folder.initial_model, weights_of(build_network(other.plan, task)), plan=other.plan)
    start = read_warm_start(folder.initial_model)
    head = changed(
        cell,
        warm_start=start.model_dump(),
        network={**cell.plan.network.model_dump(), "trainable": ["head"]},
    )
    run_cell(folder, plan, head)
    record = read_record(folder.cell(cell.cell).record, ServerRunRecord)
    arrays = {name: tensor.numpy() for name, tensor in weights_of(build_network(other.plan, task)).items()}
    assert record.rounds[0].base_digest == manifest_of_arrays(arrays).digest

    wrong = changed(head, warm_start=start.model_copy(update={"model_digest": "0" * 64}).model_dump())
    folder.cell(cell.cell).timing.unlink()
    with pytest.raises(StateError, match="is not what run fl-seed0 starts from"):
        run_cell(folder, plan, wrong)


def test_a_checkpoint_of_another_plan_is_refused(repeatable):
    folder, plan, cell = repeatable
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=StopAfter(5)))
    other = cell.model_copy(update={"plan": cell.plan.model_copy(update={"rounds": 3})})
    with pytest.raises(StateError, match="of another plan"):
        run_cell(folder, plan, other)


def test_a_damaged_checkpoint_is_named(repeatable):
    folder, plan, cell = repeatable
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=StopAfter(5)))
    path = folder.cell(cell.cell).checkpoint
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StateError, match=r"checkpoint.safetensors: is no checkpoint"):
        run_cell(folder, plan, cell)


def test_a_checkpoint_holds_no_key(repeatable):
    folder, plan, cell = repeatable
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=StopAfter(5)))
    found = read_checkpoint(folder.cell(cell.cell).checkpoint, plan_digest=cell.plan.digest())
    assert found is not None
    checkpoint, models = found
    assert isinstance(checkpoint, FrozenModel)
    assert checkpoint.state.rounds_closed == 1
    assert all(torch.isfinite(tensor).all() for tensor in models.newest.values())
    assert models.averaged is None
    assert "key" not in checkpoint.model_dump_json()


def test_an_image_that_cannot_be_read_ends_the_cell_but_not_for_good(repeatable):
    folder, plan, cell = repeatable
    image = next(folder.site_data("site1").rglob("*.jpg"))
    content = image.read_bytes()
    image.write_bytes(b"no picture")
    with pytest.raises(DataError):
        run_cell(folder, plan, cell)
    assert not folder.cell(cell.cell).is_over
    image.write_bytes(content)
    run_cell(folder, plan, cell)
    assert folder.cell(cell.cell).is_over


@pytest.fixture
def averaging(repeatable):
    """The repeatable cell with five rounds of which an average is published, and part of a warm network."""
    folder, plan, cell = repeatable
    warmer = cell.plan.model_copy(update={"seed": 9})
    save_weights(
        folder.initial_model,
        weights_of(build_network(warmer, get_task("skin_lesion"))),
        plan=warmer,
        pretrained={"trained_on": "generated", "words": "a test"},
    )
    changed = cell.plan.model_dump() | {
        "rounds": 5,
        "warm_start": read_warm_start(folder.initial_model).model_dump(),
        "network": {"trainable": ["head", "norms"]},
        "aggregation": {"weights": "patients", "averaging": {"method": "tail", "rounds": 3}},
    }
    return folder, plan, cell.model_copy(update={"plan": RunPlan.model_validate(changed)})


def test_a_cell_publishes_its_average_and_scores_that(averaging):
    folder, plan, cell = averaging
    run_cell(folder, plan, cell)
    server = read_record(folder.cell(cell.cell).record, ServerRunRecord)
    assert [entry.averaged_digest is not None for entry in server.rounds] == [False, False, False, True, True]
    site = read_record(folder.cell(cell.cell).site("site1") / "site.json", SiteRunRecord)
    assert [one.weights for one in site.evaluations] == ["global"] * 5 + ["averaged"]
    assert [one.round for one in site.evaluations] == list(range(6))


@pytest.mark.parametrize("steps", [13, 17])
def test_an_averaging_cell_cut_off_goes_on_to_the_same_bytes(tmp_path, averaging, comparison_of, steps):
    whole_folder, plan, cell = averaging
    run_cell(whole_folder, plan, cell)
    folder, _ = comparison_of(tmp_path / "b")
    folder.initial_model.write_bytes(whole_folder.initial_model.read_bytes())
    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=StopAfter(steps)))
    run_cell(folder, plan, cell)
    found, expected = (
        read_record(place.cell(cell.cell).record, ServerRunRecord).rounds[-1]
        for place in (folder, whole_folder)
    )
    assert found.averaged_digest == expected.averaged_digest is not None
    assert found.result_digest == expected.result_digest


def test_frozen_tensors_stay_as_the_initial_model_has_them(averaging):
    folder, plan, cell = averaging
    seen = {}
    layout = model_layout(cell.plan, get_task("skin_lesion"))
    first = load_weights(folder.initial_model, layout)

    def stop_in_the_last_round():
        found = read_checkpoint(folder.cell(cell.cell).checkpoint, plan_digest=cell.plan.digest())
        if found is not None and found[0].state.rounds_closed == 4:
            seen.update({"newest": found[1].newest, "averaged": found[1].averaged})
            return True
        return False

    with pytest.raises(TrainingStoppedError):
        run_cell(folder, plan, cell, hooks=Hooks(should_stop=stop_in_the_last_round))
    trained = {tensor.name for tensor in update_layout(cell.plan, get_task("skin_lesion"))}
    for weights in seen.values():
        moved = {name for name, tensor in weights.items() if not torch.equal(tensor, first[name])}
        assert moved == trained
        assert set(weights) == set(first)
    assert any(not torch.equal(seen["newest"][name], seen["averaged"][name]) for name in trained)


def test_another_initial_model_than_the_plans_is_refused(averaging):
    folder, plan, cell = averaging
    save_weights(
        folder.initial_model, weights_of(build_network(cell.plan, get_task("skin_lesion"))), plan=cell.plan
    )
    with pytest.raises(StateError, match="is not what run fl-seed0 starts from by its plan"):
        run_cell(folder, plan, cell)
