"""Both reports in a real browser: nothing complained of, nothing asked for, nothing wider than the window."""

import pytest

from adpfl.experiment.report.page import write_page
from adpfl.experiment.report.record import JoinedRun, Overlay, join

WIDTHS = (1280, 390)


@pytest.fixture
def page(tmp_path, plan_of, server_of, site_of, png_of):
    plan = plan_of("adp-fl")
    sites = tuple(site_of(plan, name) for name in plan.cohort.sites)
    overlays = tuple(Overlay(site=site.site, case="case-001", png=png_of()) for site in sites)
    write_page(tmp_path / "report.html", JoinedRun(join(server_of(plan), sites), overlays))
    return tmp_path / "report.html"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_a_runs_page_is_quiet_and_alone(browser, page, width, dark):
    visit = browser.visit(page, width=width, dark=dark)
    assert visit.messages == []
    assert [url for url in visit.requests if not url.startswith("data:")] == [page.absolute().as_uri()]
    assert visit.broken == 0
    assert visit.content_width <= width


def test_on_paper_panels_stand_two_abreast_and_names_stay_with_their_pictures(browser, page):
    asked = (
        "getComputedStyle(document.querySelector('.panels')).gridTemplateColumns.split(' ').length",
        "getComputedStyle(document.querySelector('.panel-title')).breakAfter",
        "getComputedStyle(document.querySelector('.panels > *')).breakInside",
        "getComputedStyle(document.querySelector('.box')).printColorAdjust",
    )
    assert browser.visit(page, width=680, media="print", asked=asked).answers == [
        2,
        "avoid",
        "avoid",
        "exact",
    ]


def test_the_browser_would_tell_of_an_error_and_of_a_request(browser, tmp_path):
    guilty = tmp_path / "guilty.html"
    guilty.write_text(
        "<!doctype html><img src='http://127.0.0.1:9/x.png'><div style='width: 3000px'>x</div>"
        "<script>console.error('told')</script>"
    )
    visit = browser.visit(guilty, width=390)
    assert any("told" in message for message in visit.messages)
    assert "http://127.0.0.1:9/x.png" in visit.requests
    assert (visit.broken, visit.content_width >= 3000) == (1, True)
