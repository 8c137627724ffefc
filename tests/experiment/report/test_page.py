"""The page: one file, nothing outside it, everything in it, every name escaped."""

import re
from html.parser import HTMLParser

import pytest

from adpfl.experiment.report.page import render, write_page
from adpfl.experiment.report.record import DataNote, JoinedRun, Overlay, join
from adpfl.federated.records import TimelineEvent

VOID = {"meta", "img", "br", "circle", "use", "path", "rect", "link", "stop"}
JOINED_SECTIONS = [
    "results",
    "convergence",
    "patients",
    "overlays",
    "privacy",
    "thresholds",
    "rounds",
    "timeline",
    "provenance",
]
SERVER_SECTIONS = ["results", "privacy", "rounds", "timeline", "provenance"]


class Page(HTMLParser):
    """Collects what the tests ask for, and holds the page to balanced tags and unique identifiers."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.ids, self.links, self.words, self.tags = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(attributes["id"])
        if "id" in attributes:
            self.ids.append(attributes["id"])
        self.links += [
            attributes[name] for name in ("href", "src", "xlink:href", "action") if name in attributes
        ]

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def joined(plan_of, server_of, site_of, png_of):
    def make(arm="adp-fl", data_note=None, **changes):
        plan = plan_of(arm)
        sites = tuple(site_of(plan, name).model_copy(update=changes) for name in plan.cohort.sites)
        overlays = tuple(Overlay(site=site.site, case="case-001", png=png_of()) for site in sites)
        return JoinedRun(join(server_of(plan, missing={5: ("hospital2",)}), sites, data_note), overlays)

    return make


@pytest.mark.parametrize("arm", ["fl", "dp-fl", "adp-fl", "rigorous"])
def test_every_section_stands_and_every_tag_is_closed(joined, arm):
    page = Page(render(joined(arm), joined_by_owner=True))
    assert page.sections == [*JOINED_SECTIONS, "next"]
    assert len(page.ids) == len(set(page.ids))


def test_nothing_is_loaded_and_nothing_runs(joined):
    text = render(joined())
    page = Page(text)
    assert all(link.startswith(("data:image/png;base64,", "#")) for link in page.links)
    assert len([link for link in page.links if link.startswith("data:")]) == 3
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "default-src 'none'" in text


def test_all_three_figures_stand_together_with_their_terms(joined):
    page = Page(render(joined())).text
    assert "Honest ε" in page
    assert "(no guarantee)" in page
    assert "Nominal ε" in page
    for part in ("∞", "3.7 × 10⁷", "0.001", "10⁻⁵", "zero-out", "patient:", "Poisson", "Laplace noise"):  # noqa: RUF001
        assert part in page
    assert "no finite guarantee" in page
    assert "accept_unbounded" in page


def test_a_rigorous_run_shows_its_finite_figure_and_no_nominal_one(joined):
    page = Page(render(joined("rigorous"), joined_by_owner=True)).text
    for part in ("a finite guarantee", "ε at most 8", "Target ε", "Gaussian noise", "noisy bits", "zero-out"):
        assert part in page
    for part in ("Nominal ε", "nominal", "if thresholds had been fixed", "accept_unbounded", "∞"):
        assert part not in page
    for other in ("fl", "dp-fl", "adp-fl"):
        assert f"adpfl demo --arm {other} --output demo-{other}" in page


def test_the_norm_of_an_l1_clip_is_called_so(joined, site_of, plan_of):
    assert "gradient norms (L2)" in render(joined("rigorous"))
    figure = site_of(plan_of("rigorous"), "hospital1").guarantee
    l1 = figure.model_copy(update={"mechanism": "laplace_l1"})
    assert "gradient norms (L1)" in render(joined("rigorous", guarantee=l1))


def test_who_took_part_and_what_happened(joined):
    page = Page(render(joined())).text
    assert "2 of 3" in page
    assert "missing hospital2" in page
    assert "The server was restarted in round 4" in page
    assert "hospital3 joined again in round 4" in page


def test_the_demonstration_says_why_it_may_join_private_folders(joined):
    assert "One person owns all of them" in Page(render(joined(), joined_by_owner=True)).text
    assert "One person owns all of them" not in Page(render(joined())).text


def test_a_demonstration_says_what_to_do_next_and_no_other_report_does(joined):
    page = Page(render(joined("dp-fl", data_note=DataNote(synthetic=True)), joined_by_owner=True))
    for command in ("adpfl demo --arm fl", "adpfl demo --arm adp-fl", "adpfl demo --data FOLDER"):
        assert command in page.text
    assert "adpfl demo --arm dp-fl --output demo-dp-fl" not in page.text
    assert Page(render(joined())).sections == JOINED_SECTIONS


def test_synthetic_images_are_called_so_near_the_top_and_by_the_pictures(joined):
    text = render(joined(data_note=DataNote(synthetic=True)))
    page = Page(text).text
    top, pictures = text.split("<main>")[0], text.split('id="overlays"')[1].split("</section>")[0]
    for part in (top, pictures):
        assert "synthetic" in part
    assert "say nothing clinical" in top
    assert "made by the program that drew the image" in pictures
    assert "expert" not in page
    plain = Page(render(joined())).text
    assert "ynthetic" not in plain
    assert "expert" not in plain


@pytest.mark.parametrize("alone", [True, False])
def test_an_image_that_stands_for_a_patient_is_told_beside_the_unit(joined, alone):
    run = joined(data_note=DataNote(patients_are="images"))
    if alone:
        run = JoinedRun(join(run.record.server, (), run.record.data_note), ())
    assert "every image counts as its own patient; the protection is per image" in Page(render(run)).text


def test_a_site_that_refused_is_not_counted_as_trained(plan_of, server_of, site_of):
    plan = plan_of("adp-fl")
    lost = dict.fromkeys(range(1, plan.rounds + 1), ("hospital3",))
    server = server_of(plan, missing=lost)
    refusal = TimelineEvent(at_unix_seconds=1.8e9, kind="site_refused", site="hospital3")
    server = server.model_copy(update={"timeline": (*server.timeline, refusal)})
    refused = site_of(plan, "hospital3").model_copy(
        update={"status": "refused", "steps": (), "evaluations": ()}
    )
    trained = tuple(site_of(plan, name) for name in ("hospital1", "hospital2"))
    for sites in ((), (*trained, refused)):
        page = Page(render(JoinedRun(join(server, sites), ()))).text
        assert "Two of three sites trained" in page
        assert "across two sites" in page
        assert "2 of 3 hospital3 refused and never trained" in page
    assert "none / 12" in page
    alone = Page(render(JoinedRun(join(server, ()), ()))).text
    assert "hospital1 40 10 of 10" in alone
    assert "hospital3 40 refused and never trained" in alone


def test_pixels_are_those_of_the_original_image(joined):
    page = Page(render(joined())).text
    assert "px are pixels of the image at its original size, not of the network" in page


def test_the_servers_own_report_holds_no_score(plan_of, server_of):
    page = Page(render(JoinedRun(join(server_of(plan_of("adp-fl")), ()), ())))
    assert page.sections == SERVER_SECTIONS
    assert "stay at the sites" in page.text
    assert "img" not in page.tags
    assert "no finite guarantee" in page.text
    assert "Honest ε" not in page.text


HEADING = re.compile(r"<h([23])[^>]*>(.*?)</h[23]>", re.DOTALL)


@pytest.mark.parametrize("arm", ["fl", "dp-fl", "adp-fl", "rigorous"])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("begun", [True, False])
def test_no_heading_stands_without_text(joined, arm, alone, begun):
    run = joined(arm) if begun else joined(arm, steps=(), evaluations=(), timeline=())
    if alone:
        run = JoinedRun(join(run.record.server, ()), ())
    text = render(run).split("<main>")[1]
    found = list(HEADING.finditer(text))
    assert len(found) >= len(SERVER_SECTIONS)
    for heading, following in zip(found, [*(one.start() for one in found[1:]), len(text)], strict=True):
        told = re.sub(r"<[^>]+>", " ", text[heading.end() : following]).strip()
        assert told, heading[2]


def test_the_servers_own_report_does_not_announce_figures_that_it_lacks(joined):
    record = joined("rigorous").record
    alone = Page(render(JoinedRun(join(record.server, ()), ()))).text
    assert "kept by the sites its terms stand below" in alone
    assert "its figures" not in alone
    assert "its figures and their terms stand below" in Page(render(JoinedRun(record, ()))).text


def test_a_run_between_hospitals_is_begun_in_an_order_that_works(joined):
    page = Page(render(joined(), joined_by_owner=True)).text
    commands = (
        "adpfl-server init --config server.yaml --host fl.example.org",
        "adpfl-server check-config server.yaml",
        "adpfl-server enroll hospital1 --config server.yaml",
        "adpfl-server --config server.yaml",
        "adpfl-client enroll hospital1.bundle.json --site hospital1",
        "adpfl-client check --site hospital1",
        "adpfl-client --site hospital1",
    )
    places = [page.index(command) for command in commands]
    assert places == sorted(places)


def test_one_run_is_not_passed_off_as_several(joined):
    assert "It says nothing of the spread between runs" in Page(render(joined())).text


def test_text_from_records_is_escaped(joined, plan_of, server_of, png_of):
    run = joined()
    trap = '<script>alert("x")</script>'
    site = run.record.sites[0]
    guarantee = site.guarantee.model_copy(update={"caveats": (trap,), "accountant": trap, "sampling": trap})
    score = site.evaluations[-1].scores[0].model_copy(update={"case": trap, "structure": trap})
    evaluation = site.evaluations[-1].model_copy(update={"scores": (score,)})
    event = run.record.server.timeline[0].model_copy(update={"detail": trap, "kind": trap})
    hostile = site.model_copy(
        update={
            "guarantee": guarantee,
            "evaluations": (*site.evaluations[:-1], evaluation),
            "timeline": (event,),
        }
    )
    server = run.record.server.model_copy(update={"summary": trap, "timeline": (event,)})
    picture = Overlay(site=site.site, case=trap, png=png_of())
    text = render(JoinedRun(join(server, (hostile,)), (picture,)))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6
    Page(text)


def test_several_structures_stand_apart(joined):
    run = joined()
    site = run.record.sites[0]
    second = tuple(score.model_copy(update={"structure": "tumour"}) for score in site.evaluations[-1].scores)
    both = site.evaluations[-1].model_copy(update={"scores": (*site.evaluations[-1].scores, *second)})
    site = site.model_copy(update={"evaluations": (*site.evaluations[:-1], both)})
    page = Page(render(JoinedRun(join(run.record.server, (site,)), ())))
    assert "structure by structure" in page.text
    assert "structure by structure" not in Page(render(run)).text


def test_a_run_that_has_not_begun_is_reported(plan_of, server_of):
    server = server_of(plan_of("adp-fl")).model_copy(
        update={
            "rounds": (),
            "timeline": (),
            "status": "waiting",
            "summary": "waiting for sites",
            "training_patients": {},
        }
    )
    page = Page(render(JoinedRun(join(server, ()), ())))
    assert "No round has been opened" in page.text
    assert "did not join" in page.text
    assert "Three sites are to train" in page.text


def test_a_site_without_steps_or_scores_is_reported(joined):
    page = Page(render(joined(steps=(), evaluations=())))
    assert "thresholds" not in page.sections
    assert "convergence" not in page.sections
    assert "No evaluation was recorded at hospital1, hospital2 and hospital3" in page.text


def test_steps_without_a_unit_leave_a_gap(joined):
    run = joined()
    site = run.record.sites[0]
    empty = site.steps[3].model_copy(update={"norm_quantiles": (), "units": 0, "clipped_units": 0})
    gapped = site.model_copy(update={"steps": (*site.steps[:3], empty, *site.steps[4:])})
    assert "thresholds" in Page(render(JoinedRun(join(run.record.server, (gapped,)), ()))).sections


def test_the_same_records_give_the_same_page(joined, tmp_path):
    run = joined()
    write_page(tmp_path / "report.html", run)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(run)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
