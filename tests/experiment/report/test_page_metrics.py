"""The page of runs that are not skin: several structures in millimetres, and a classifier's AUROC."""

from adpfl.experiment.report.page import render
from adpfl.experiment.report.record import DataNote, JoinedRun, Overlay, join
from adpfl.federated.records import CaseScore, EvaluationRecord, PresenceScore, SiteRunRecord


def _joined(server_of, site_of, plan, evaluate, png=None, *, names=None):
    sites = []
    for name in names or plan.cohort.sites:
        record: SiteRunRecord = site_of(plan, name, overlays=("overlay-case-000.png",) if png else ())
        evaluations = tuple(evaluate(number) for number in range(plan.rounds + 1))
        sites.append(record.model_copy(update={"evaluations": evaluations}))
    overlays = tuple(Overlay(site=site.site, case="case-000", png=png) for site in sites if png)
    note = DataNote(synthetic=True)
    return JoinedRun(record=join(server_of(plan), sites, data_note=note), overlays=overlays)


def _volumes(number):
    scores = tuple(
        CaseScore(
            case=f"case-{patient:03d}",
            patient=f"patient-{patient:03d}",
            structure=structure,
            dice=value,
            hd95=4.0,
            hd95_unit="mm",
            assd=1.25,
            surface_dice=0.4321,
        )
        for patient in range(3)
        for structure, value in (("whole_tumor", 0.9), ("tumor_core", 0.5))
    )
    return EvaluationRecord(round=number, mean_dice=0.7, scores=scores)


def _tiles(number, shown=4):
    presences = tuple(
        PresenceScore(
            case=f"case-{patient:03d}",
            patient=f"patient-{patient:03d}",
            structure="lesion",
            crops=9,
            shown=shown,
            mean_probability=0.4,
        )
        for patient in range(3)
    )
    area = 0.5 + 0.04 * number if 0 < shown < 9 else None
    return EvaluationRecord(round=number, mean_dice=None, scores=(), auroc=area, presences=presences)


def test_structures_have_their_surfaces_and_pictures_their_own_legend(plan_of, server_of, site_of, png_of):
    plan = plan_of("adp-fl").model_copy(
        update={"task": "brain_tumor", "image_size": (48, 48, 48), "spacing_mm": (2.5, 2.0, 2.0)}
    )
    page = render(_joined(server_of, site_of, plan, _volumes, png_of()))
    for told in ("Surface Dice", "0.432", "1.25 mm", "4 mm", "48 × 48 × 48 voxels of 2.5 × 2 × 2 mm"):  # noqa: RUF001
        assert told in page
    assert "on the left outlines of the reference" in page
    assert "Dice 0.70" in page  # of a case: the mean over its structures
    assert "brain-tumour segmentation" in page


def test_a_classifier_is_told_by_its_auroc(plan_of, server_of, site_of):
    plan = plan_of("adp-fl").model_copy(update={"task": "skin_lesion_presence"})
    page = render(_joined(server_of, site_of, plan, _tiles))
    final = f"{0.5 + 0.04 * plan.rounds:.3f}"
    assert f"<strong>{final}</strong>" in page
    assert "AUROC, final" in page
    assert "AUROC, mean of sites" in page
    assert "AUROC on held-out patients" in page
    assert "AUROC over 27 crops that cover the held-out images, 12 of which show the structure." in page
    for absent in ("HD95", "Dice, final", 'id="patients"', 'id="overlays"'):
        assert absent not in page


def test_one_sites_own_report_gives_its_score_its_name(plan_of, server_of, site_of):
    plan = plan_of("adp-fl").model_copy(update={"task": "skin_lesion_presence"})
    name = plan.cohort.sites[0]
    page = render(_joined(server_of, site_of, plan, _tiles, names=[name]))
    assert f"AUROC, {name}" in page
    assert "mean of sites" not in page


def test_an_auroc_that_cannot_be_is_said(plan_of, server_of, site_of):
    plan = plan_of("fl").model_copy(update={"task": "skin_lesion_presence"})
    page = render(_joined(server_of, site_of, plan, lambda number: _tiles(number, shown=9)))
    assert "undefined, because every crop shows the structure" in page
    assert 'id="convergence"' not in page
