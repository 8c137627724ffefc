"""The comparison's report: whole, alone, plain about what it found, and the same at every making."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from adpfl.errors import ConfigError, IntegrityError
from adpfl.experiment.cli import app
from adpfl.experiment.comparison.folder import load_comparison
from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.csv_tables import TABLES
from adpfl.experiment.report.comparison.document import ComparisonRecord
from adpfl.experiment.report.comparison.gallery import side_by_side
from adpfl.experiment.report.comparison.page import render, write_comparison
from adpfl.experiment.report.record import read_record
from adpfl.privacy.plan import FixedThreshold

MOST_BYTES = 6_000_000
VOID = {"meta", "img", "br", "circle", "use", "path", "rect", "link", "stop"}


class Page(HTMLParser):
    """Sections, links and words of a page whose tags must be balanced and identifiers unique."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sections, self.ids, self.links, self.words, self.tags = [], [], [], [], [], set()
        self.pictures = []
        self.feed(text)
        self.close()
        assert self.open == []
        assert len(self.ids) == len(set(self.ids))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(found["id"])
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "img":
            self.pictures.append(found["alt"])
        if tag == "svg" and found.get("aria-hidden") != "true":
            assert found["role"] == "img"
            assert found["aria-label"]
        self.links += [found[name] for name in ("href", "src", "xlink:href", "action") if name in found]

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


@pytest.fixture(scope="module")
def whole(tmp_path_factory, comparison_builder):
    """A comparison with every group, one failed and one unfinished cell, and its report."""
    made = comparison_builder(tmp_path_factory.mktemp("whole") / "comparison")
    made.arms("fl", "dp-fl", "adp-fl").curves().utility()
    made.failed = {"noise-dp-fl-1-s0": "failed in round 3: the aggregate is not finite"}
    made.unfinished = {"noise-adp-fl-1-s0"}
    root = made.write()
    write_comparison(root)
    return root


@pytest.fixture(scope="module")
def page(whole):
    return Page((whole / "report.html").read_text(encoding="utf-8"))


def rendered(root):
    return render(Contents(load_comparison(root)))


def test_every_section_stands(page):
    assert page.sections == [
        "found",
        "arms",
        "sites",
        "privacy",
        "convergence",
        "variability",
        "boundaries",
        "cases",
        "thresholds",
        "curves",
        "utility",
        "run",
        "definitions",
    ]


def test_nothing_is_loaded_and_nothing_runs(whole, page):
    text = (whole / "report.html").read_text(encoding="utf-8")
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "object"} & page.tags
    assert "default-src 'none'" in text
    assert len(text.encode()) < MOST_BYTES


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_real_browser_has_nothing_to_complain_of(browser, whole, width, dark):
    address = whole / "report.html"
    visit = browser.visit(address, width=width, dark=dark)
    assert visit.messages == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [address.absolute().as_uri()]
    assert visit.broken == 0
    assert visit.content_width <= width


def test_on_paper_an_outcome_keeps_its_colour(browser, whole):
    asked = ("getComputedStyle(document.querySelector('.outcome'), '::before').printColorAdjust",)
    visit = browser.visit(whole / "report.html", width=680, media="print", asked=asked)
    assert visit.answers == ["exact"]


def test_no_epsilon_stands_alone(page):
    for part in (
        "Honest ε",
        "ε if thresholds had been fixed without looking at the data (no guarantee)",
        "Nominal ε (names the noise)",
        "∞",
        "3.7 × 10⁷",  # noqa: RUF001 - a multiplication sign
        "zero-out",
        "patient: all images",
        "Poisson",
        "Laplace noise",
        "Gaussian noise",
        "b = ε·C on the sum",
        "the figures of all would add up",
    ):
        assert part in page.text
    top = page.text[: page.text.index("Arms side by side")]
    assert "0.001" not in top
    assert "FL and ADP-FL have no finite guarantee; DP-FL has no meaningful guarantee" in top


def test_an_infinite_epsilon_is_not_called_a_guarantee(page, builder):
    assert "Only the honest ε is a bound, and an infinite one bounds nothing." in page.text
    root = builder(rounds=2, seeds=1).arms("adp-fl").write()
    alone = Page(rendered(root)).text
    assert "None of them is a guarantee: an infinite honest ε bounds nothing." in alone


def test_a_comparison_without_a_finished_arm_says_so_in_page_and_markdown(builder):
    made = builder(rounds=2, seeds=1).arms("fl")
    made.unfinished = {"arms-fl-s0"}
    root = made.write()
    write_comparison(root)
    for name in ("report.html", "report.md"):
        assert "No run of an arm has finished" in (root / name).read_text(encoding="utf-8")


def test_the_simulation_is_not_passed_off_as_a_sites_consent(page):
    assert "simulated in one process" in page.text
    assert "Every site that trained here holds one" not in page.text


def test_what_an_honest_budget_reached_is_among_the_findings(whole, builder):
    contents = Contents(load_comparison(whole))
    for summary in contents.utility_summaries:
        (told,) = [one for one in contents.findings if one.startswith(f"{summary.label} reached ")]
        assert f"{summary.figure(contents.leading).center.mean:.3f}" in told
        assert told.endswith(" FL.")
    assert any("no gain from privacy" in finding for finding in contents.findings)
    made = builder(rounds=2, seeds=1).arms("fl", "adp-fl")
    assert "no gain from privacy" not in Page(rendered(made.write())).text


def test_a_comparison_of_budgets_is_not_headed_as_one_of_fl(builder):
    made = builder(rounds=2, seeds=1).arms("fl").utility()
    assert "Skin-lesion segmentation at an honest budget" in Page(rendered(made.write())).text


def test_no_table_of_thresholds_is_offered_where_no_arm_clips(builder, page):
    made = builder(rounds=2, seeds=1).arms("fl").utility()
    alone = Page(rendered(made.write()))
    assert "thresholds" in alone.sections
    assert "The thresholds as a table" not in alone.text
    assert "The thresholds as a table" in page.text


def test_cells_without_a_result_are_named_with_their_reason(page):
    assert "2 of 36 are missing" in page.text
    assert "noise-dp-fl-1-s0 failed: failed in round 3: the aggregate is not finite" in page.text
    assert "noise-adp-fl-1-s0 has not finished" in page.text


def test_synthetic_images_are_called_so_at_the_top_and_by_the_pictures(page, builder):
    top, pictures = page.text.split("What was found")[0], page.text.split("under each arm")[1]
    assert "say nothing clinical" in top
    assert "The images are synthetic" in pictures
    made = builder(rounds=2, seeds=1).arms("fl", "adp-fl")
    made.synthetic = False
    assert "ynthetic" not in Page(rendered(made.write())).text


def test_dp_fls_threshold_and_the_best_of_its_curve_are_told(page):
    assert "DP-FL with its threshold fixed at C = 1 reached" in page.text
    assert re.search(r"at C = 10, the best of four values tried, 0\.\d{3}", page.text)


def test_what_the_best_c_is_worth_stands_beside_it(whole, page):
    markdown = (whole / "report.md").read_text(encoding="utf-8")
    for text in (page.text.replace("\u2019", "'"), markdown):
        assert "(one run, where the arms have three runs)" in text
        assert "found by looking at held-out scores: the look costs privacy that no ε here counts" in text
        assert "DP-FL's learning rate is FL's, so a small C also means small steps" in text
        assert "learning rates and percentiles that tasks come with" in text
        assert "mis-set" not in text


def test_a_threshold_that_was_mis_set_on_purpose_is_called_so(builder):
    made = builder(rounds=2, seeds=1).arms("fl")
    made.add("arms", "dp-fl", 0, fixed=FixedThreshold(method="fixed", clip_norm=0.1))
    root = made.write()
    write_comparison(root)
    page = Page((root / "report.html").read_text(encoding="utf-8")).text
    for text in (page, (root / "report.md").read_text(encoding="utf-8")):
        assert "fixed at C = 0.1 (mis-set on purpose) reached" in text
        assert "Its C in the main arms is mis-set on purpose" in text


def test_the_same_patients_stand_under_every_arm(whole, page):
    sites = side_by_side(Contents(load_comparison(whole)).arms)
    assert [site.site for site in sites] == ["hospital1", "hospital2", "hospital3", "hospital4"]
    for case in (case for site in sites for case in site.cases):
        assert [picture.label for picture in case] == ["FL", "DP-FL", "ADP-FL"]
        assert len({picture.alt.split(" under ")[0] for picture in case}) == 1
    assert len(page.pictures) == 4 * 2 * 3


def test_a_picture_that_is_none_is_refused(builder):
    made = builder(rounds=2, seeds=1).arms("fl")
    root = made.write()
    bad = made.folder.cell("arms-fl-s0").site("hospital1") / "overlay-case-000.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\nnot a picture")
    with pytest.raises(IntegrityError, match="case case-000 at hospital1 cannot be read"):
        write_comparison(root)


def test_markdown_says_what_the_page_says(whole, page):
    text = (whole / "report.md").read_text(encoding="utf-8")
    plain = page.text.replace("\u2019", "'")
    for finding in Contents(load_comparison(whole)).findings:
        assert finding in text
        assert finding in plain
    assert "**Synthetic images.**" in text
    assert "| Arm | Honest ε |" in text
    assert "| DP-FL | 3.7 × 10⁷ |" in text  # noqa: RUF001 - a multiplication sign
    for line in text.splitlines():
        if line.startswith("|"):
            assert line.endswith("|")


def test_scores_hold_a_row_a_structure_of_every_case(whole):
    rows = list(csv.DictReader(io.StringIO((whole / "scores.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 34 * 4 * 10  # finished cells, sites, patients with one case and one structure
    assert len({(row["cell"], row["site"], row["case"], row["structure"]) for row in rows}) == len(rows)
    assert {row["distance_unit"] for row in rows} == {"px"}


def test_the_tables_agree_with_the_record(whole):
    record = read_record(whole / "run.json", ComparisonRecord)
    rows = list(csv.DictReader(io.StringIO((whole / "summary.csv").read_text(encoding="utf-8"))))
    for summary in record.arms:
        (row,) = [
            row
            for row in rows
            if (row["group"], row["arm"], row["metric"], row["site"]) == ("arms", summary.arm, "dice", "all")
        ]
        figure = summary.figures[0]
        assert float(row["mean"]) == figure.center.mean
        assert int(row["runs"]) == 3
        assert (row["difference_to_fl"] == "") is (summary.arm == "fl")
    assert record.failed == {"noise-dp-fl-1-s0": "failed in round 3: the aggregate is not finite"}
    assert len(record.cells) == 34
    assert len(record.cells[0].record_sha256) == 5
    document = json.loads((whole / "run.json").read_text(encoding="utf-8"))
    assert {entry["guarantee"]["epsilon"] for entry in document["guarantees"] if entry["arm"] == "fl"} == {
        "inf"
    }


def test_every_table_has_its_file(whole):
    assert not (whole / "presences.csv").exists()
    for name in set(TABLES) - {"presences.csv"}:
        lines = (whole / name).read_text(encoding="utf-8").splitlines()
        assert len(lines) > 100
        assert len({len(row) for row in csv.reader(lines)}) == 1


def test_the_same_cells_give_the_same_files(builder):
    root = builder(rounds=2, seeds=2).arms("fl", "dp-fl", "adp-fl").write()
    write_comparison(root)
    before = {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}
    write_comparison(root)
    assert {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()} == before
    assert not list(root.glob("*.partial"))


def test_a_comparison_without_a_finished_cell_has_a_page(builder):
    made = builder(rounds=2, seeds=1).arms("fl", "adp-fl")
    made.unfinished = {cell.cell for cell in made.cells}
    page = Page(rendered(made.write()))
    assert page.sections == ["found", "run", "definitions"]
    assert "there is nothing to compare yet" in page.text


def test_one_run_of_one_arm_has_a_page(builder):
    page = Page(rendered(builder(rounds=2, seeds=1).arms("adp-fl").write()))
    assert "ADP-FL, whose clipping threshold follows each site’s gradients, reached 0." in page.text  # noqa: RUF001
    assert "±" not in page.text.split("What was found")[0]


def test_a_sweep_without_arms_has_curves_alone(builder):
    page = Page(rendered(builder(rounds=2, seeds=2).curves().write()))
    assert page.sections == ["found", "curves", "run", "definitions"]


def test_a_classifier_is_judged_by_auroc(builder):
    made = builder(rounds=2).arms("fl", "adp-fl")
    made.classifies = True
    root = made.write()
    write_comparison(root)
    page = Page((root / "report.html").read_text(encoding="utf-8"))
    assert "reached a mean AUROC of 0." in page.text
    assert "ADP-FL's AUROC at most 2% under FL's".replace("'", "\u2019") in page.text
    assert "boundaries" not in page.sections
    assert "Dice" not in page.text.split("What was run")[0].replace("Dice 0.", "")
    rows = list(csv.DictReader(io.StringIO((root / "presences.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 6 * 4 * 10
    assert not (root / "scores.csv").exists()


def test_structures_stand_apart(builder):
    text = Page(rendered(builder(task="kidney_tumor", rounds=2).arms("fl", "adp-fl").write())).text
    for part in ("Kidney and masses", "Tumor", "All structures", "HD95, mm"):
        assert part in text


def test_names_from_records_are_escaped(builder):
    made = builder(rounds=2, seeds=1).arms("fl")
    trap = '<script>alert("x")</script>'
    cell = made.cells[0]
    made.cells[0] = cell.model_copy(update={"label": trap})
    text = rendered(made.write())
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    Page(text)


def test_the_report_command_writes_a_comparison_anew(builder):
    root = builder(rounds=2, seeds=1).arms("fl", "adp-fl").write()
    result = CliRunner().invoke(app, ["report", str(root)], catch_exceptions=False)
    assert result.stdout == f"report: {root / 'report.html'}\n"
    assert (root / "run.json").is_file()
    with pytest.raises(ConfigError, match="--output has no meaning for"):
        CliRunner().invoke(app, ["report", str(root), "--output", "x.html"], catch_exceptions=False)
