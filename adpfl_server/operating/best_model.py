"""The best of a run's kept models, by their scores on a public validation folder.

What the sites' own patients would say of a model stays at the sites: it would have to be noised and charged,
and no plan of this version names such a metric. So the choice rests on images that are nobody's secret. The
scoring loads torch, in the command's own process; the daemon never does.
"""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from adpfl.errors import ConfigError, DataError, StateError
from adpfl.federated.records import EvaluationRecord
from adpfl.federated.run_plan import RunPlan
from adpfl.security.private_files import replace_file
from adpfl_server.config import ServerConfig
from adpfl_server.operating.export import Found, export_found
from adpfl_server.operating.overview import open_store
from adpfl_server.storage.collection import reading
from adpfl_server.storage.weights import export_weights
from adpfl_server.store import Store

WHY_PUBLIC: Final = (
    "--best needs --validation DIR, public images and masks in a layout of the run's task: no score of the "
    "sites' own patients leaves a site, for it would have to be noised and charged. Without such a folder, "
    "export the newest model (--last), or let each site look at its own scores"
)


@dataclass(frozen=True)
class Score:
    """What one kept model scored."""

    found: Found
    metric: str
    value: float | None

    @property
    def weights(self) -> str:
        """As the table names it."""
        return "averaged" if self.found.averaged else "model"

    def __str__(self) -> str:
        """One line."""
        value = "undefined" if self.value is None else f"{self.value:.4f}"
        kind = "average up to round" if self.found.averaged else "model of round"
        return f"{kind} {self.found.round_number}: {self.metric} {value}"


def export_best(
    config: ServerConfig,
    run: str,
    path: Path,
    validation: Path | None,
    *,
    bundle: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> str:
    """Score every kept model of a run, write the best one and a table of all scores beside it.

    Args:
        config: the server's.
        run: its name.
        path: the safetensors file, or the bundle's folder; the table is `<path>.scores.csv`.
        validation: a public folder of images and masks.
        bundle: write a folder that MONAI loads, and not a single file.
        say: told each score as it is known.

    Returns:
        One line that says which model it is.

    Raises:
        ConfigError: there is no validation folder.
        StateError: there is no such run, torch is absent, or a file cannot be written.
        DataError: the folder cannot be used, or no score of it is defined.
        IntegrityError: a model is damaged on disk.
    """
    if validation is None:
        raise ConfigError(WHY_PUBLIC)
    with open_store(config) as store, reading(config.state_dir):
        state = store.state(run)
        scores = []
        for score in _scores(store, state.plan, validation):
            say(str(score))
            scores.append(score)
        best = _best(scores, validation)
        told = export_found(store, state, best.found, path, bundle=bundle)
    table = path.with_name(f"{path.name}.scores.csv")
    replace_file(table, _table(scores, best), mode=0o644)
    return f"{told}; the best of {len(scores)} by {best.metric} on {validation}, all of them in {table}"


def _scores(store: Store, plan: RunPlan, validation: Path) -> Iterator[Score]:
    candidates = list(_kept(store, plan.run))
    with tempfile.TemporaryDirectory(prefix="adpfl-best-") as folder:
        files = []
        for position, found in enumerate(candidates):
            path = Path(folder) / f"{position}.safetensors"
            number, averaged = found.round_number, found.averaged
            export_weights(
                path, found.manifest, store.blobs, plan=plan, round_number=number, averaged=averaged
            )
            files.append((number, path))
        records = _score_models(plan, files, validation)
        for found, record in zip(candidates, records, strict=True):
            yield Score(found, record.metric, record.value)


def _score_models(
    plan: RunPlan, files: Sequence[tuple[int, Path]], validation: Path
) -> Iterator[EvaluationRecord]:
    try:
        from adpfl.learning.validation import score_models  # noqa: PLC0415 - loads torch
    except ImportError as error:
        raise StateError(
            f"--best needs {error.name}, which is not installed here; run it where torch is, on a copy of "
            "the state folder"
        ) from error
    return score_models(plan, files, validation)


def _kept(store: Store, run: str) -> Iterator[Found]:
    for kept, averaged in ((store.kept_models(run), False), (store.kept_averages(run), True)):
        for number, digest in sorted(kept.items()):
            manifest = store.manifest(digest)
            if manifest is not None:
                yield Found(manifest, number, averaged)


def _best(scores: Sequence[Score], validation: Path) -> Score:
    """The highest score; of equals the newest, and of one round the model itself."""
    known = [(score.value, score) for score in scores if score.value is not None]
    if not known:
        raise DataError(
            f"{validation}: no model has a defined score on it; choose a folder with both answers"
        )
    return max(known, key=lambda one: (one[0], one[1].found.round_number, not one[1].found.averaged))[1]


def _table(scores: Sequence[Score], best: Score) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("round", "weights", "metric", "value", "best"))
    for score in scores:
        value = "" if score.value is None else repr(score.value)
        writer.writerow(
            (score.found.round_number, score.weights, score.metric, value, "yes" if score is best else "")
        )
    return text.getvalue().encode("ascii")
