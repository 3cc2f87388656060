"""What studies share that train several models: what is refused at once, and trainings that go on where they were."""

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

#: A part that takes no longer was made before, and is read alone.
_SECONDS_OF_READING = 1.0


class Parts:
    """Says which part of a study is under way, and from the second on how long all that are left will take.

    Args:
        what: a part is, such as ``training``.
        count: parts.
    """

    def __init__(self, what: str, count: int) -> None:
        self._what, self._count, self._number = what, count, 0
        self._made, self._began = list[float](), time.monotonic()

    def begin(self, words: str) -> None:
        """The next part; one that took no time was there from a command before, and says nothing of the others."""
        now = time.monotonic()
        if self._number and now - self._began > _SECONDS_OF_READING:
            self._made.append(now - self._began)
        self._number, self._began = self._number + 1, now
        left = (self._count - self._number + 1) * sum(self._made) / max(len(self._made), 1)
        more = f" (all that are left: about {duration(left)})" if self._made and not is_off() else ""
        announce(f"{self._what} {self._number} of {self._count}: {words}{more}")


def check_study(out: Path, *, images: int | None, samples: int, seed: int, fewest_samples: int = 1) -> None:
    """Refuse before any training senseless numbers, and a folder that holds something else.

    Args:
        out: of the study, with ``cells/`` and ``runs/`` in it where it was interrupted.
        images: seen by each training; ``None`` where the study says how many.
        samples: drawn of each model, at least ``fewest_samples``.
    Raises:
        UsageError: one line that says which.
    """
    check_trainings(images, samples, seed, fewest_samples)
    check_study_folder(out)


def trained(config: RunConfig, run: Path, device: str, measured_by: MeasuredBy | None = None) -> Model:
    """Train a model, or resume or load what is in ``run``.

    Args:
        config: of the training.
        run: its folder.
        device: ``cpu``, ``cuda`` or ``auto``.
        measured_by: see ``train_run``.
    Raises:
        RunError: the training failed.
        StoppedError: it was stopped; a checkpoint was written.
        UsageError: the folder holds a training with another configuration.
    """
    try:
        train_run(config, run, resume=(run / "config.json").is_file(), device=device, measured_by=measured_by)
    except StoppedError as stop:
        raise stop.with_advice(RERUN) from None
    return load(run, device)
