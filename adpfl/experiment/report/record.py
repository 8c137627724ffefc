"""One run's records, read from the daemons' folders and joined, or refused.

A joined record exists only where one person may read all the folders it was made from. It is consistent by
construction: every site's record is of the same run, the same plan and the same declared patients as the
server's.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError, model_validator

from adpfl.config import FrozenModel, describe
from adpfl.errors import IntegrityError, StateError
from adpfl.federated.records import ServerRunRecord, SiteRunRecord

SERVER_FILE = "run.json"
SITE_FILE = "site.json"
MAX_OVERLAY_BYTES = 4 * 1024 * 1024

_OVERLAY_PREFIX = "overlay-"
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

Record = TypeVar("Record", bound=FrozenModel)


PatientsAre = Literal["patients", "lesions", "images", "some_images"]
"""What the sites' patients really are; `some_images`: patients, and single images where none was known."""


class DataNote(FrozenModel):
    """What no daemon knows of the images and every reader must: told by whoever joined the records."""

    synthetic: bool = False
    """The images were drawn by a program and show no person."""
    patients_are: PatientsAre = "patients"


class JoinedRecord(FrozenModel):
    """The server's record with those of the sites whose folders were given, in the plan's order of sites."""

    schema_version: Literal[1] = 1
    server: ServerRunRecord
    sites: tuple[SiteRunRecord, ...]
    data_note: DataNote = DataNote()

    @model_validator(mode="after")
    def _consistent(self) -> "JoinedRecord":
        _check_server(self.server)
        names = [site.site for site in self.sites]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"site {name} stands twice; each site may be joined once")
        for site in self.sites:
            _check_site(site, self.server)
        return self


@dataclass(frozen=True)
class Overlay:
    """One held-out case as the site drew it.

    Attributes:
        site: whose case it is.
        case: the case's label, local to the site.
        png: the picture's bytes.
    """

    site: str
    case: str
    png: bytes


@dataclass(frozen=True)
class JoinedRun:
    """A joined record and the pictures beside it."""

    record: JoinedRecord
    overlays: tuple[Overlay, ...]


def join(
    server: ServerRunRecord, sites: tuple[SiteRunRecord, ...], data_note: DataNote | None = None
) -> JoinedRecord:
    """Join records of one run; sites are put into the plan's order.

    Raises:
        StateError: the records are not of the same run, plan and patients, or contradict themselves.
    """
    order = {name: position for position, name in enumerate(server.plan.cohort.sites)}
    ordered = tuple(sorted(sites, key=lambda site: order.get(site.site, len(order))))
    try:
        return JoinedRecord(server=server, sites=ordered, data_note=data_note or DataNote())
    except ValidationError as error:
        raise StateError(f"records do not belong together: {describe(error, {})}") from error


def load_run(
    server_folder: Path,
    site_folders: tuple[Path, ...] = (),
    *,
    run: str | None = None,
    data_note: DataNote | None = None,
) -> JoinedRun:
    """Read and join the records below a server's folder and any number of sites' folders.

    Args:
        server_folder: holds `run.json`, or is a state folder with `runs/<run>/run.json`.
        site_folders: each holds `site.json`, or is a state folder with `runs/<run>/site.json`.
        run: which run, where a state folder holds several. The sites' folders follow the server's run.
        data_note: what is known of the images beyond the daemons' records.

    Raises:
        StateError: a record is absent, unreadable, of another version, or does not belong with the others.
        IntegrityError: an overlay named by a record is absent, outside its folder or no PNG.
    """
    server = read_record(find_record(server_folder, SERVER_FILE, run), ServerRunRecord)
    if run is not None and server.plan.run != run:
        raise StateError(f"{server_folder}: holds run {server.plan.run}; run {run} was asked for")
    paths = [find_record(folder, SITE_FILE, server.plan.run) for folder in site_folders]
    records = [read_record(path, SiteRunRecord) for path in paths]
    joined = join(server, tuple(records), data_note)
    folders = {record.site: path.parent for record, path in zip(records, paths, strict=True)}
    overlays = [
        overlay for record in joined.sites for overlay in _read_overlays(record, folders[record.site])
    ]
    return JoinedRun(record=joined, overlays=tuple(overlays))


def find_record(folder: Path, filename: str, run: str | None) -> Path:
    """Path of a record in a run's folder, or in the state folder above it.

    Raises:
        StateError: there is none, or there are several and `run` does not say which.
    """
    if not folder.is_dir():
        raise StateError(f"{folder}: there is no such folder")
    if (folder / filename).is_file():
        return folder / filename
    found = sorted(folder.glob(f"runs/{run or '*'}/{filename}"))
    if not found:
        wanted = f"runs/{run or '<run>'}/{filename}"
        raise StateError(
            f"{folder}: holds neither {filename} nor {wanted}; name the folder of a run that has started"
        )
    if len(found) > 1:
        names = ", ".join(path.parent.name for path in found)
        raise StateError(f"{folder}: holds the runs {names}; choose one with --run")
    return found[0]


def read_record(path: Path, model: type[Record]) -> Record:
    """Read one JSON record.

    Raises:
        StateError: the file cannot be read, is not JSON, or is not such a record.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise StateError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise StateError(f"{path}: is not a JSON document: {error}") from error
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise StateError(f"{path}: {describe(error, document)}") from error


def write_record(path: Path, record: FrozenModel) -> None:
    """Write a record as indented JSON; the file appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(record.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def _check_server(server: ServerRunRecord) -> None:
    if server.plan.digest() != server.plan_digest:
        raise ValueError(
            f"the server's plan_digest is {server.plan_digest[:12]}..., its plan's is "
            f"{server.plan.digest()[:12]}...; the record was altered or written by another version"
        )
    cohort = set(server.plan.cohort.sites)
    previous = 0
    for entry in server.rounds:
        if not previous < entry.round <= server.plan.rounds:
            raise ValueError(
                f"the server's round {entry.round} follows round {previous}; "
                f"rounds must rise and stay within the plan's {server.plan.rounds}"
            )
        previous = entry.round
        if strangers := (set(entry.sites) | set(entry.missing)) - cohort:
            raise ValueError(
                f"round {entry.round} names {', '.join(sorted(strangers))}; not a site of the plan"
            )
        if both := set(entry.sites) & set(entry.missing):
            raise ValueError(f"round {entry.round} names {', '.join(sorted(both))} both present and missing")


def _check_site(site: SiteRunRecord, server: ServerRunRecord) -> None:
    plan = server.plan
    if site.run != plan.run:
        raise ValueError(f"site {site.site} has run {site.run}; the server's is {plan.run}")
    if site.site not in plan.cohort.sites:
        raise ValueError(
            f"site {site.site} is no site of run {plan.run}; its plan names {', '.join(plan.cohort.sites)}"
        )
    if site.plan_digest != server.plan_digest:
        raise ValueError(
            f"site {site.site} ran plan {site.plan_digest[:12]}..., the server {server.plan_digest[:12]}...; "
            "a run has one plan"
        )
    declared = server.training_patients.get(site.site)
    if declared is not None and declared != site.training_patients:
        raise ValueError(
            f"site {site.site} trained on {site.training_patients} patients and declared {declared}"
        )
    if late := [step.round for step in site.steps if not 1 <= step.round <= plan.rounds]:
        raise ValueError(
            f"site {site.site} has a step of round {late[0]}; the plan has rounds 1 to {plan.rounds}"
        )
    evaluated = [evaluation.round for evaluation in site.evaluations]
    if evaluated != sorted(set(evaluated)) or any(not 0 <= number <= plan.rounds for number in evaluated):
        raise ValueError(
            f"site {site.site} evaluated rounds {evaluated}; must rise and stay within 0 to {plan.rounds}"
        )


def _read_overlays(record: SiteRunRecord, folder: Path) -> list[Overlay]:
    return [
        Overlay(
            site=record.site, case=Path(name).stem.removeprefix(_OVERLAY_PREFIX), png=_read_png(folder, name)
        )
        for name in record.overlays
    ]


def _read_png(folder: Path, name: str) -> bytes:
    """Bytes of one picture; a record may only name files below its own folder."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise IntegrityError(
            f"{folder}: the record names overlay {name!r}; it must lie below the record's folder"
        )
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= MAX_OVERLAY_BYTES else b""
    except OSError as error:
        raise IntegrityError(
            f"{path}: the record names this overlay; it cannot be read: {error.strerror}"
        ) from error
    if size > MAX_OVERLAY_BYTES:
        raise IntegrityError(f"{path}: overlay has {size} bytes; must be at most {MAX_OVERLAY_BYTES}")
    if not content.startswith(_PNG_SIGNATURE):
        raise IntegrityError(f"{path}: overlay is no PNG file")
    return content
