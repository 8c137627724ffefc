"""How every figure of the report is defined, in words that a reviewer can hold it to."""

from adpfl.experiment.report.comparison.contents import Contents
from adpfl.experiment.report.comparison.targets import LARGEST_LOSS
from adpfl.experiment.report.privacy_words import Fact

_MEANS = (
    "All means are plain. A patient's cases (and, for a figure over all structures, its structures) are "
    "averaged first, so that a patient counts once; a site's figure is the mean over its held-out "
    "patients; a run's figure is the mean over sites, whatever their sizes; an arm's figure is the mean "
    "over runs. Only the last global model is scored: no model is chosen by its score."
)
_RUNS = (
    "Runs of one arm differ in initial weights and augmentation, by their seed, and in sampling and "
    "noise, which no seed governs. Images, partition and split are the same in all of them. ± is the "
    "sample standard deviation (n - 1) of the runs' figures."
)
_DIFFERENCE = (
    "An arm's figure minus FL's, run by run of the same seed; the mean of these differences with "
    "Student's t interval (95%, n - 1 degrees of freedom). n is the number of pairs. With few pairs the "
    "interval is wide and rests on differences being about normal; it speaks of other seeds on these "
    "patients, not of other patients. In brackets, the mean difference over FL's mean."
)
_VARIATION = (
    "Coefficient of variation: standard deviation over mean. Between runs: of the runs' figures. Between "
    "patients: of all sites' held-out patients within one run, then the mean over runs. Ratios are to "
    "FL's own."
)
_DISTANCES = (
    "HD95 and ASSD do not exist where one of the two masks is empty. Such a case is left out of the "
    "patient's mean, and a patient without any distance out of the site's; both count as Dice 0 if only "
    "one mask is empty, and as Dice 1 if both are. How many patients had no distance stands in its own "
    "column: an arm that misses structures altogether can show small distances on the rest, so read "
    "distances beside Dice."
)
_SHORT_OF = (
    f"An arm is within {LARGEST_LOSS:.0%} of FL, or clearly under it by more, where the whole interval of "
    "the difference lies on that side of the limit. A ratio of variations keeps to its limit, or breaks it, "
    "where its whole interval does: between patients, the interval of the runs' paired differences over FL's "
    "mean; between runs, what the F distribution leaves open for so many runs of each, as if they were "
    "normal and independent. Everywhere else it cannot be told, and the estimate only points somewhere."
)
_OVERHEAD = (
    "Coordination is everything in a run but local training (with the loading of its images) and the scoring "
    "of held-out patients: reading folders, rounds, sums, checkpoints, records. Beside it stands everything "
    "but local training, scoring included. Shares are of the runs' times added up; start-up, the generation "
    "of images and this report lie outside every run."
)
_MIS_SET = (
    "Its C in the main arms is mis-set on purpose, as a C is that nobody could tune on private gradients; it "
    "does not show what a fixed threshold can reach. The curve over C does, where one was run."
)
_STEPS = (
    "DP-FL trains with FL's learning rate, which is not tuned to its C: a small C clips most gradients, and "
    "so also means small steps."
)
_CHOSEN = (
    "The best C of a curve, and the learning rates and percentiles that tasks come with, were found by "
    "looking at held-out scores. Such a search costs privacy that no figure here counts, and what it picks "
    "is optimistic: it is the best of several, on the patients that it was picked by."
)
_CURVES = (
    "Every point is a whole training; the ring marks where the arm itself was compared. Points may have "
    "fewer runs than the arms, often one: n stands in the table. Whiskers span the lowest to the "
    "highest run, as the bands of the convergence chart do."
)
_EPSILON = (
    "The honest ε is what the site's accountant certifies for the released updates of one run, at δ. Of "
    "an arm the largest of its sites and runs is shown. Where it is infinite, a second figure says what "
    "this noise would give had the thresholds been fixed without looking at the data; it is no guarantee "
    "of the run. The nominal ε only names the noise."
)


_AVERAGED = (
    "Where a plan averages parameters over rounds, the average is what is scored, in the place of the last "
    "global model."
)


def definitions(contents: Contents) -> tuple[Fact, ...]:
    """The definitions that this comparison's figures need."""
    rows = [Fact("Means", _MEANS), Fact("Runs", _RUNS), Fact("Difference to FL", _DIFFERENCE)]
    rows.append(Fact("Variation", _VARIATION))
    if contents.averaged:
        rows.append(Fact("Averaged parameters", _AVERAGED))
    rows += [Fact(metric.label, f"{metric.meaning}.") for metric in contents.metrics]
    if any(metric.is_distance for metric in contents.metrics):
        rows.append(Fact("Missing distances", _DISTANCES))
    rows.append(Fact("Reached, not reached, cannot be told", _SHORT_OF))
    if contents.timings:
        rows.append(Fact("Overhead", _OVERHEAD))
    if contents.settings.arm("dp-fl") or contents.curve("clip_norm"):
        rows.append(Fact("DP-FL", f"{_MIS_SET} {_STEPS}" if contents.mis_set else _STEPS))
    rows.append(Fact("Chosen values", _CHOSEN))
    if contents.curves:
        rows.append(Fact("Curves", _CURVES))
    rows.append(Fact("ε", _EPSILON))
    return tuple(rows)
