"""``undiffuse doctor``: find problems of a data set or a run, with evidence and advice."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from undiffuse.api.arguments import check_examination
from undiffuse.api.configuration.sources import as_recipe_reads, configured, supported_options
from undiffuse.api.datasets.reference_data import held_out_data, own_data
from undiffuse.api.loading import find_model, names_run, pick_device
from undiffuse.api.outputs import check_file
from undiffuse.cancellation import Cancel
from undiffuse.checksums import with_checksum
from undiffuse.config import validate
from undiffuse.data import source_config_for
from undiffuse.data.dataset import Dataset
from undiffuse.diagnostics import DATA_CHECKS, RUN_CHECKS, SEVERITIES, Examination, examine
from undiffuse.diagnostics import Finding as Finding
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.limits import NEAR
from undiffuse.diagnostics.run_context import CheckpointState, RunContext
from undiffuse.errors import UsageError
from undiffuse.evaluation.modes import mode_counter
from undiffuse.files import write_json
from undiffuse.locking import locked
from undiffuse.metrics.features import fitting_features
from undiffuse.models.files.record import read_record
from undiffuse.models.saved import check_seeds, read_config
from undiffuse.observer import Observing, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.training.checkpoint import load_checkpoint
from undiffuse.training.config import RunConfig
from undiffuse.training.metrics_log import read_rows
from undiffuse.version import __version__
from undiffuse.wording import count_noun


@dataclass(frozen=True)
class Diagnosis:
    """Result of an examination.

    Attributes:
        subject: name of what was examined.
        examination: findings, and which checks were run.
        looked_at: for data, (number of examined items, number of all items).
        file: that the findings were written to, if any.
    """

    subject: str
    examination: Examination
    looked_at: tuple[int, int] | None
    file: Path | None

    @property
    def findings(self) -> Sequence[Finding]:
        """Findings with severity, evidence and advice."""
        return self.examination.findings

    @property
    def is_well(self) -> bool:
        """Whether there is neither a warning nor a problem."""
        return self.examination.is_well

    @property
    def summary(self) -> str:
        """Numbers of findings, of examined items and of checks, in one line."""
        found, looked_at = self.examination, self.looked_at
        counts = {severity: sum(finding.severity == severity for finding in found.findings) for severity in SEVERITIES}
        named = [count_noun(counts[name], name) for name in ("problem", "warning", "note")]
        where = f" in {looked_at[0]:,} of {count_noun(looked_at[1], 'item')}" if looked_at is not None else ""
        not_run = f", {len(found.not_run)} of them could not be run" if found.not_run else ""
        return f"{', '.join(named)}{where}; {count_noun(len(found.checked), 'check')} in {found.seconds:.0f} s{not_run}"


@known_keywords
def doctor(
    subject: str | Path,
    *,
    against: str | None = None,
    options: Sequence[str] = (),
    recipe: str | None = None,
    data: str | None = None,
    near: float | None = None,
    num: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> Diagnosis:
    """Examine a run, a model or data: find problems, with the evidence and advice.

    Args:
        subject: a run folder, a model folder, a bundled model's name, or anything that names data.
        against: for data, a set that must share no image with it; for a run, held-out images.
        options: ``key=value`` texts for the data and for ``against``.
        recipe: for data, read it with the data options of this recipe.
        data: for a run, current location of its training data.
        near: for data, threshold on the distance of near-duplicates.
        num: for a run, number of samples to draw.
        seed: of the first of them.
        out: a JSON file to write; by default ``doctor.json`` in a run's folder, and none for data.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Returns:
        The findings.
    Raises:
        UsageError: an unknown subject, options that do not apply to it, or a file that cannot be written.
        CancelledError: it was cancelled.
    """
    with observing(observer, cancel):
        return _examine(str(subject), against, options, recipe, data, near, num, seed, out, device)


def _examine(
    subject: str,
    against: str | None,
    options: Sequence[str],
    recipe: str | None,
    data: str | None,
    near: float | None,
    num: int | None,
    seed: int,
    file: str | Path | None,
    device: str,
) -> Diagnosis:
    is_run = names_run(subject)
    check_examination(is_run, near, num, recipe, data)
    out = _output_path(subject, is_run, Path(file).expanduser() if file is not None else None)
    with locked(out), stage("examining") as observer:
        if is_run:
            check_seeds(seed, num or 1)
            run = _run(subject, against, options, data, num, seed, device)
            found, looked_at = examine(RUN_CHECKS, run, observer), None
        else:
            looked = _data(subject, against, options, recipe, NEAR if near is None else near)
            found, looked_at = examine(DATA_CHECKS, looked, observer), looked.coverage
        if out is not None:
            write_json(out, with_checksum(_record("run" if is_run else "data", subject, against, found, looked_at)))
    return Diagnosis(subject, found, looked_at, out)


def _output_path(subject: str, is_run: bool, requested: Path | None) -> Path | None:
    """Path of the file of findings, if any; checked before the examination."""
    folder = Path(subject).expanduser()
    out = requested or (folder / "doctor.json" if is_run and folder.is_dir() else None)
    check_file(out, "doctor.json", "--json")
    return out


def _data(subject: str, against: str | None, options: Sequence[str], recipe: str | None, near: float) -> DataContext:
    """Context of a data set; checks names without reading the data."""
    config, other = source_config_for(subject), None
    if against is not None:
        other_source = source_config_for(against)
        other = DataContext(
            against, configured(as_recipe_reads(other_source, recipe), supported_options(other_source, options))
        )
    location = getattr(config, "location", None)
    if location is not None and not location.exists():
        raise UsageError(f"no such file or folder: {location}; check the path")
    return DataContext(subject, configured(as_recipe_reads(config, recipe), options), other, near)


def _run(
    name: str,
    against: str | None,
    options: Sequence[str],
    data: str | None,
    num: int | None,
    seed: int,
    device: str,
) -> RunContext:
    if options and against is None:
        raise UsageError(f"{options[0]} applies to the data of --against, which is not given; leave it out")
    folder = find_model(name)
    record, log = read_record(folder), read_rows(folder)
    subject = RunContext(
        folder=folder,
        record=record,
        load_data=lambda: _real(subject, against, options, data),
        metrics_log=log.rows,
        metrics_log_note=log.note,
        checkpoints=_checkpoints(folder),
        config_error=_config_error(folder),
        num=num or 256,
        seed=seed,
        device=pick_device(device),
    )
    with contextlib.suppress(UsageError):  # weights that cannot be loaded are a finding
        subject.features = fitting_features(subject.model.module.shape, subject.model.origin)
        subject.count_modes = mode_counter(record, subject.shape, subject.model.origin, lambda: subject.data[0])
    return subject


def _real(
    subject: RunContext, against: str | None, options: Sequence[str], moved_to: str | None
) -> tuple[Dataset, Dataset]:
    train, held_out = own_data(subject.model, moved_to)
    return train, held_out if against is None else held_out_data(subject.model, against, options)


def _config_error(folder: Path) -> str:
    try:
        validate(RunConfig, read_config(folder)["config"], "config.json: config")
    except UsageError as error:
        return str(error)
    return ""


def _checkpoints(folder: Path) -> list[CheckpointState]:
    paths = sorted((folder / "checkpoints").glob("*images_*"), key=lambda path: path.name.removeprefix("damaged_"))
    return [_checkpoint(path) for path in reversed(paths)]


def _checkpoint(path: Path) -> CheckpointState:
    size = sum(file.stat().st_size for file in path.iterdir() if file.is_file()) if path.is_dir() else 0
    try:
        counters = load_checkpoint(path).counters
    except UsageError as error:
        return CheckpointState(path.name, size, str(error))
    return CheckpointState(path.name, size, "", tuple(counters.get("settings") or ()))


def _record(
    kind: str, subject: str, against: str | None, found: Examination, looked_at: tuple[int, int] | None
) -> dict[str, Any]:
    name = Path(subject).expanduser().resolve().name if kind == "run" else subject
    items = {"looked_at": looked_at[0], "items": looked_at[1]} if looked_at is not None else {}
    return {"doctor": kind, "subject": name, "against": against, **items, "undiffuse": __version__, **found.to_dict()}
