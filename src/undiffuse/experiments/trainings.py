"""Shared code of studies that train several models: early checks, and trainings that resume."""

from __future__ import annotations

import time
from pathlib import Path

from undiffuse.api.arguments import check_trainings
from undiffuse.api.loading import load
from undiffuse.api.outputs import check_study_folder
from undiffuse.api.training import MeasuredBy, train_run
from undiffuse.errors import RERUN, StoppedError
from undiffuse.models.saved import Model
from undiffuse.observer import announce
from undiffuse.progress import duration, is_off
from undiffuse.training.config import RunConfig

#: A part that takes less time was finished before and only read.
_SECONDS_OF_READING = 1.0


class Parts:
    """Announces the current part of a study and, from the second on, the estimated remaining time.

    Args:
        what: name of a part, such as ``training``.
        count: number of parts.
    """

    def __init__(self, what: str, count: int) -> None:
        self._what, self._count, self._number = what, count, 0
        self._durations, self._started = list[float](), time.monotonic()

    def begin(self, description: str) -> None:
        """Announce the next part; a part that took no time was finished by an earlier command and is not used for
        estimates.
        """
        now = time.monotonic()
        if self._number and now - self._started > _SECONDS_OF_READING:
            self._durations.append(now - self._started)
        self._number, self._started = self._number + 1, now
        left = (self._count - self._number + 1) * sum(self._durations) / max(len(self._durations), 1)
        more = f" (remaining: about {duration(left)})" if self._durations and not is_off() else ""
        announce(f"{self._what} {self._number} of {self._count}: {description}{more}")


def check_study(out: Path, *, images: int | None, samples: int, seed: int, fewest_samples: int = 1) -> None:
    """Check the numbers and the output folder before any training.

    Args:
        out: folder of the study, which contains ``cells/`` and ``runs/`` if it was interrupted.
        images: images seen by each training; ``None`` if the study determines the number.
        samples: samples per model, at least ``fewest_samples``.
    Raises:
        UsageError: if a number is out of range, or the folder has other content.
    """
    check_trainings(images, samples, seed, fewest_samples)
    check_study_folder(out)


def trained(config: RunConfig, run: Path, device: str, measured_by: MeasuredBy | None = None) -> Model:
    """Start or resume the training in ``run``, or load a finished one, and return its model.

    Args:
        config: of the training.
        run: its folder.
        device: ``cpu``, ``cuda`` or ``auto``.
        measured_by: see ``train_run``.
    Raises:
        RunError: if training fails.
        StoppedError: if it was stopped; a checkpoint was written.
        UsageError: if the folder has a training with another configuration.
    """
    try:
        train_run(config, run, resume=(run / "config.json").is_file(), device=device, measured_by=measured_by)
    except StoppedError as stop:
        raise stop.with_advice(RERUN) from None
    return load(run, device)
