"""The page: one file, nothing outside it, everything in it, every name escaped."""

import re
from html.parser import HTMLParser

import pytest

from adpfl.experiment.report.page import render, write_page
from adpfl.experiment.report.record import JoinedRun, Overlay, join

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
    def make(arm="adp-fl", **changes):
        plan = plan_of(arm)
        sites = tuple(site_of(plan, name).model_copy(update=changes) for name in plan.cohort.sites)
        overlays = tuple(Overlay(site=site.site, case="case-001", png=png_of()) for site in sites)
        return JoinedRun(join(server_of(plan, missing={5: ("hospital2",)}), sites), overlays)

    return make


@pytest.mark.parametrize("arm", ["fl", "dp-fl", "adp-fl"])
def test_every_section_stands_and_every_tag_is_closed(joined, arm):
    page = Page(render(joined(arm), joined_by_owner=True))
    assert page.sections == JOINED_SECTIONS
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


def test_who_took_part_and_what_happened(joined):
    page = Page(render(joined())).text
    assert "2 of 3" in page
    assert "missing hospital2" in page
    assert "The server was restarted in round 4" in page
    assert "hospital3 joined again in round 4" in page


def test_the_demonstration_says_why_it_may_join_private_folders(joined):
    assert "One person owns all of them" in Page(render(joined(), joined_by_owner=True)).text
    assert "One person owns all of them" not in Page(render(joined())).text


def test_the_servers_own_report_holds_no_score(plan_of, server_of):
    page = Page(render(JoinedRun(join(server_of(plan_of("adp-fl")), ()), ())))
    assert page.sections == SERVER_SECTIONS
    assert "stay at the sites" in page.text
    assert "img" not in page.tags
    assert "no finite guarantee" in page.text
    assert "Honest ε" not in page.text


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
