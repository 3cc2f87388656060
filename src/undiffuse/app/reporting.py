"""``undiffuse report``: gather what a run has to show and write its page."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.app.evaluating import real_data
from undiffuse.app.show import warn
from undiffuse.errors import UsageError
from undiffuse.evaluation import hardware, spread
from undiffuse.report import ReportMaterial, write_report
from undiffuse.samplers.base import Progress
from undiffuse.systems.base import SampleRequest
from undiffuse.systems.saved import Model
from undiffuse.training.journal import read_journal
from undiffuse.version import __version__

_SHOWN = 64
_SHOWN_POINTS = 2000
_FILMSTRIP_ROWS, _FILMSTRIP_MOMENTS = 6, 9


def report_run(model: Model) -> Path:
    """Write ``report.html`` into the run's folder; returns its path."""
    points = len(model.system.shape) != 3
    count = _SHOWN_POINTS if points else _SHOWN
    samples, frames, labels = _sample_with_frames(model, count)
    material = ReportMaterial(
        record=model.config,
        journal=read_journal(model.path),
        samples=samples,
        data=_real(model, count),
        filmstrip=frames,
        filmstrip_labels=labels,
        evaluation=_evaluation(model.path),
        commands=_commands(model),
        hardware=hardware(),
        version=__version__,
    )
    return write_report(model.path, samples=material)


def _real(model: Model, count: int) -> Any:
    """Training items to show beside the samples; none where an exported model came without its data."""
    try:
        return spread(real_data(model, None)[0](), count).numpy()
    except UsageError as error:
        warn(f"the page shows no real data: {error}")
        points = len(model.system.shape) != 3
        return np.empty((0, *model.system.shape), np.float32 if points else np.uint8)


def _sample_with_frames(model: Model, count: int) -> tuple[Any, Any, list[str]]:
    """Samples, x_0-hat of some of them at some moments (K, n, ...), and a label a moment."""
    rows = count if len(model.system.shape) != 3 else _FILMSTRIP_ROWS
    frames: list[torch.Tensor] = []

    def keep(first: int, progress: Progress) -> None:
        frames.append(model.finish(progress.x_0[:rows]))

    cond = model.condition(model.classes_of(None, count))
    request = SampleRequest(seeds=range(count), cond=cond, batch_size=count, callback=keep)
    samples = model.finish(model.system.sample(request).x).numpy()
    moments = np.unique(np.linspace(0, len(frames) - 1, _FILMSTRIP_MOMENTS).round().astype(int))
    labels = [f"step {moment + 1} of {len(frames)}" for moment in moments]
    return samples, np.stack([frames[moment].numpy() for moment in moments]), labels


def _evaluation(run: Path) -> Any:
    path = run / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _commands(model: Model) -> dict[str, str]:
    run = shlex.quote(str(model.path))
    commands = {
        "sample 64 pictures": f"undiffuse sample {run} -n 64",
        "see the denoising": f"undiffuse sample {run} -n 8 --progressive",
        "measure again, with more samples": f"undiffuse evaluate {run} --num 5000",
        "train on MNIST-format files": "undiffuse train flow-mnist --data FOLDER",
        "train on your own pictures": "undiffuse train ddpm-church48 --data FOLDER",
    }
    if model.class_names:
        commands["one class only"] = f"undiffuse sample {run} --class {shlex.quote(model.class_names[-1])} -n 16"
    return commands
