"""``undiffuse report``: collect the results of runs and write the page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.api.datasets.reference_data import own_data
from undiffuse.api.loading import display_name, load, results_folder
from undiffuse.api.outputs import check_distinct, check_file
from undiffuse.api.reproducing import reproducing_command
from undiffuse.augment import AUGMENTATIONS, GRID_ROWS, AugmentConfig, augmentation_grid, grid_columns
from undiffuse.cancellation import Cancel
from undiffuse.checksums import read_checked
from undiffuse.config import Component
from undiffuse.data.audit import evenly_spaced
from undiffuse.errors import UsageError
from undiffuse.evaluation import evenly_spaced_subset, hardware
from undiffuse.evaluation.schedule import schedule_of
from undiffuse.locking import locked
from undiffuse.models.base import DenoisingModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, ProgressCallback, note, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.reports import ReportMaterial, Study, read_study, write_comparison, write_report
from undiffuse.samplers.base import Progress
from undiffuse.training.metrics_log import read_rows
from undiffuse.version import __version__
from undiffuse.wording import command

_SHOWN, _COMPARED = 64, 32
_SHOWN_POINTS = 2000
_FILMSTRIP_ROWS, _FILMSTRIP_MOMENTS = 6, 9


@known_keywords
def report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    studies: Sequence[str | Path] = (),
    device: str = "auto",
    data: str | None = None,
    *,
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """Write the page of one run, or one that compares several; returns its path.

    Args:
        runs: a run folder, a model folder or a bundled name, or several.
        out: the page; ``report.html`` in the run's folder, or ``comparison.html`` here for several.
        studies: folders of further studies, in addition to those found next to a run.
        device: ``cpu``, ``cuda`` or ``auto``.
        data: current location of the training data; by default the recorded one.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Raises:
        UsageError: no such run, one without weights, a duplicate run, no such study, or an unwritable path.
        CancelledError: it was cancelled.
    """
    named = [runs] if isinstance(runs, str | Path) else list(runs)
    with observing(observer, cancel):
        return _report(named, Path(out).expanduser() if out is not None else None, studies, device, data)


def _report(
    runs: Sequence[str | Path], out: Path | None, studies: Sequence[str | Path], device: str, data: str | None
) -> Path:
    models = [load(run, device) for run in runs]
    path = out or (results_folder(models[0].path) / "report.html" if len(models) == 1 else Path("comparison.html"))
    check_file(path, "report.html")
    names = _names(models)
    requested = [read_study(Path(folder)) for folder in studies]
    with locked(path):
        with stage("sampling") as observer:
            materials = []
            for number, (model, name) in enumerate(zip(models, names, strict=True)):
                shown, on_progress = (
                    requested if number == 0 else [],
                    partial(_report_share, observer.progress, number, len(models)),
                )
                single = len(models) == 1
                materials.append(_material(model, name, shown, single=single, moved_to=data, on_progress=on_progress))
        if len(materials) == 1:
            return write_report(path, materials[0])
        return write_comparison(path, materials)


def _report_share(on_progress: ProgressCallback, number: int, total: int, share: float) -> None:
    """Report the fraction of samples generated, over several models."""
    on_progress(number + share, total)


def report_run(model: Model) -> Path:
    """Write ``report.html`` into the run's folder; returns its path."""
    with stage("sampling") as observer:
        material = _material(
            model, _name(model), [], single=True, on_progress=partial(_report_share, observer.progress, 0, 1)
        )
    return write_report(model.path / "report.html", material)


def _material(
    model: Model,
    name: str,
    studies: Sequence[Study],
    single: bool,
    moved_to: str | None = None,
    on_progress: Callable[[float], None] = lambda share: None,
) -> ReportMaterial:
    points = not model.module.space.is_image
    count = _SHOWN_POINTS if points else _SHOWN if single else _COMPARED
    samples, frames, labels = _sample_with_frames(model, count, on_progress)
    denoises = isinstance(model.module, DenoisingModel)  # one-step generators have no intermediate predictions
    data = _real_items(model, count, moved_to)
    augmentation, columns = _augmentation(model, data)
    results = results_folder(model.path)
    return ReportMaterial(
        record=model.config,
        metrics_log=_metrics_log(model.path),
        samples=samples,
        data=data,
        name=name,
        augmentation=augmentation,
        augmentation_columns=columns,
        filmstrip=frames if denoises else None,
        filmstrip_labels=labels if denoises else [],
        evaluation=_json(results / "evaluation.json"),
        previews=model.path / "previews",
        schedule=schedule_of(model.module, model.config),
        studies=[*found_studies(model.path), *studies],
        findings=_findings(results / "doctor.json"),
        reproduce=reproducing_command(model.config),
        commands=_commands(model),
        hardware=hardware(),
        version=__version__,
    )


def _metrics_log(run: Path) -> list[dict[str, Any]]:
    """Valid rows of a run's metrics log, with a note if there are invalid ones."""
    found = read_rows(run)
    if found.note:
        note(f"{run}: {found.note}")
    return found.rows


def _names(models: Sequence[Model]) -> list[str]:
    """Names of the runs: those of their folders, or whole paths if two are equal."""
    check_distinct([model.path for model in models])
    names = [_name(model) for model in models]
    return [name if names.count(name) == 1 else str(model.path) for name, model in zip(names, models, strict=True)]


def _name(model: Model) -> str:
    return model.path.resolve().name


def found_studies(run: Path) -> list[Study]:
    """Studies of a run: in its folder ``studies``, or named after it in ``studies`` next to it or here.

    Corrupt studies are skipped with a note.
    """
    run = run.resolve()
    own = sorted(run.glob("studies/*/study.json"))
    elsewhere = [
        path
        for folder in (run.parent, Path.cwd())
        for path in sorted(folder.glob("studies/*/study.json"))
        if path.parent.name.endswith(f"-{run.name}")
    ]
    folders = dict.fromkeys(path.parent.resolve() for path in (*own, *elsewhere))
    studies = []
    for folder in folders:
        try:
            studies.append(read_study(folder))
        except UsageError as error:
            note(f"left out: {error}")
    return studies


def _real_items(model: Model, count: int, moved_to: str | None) -> Any:
    """Training items to show with the samples; empty if the data is not available."""
    try:
        return evenly_spaced_subset(own_data(model, moved_to)[0], count).numpy()
    except UsageError as error:
        note(f"the page shows no real data: {error}")
        points = not model.module.space.is_image
        return np.empty((0, *model.module.shape), np.float32 if points else np.uint8)


def _augmentation(model: Model, data: Any) -> tuple[Any, list[str]]:
    """Image grid of the training augmentation and its column labels; none without an augmentation."""
    requested = model.config["config"].get("augment", {"name": "none"})
    config = Component(AUGMENTATIONS, "augmentation").pick(requested)
    if not isinstance(config, AugmentConfig) or not config.any or not len(data):
        return None, []
    images = torch.from_numpy(data[evenly_spaced(len(data), GRID_ROWS)])
    return augmentation_grid(images, config), grid_columns(config, data.shape[1:])


def _sample_with_frames(model: Model, count: int, on_progress: Callable[[float], None]) -> tuple[Any, Any, list[str]]:
    """Samples, predicted x_0 of a subset at K steps (K, n, ...), and a label per step; none from a classifier."""
    if not model.module.generates:
        kind = np.uint8 if model.module.space.is_image else np.float32
        return np.empty((0, *model.module.shape), kind), None, []
    rows = count if not model.module.space.is_image else _FILMSTRIP_ROWS
    frames: list[torch.Tensor] = []

    def keep(first: int, progress: Progress) -> None:
        frames.append(model.finish(progress.x_0[:rows]))
        on_progress((progress.index + 1) / progress.count)

    cond = model.default_condition(count)
    request = SampleRequest(seeds=range(count), cond=cond, batch_size=count, callback=keep)
    samples = model.finish(model.module.sample(request).x).numpy()
    moments = np.unique(np.linspace(0, len(frames) - 1, _FILMSTRIP_MOMENTS).round().astype(int))
    labels = [f"step {moment + 1} of {len(frames)}" for moment in moments]
    return samples, np.stack([frames[moment].numpy() for moment in moments]), labels


def _json(path: Path) -> Any:
    """The object in a file of results, ``None`` if there is no such file.

    Raises:
        UsageError: it is corrupt.
    """
    return read_checked(path, "create it again or move it away") if path.is_file() else None


def _findings(path: Path) -> Any:
    content = _json(path)
    if content is None:
        return None
    rows = content.get("findings")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UsageError(f"{path} holds no list of findings; create it again with: {command('doctor', path.parent)}")
    return rows


def _commands(model: Model) -> dict[str, str]:
    run = display_name(model.path)
    points = not model.module.space.is_image
    if not model.module.generates:
        to_class = command(
            "sample", "MODEL", "--classifier", run, "--class", (model.class_names or ("",))[-1], "-n", 16
        )
        to_text = command("sample", "MODEL", "--classifier", run, "--prompt", "TEXT", "-n", 16)
        guiding = to_class if model.class_names else to_text
        return {"measure again": command("evaluate", run), "guide another model": guiding}
    commands = {
        f"sample 64 {'points' if points else 'images'}": command("sample", run, "-n", 64),
        "measure again, with more samples": command("evaluate", run, "--num", 5000),
        "compare it with another run": command("report", run, "OTHER"),
        "train on MNIST-format files": "undiffuse train flow-mnist --data FOLDER",
        "train on your own images": "undiffuse train --data FOLDER",
    }
    if isinstance(model.module, DenoisingModel):
        commands["see the denoising"] = command("sample", run, "-n", 8, "--progressive")
    if model.class_names:
        commands["one class only"] = command("sample", run, "--class", model.class_names[-1], "-n", 16)
    return commands
