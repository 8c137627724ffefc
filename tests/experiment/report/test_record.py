"""Records of one run are joined; anything else is refused by name."""

import json

import pytest

from adpfl.errors import IntegrityError, StateError
from adpfl.experiment.report.record import JoinedRecord, join, load_run, read_record, write_record


@pytest.fixture
def plan(plan_of):
    return plan_of("adp-fl")


@pytest.fixture
def server(server_of, plan):
    return server_of(plan)


def write_site(folder, record, pictures=()):
    folder.mkdir(parents=True)
    write_record(folder / "site.json", record)
    for name, content in pictures:
        (folder / name).write_bytes(content)


def changed(record, **update):
    return record.model_copy(update=update)


def test_sites_come_in_the_plans_order(plan, server, site_of):
    sites = tuple(site_of(plan, name) for name in ("hospital3", "hospital1"))
    assert [site.site for site in join(server, sites).sites] == ["hospital1", "hospital3"]


@pytest.mark.parametrize(
    ("update", "told"),
    [
        ({"run": "other"}, "has run other"),
        ({"plan_digest": "ab" * 32}, "a run has one plan"),
        ({"site": "hospital9"}, "is no site of run"),
        ({"training_patients": 7}, "trained on 7 patients and declared 40"),
    ],
)
def test_a_foreign_site_is_refused(plan, server, site_of, update, told):
    with pytest.raises(StateError, match=told):
        join(server, (changed(site_of(plan, "hospital1"), **update),))


def test_a_site_is_joined_once(plan, server, site_of):
    site = site_of(plan, "hospital1")
    with pytest.raises(StateError, match="stands twice"):
        join(server, (site, site))


def test_steps_and_evaluations_stay_within_the_plan(plan, server, site_of):
    site = site_of(plan, "hospital1")
    late = changed(site.steps[-1], round=plan.rounds + 1)
    with pytest.raises(StateError, match="has a step of round 11"):
        join(server, (changed(site, steps=(*site.steps, late)),))
    with pytest.raises(StateError, match="must rise"):
        join(server, (changed(site, evaluations=site.evaluations[::-1]),))


def test_a_server_record_that_contradicts_itself_is_refused(server):
    first = server.rounds[0]
    for update, told in (
        ({"plan_digest": "0" * 64}, "altered or written by another version"),
        ({"rounds": (server.rounds[1], first)}, "rounds must rise"),
        ({"rounds": (changed(first, missing=("hospital1",)),)}, "both present and missing"),
        ({"rounds": (changed(first, sites=("stranger",)),)}, "not a site of the plan"),
    ):
        with pytest.raises(StateError, match=told):
            join(changed(server, **update), ())


def test_folders_are_read_from_a_run_or_from_the_state_above_it(tmp_path, plan, server, site_of, png_of):
    run_folder = tmp_path / "server" / "runs" / "demo"
    run_folder.mkdir(parents=True)
    write_record(run_folder / "run.json", server)
    state = tmp_path / "hospital1"
    site = site_of(plan, "hospital1", overlays=("overlay-case-001.png",))
    write_site(state / "runs" / "demo", site, [("overlay-case-001.png", png_of())])
    for server_folder, site_folder in ((run_folder, state), (tmp_path / "server", state / "runs" / "demo")):
        run = load_run(server_folder, (site_folder,))
        assert run.record == join(server, (site,))
        assert [(overlay.case, overlay.png) for overlay in run.overlays] == [("case-001", png_of())]


def test_several_runs_need_a_choice(tmp_path, plan_of, server_of):
    for arm in ("fl", "dp-fl"):
        plan = plan_of(arm).model_copy(update={"run": arm})
        folder = tmp_path / "runs" / arm
        folder.mkdir(parents=True)
        write_record(folder / "run.json", server_of(plan))
    with pytest.raises(StateError, match="holds the runs dp-fl, fl; choose one with --run"):
        load_run(tmp_path)
    assert load_run(tmp_path, run="fl").record.server.plan.run == "fl"


def test_a_folder_without_a_record_is_named(tmp_path):
    with pytest.raises(StateError, match=r"holds neither run\.json"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [("{", "is not a JSON document"), ("{}", "plan is missing"), ('{"x": NaN}', "not a known key")],
)
def test_a_broken_record_is_one_line(tmp_path, content, told):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(StateError, match=told) as caught:
        load_run(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("../secret.png", b"\x89PNG\r\n\x1a\n", "below the record's folder"),
        ("absent.png", None, "cannot be read"),
        ("page.png", b"<html>", "is no PNG file"),
    ],
)
def test_an_overlay_is_a_png_beside_its_record(tmp_path, plan, server, site_of, name, content, told):
    write_record(tmp_path / "run.json", server)
    folder = tmp_path / "hospital1"
    write_site(folder, site_of(plan, "hospital1", overlays=(name,)))
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(IntegrityError, match=told):
        load_run(tmp_path, (folder,))


def test_an_infinite_epsilon_survives_json(tmp_path, plan, server, site_of):
    joined = join(server, (site_of(plan, "hospital1"),))
    write_record(tmp_path / "joined.json", joined)
    assert json.loads((tmp_path / "joined.json").read_text())["sites"][0]["guarantee"]["epsilon"] == "inf"
    assert read_record(tmp_path / "joined.json", JoinedRecord) == joined
