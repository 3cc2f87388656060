"""What studies share that train several models: what is refused at once, and trainings that go on where they were."""

from __future__ import annotations

from pathlib import Path

from undiffuse.app.models import load
from undiffuse.app.training import train
from undiffuse.errors import UsageError
from undiffuse.files import check_writable
from undiffuse.systems.saved import Model
from undiffuse.training.config import RunConfig


def check_study(out: Path, *, images: int | None, samples: int, seed: int, fewest_samples: int = 1) -> None:
    """Refuse before any training senseless numbers, and a folder that holds something else.

    Args:
        out: of the study, with ``cells/`` and ``runs/`` in it where it was interrupted.
        images: seen by each training; ``None`` where the study says how many.
        samples: drawn of each model, at least ``fewest_samples``.
    Raises:
        UsageError: one line that says which.
    """
    if images is not None and images < 1:
        raise UsageError(f"--images must be at least 1, got {images}")
    if samples < fewest_samples:
        raise UsageError(f"--num must be at least {fewest_samples}, got {samples}")
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed must be a whole number from 0 to 2**63 - 1, got {seed}")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "cells").is_dir() and not (out / "runs").is_dir():
        raise UsageError(f"--out {out} holds something other than this study; name another folder")
    check_writable(out)


def trained(config: RunConfig, run: Path, device: str) -> Model:
    """The model of a training that is done, gone on with, or begun.

    Raises:
        RunError: it broke down.
        KeyboardInterrupt: it was stopped.
        UsageError: the folder holds a training with another configuration.
    """
    if not train(config, run, resume=(run / "config.json").is_file(), device=device):
        raise KeyboardInterrupt  # a checkpoint is written; the same command goes on from it
    return load(run, device)
