"""Extend a finished run, if the result equals that of a run with the larger number of images.

A learning-rate schedule that depends on the run's length gives other weights in a longer run; one without an end
allows extending the run exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from undiffuse.errors import UsageError
from undiffuse.models.files.record import accept, read_record
from undiffuse.models.saved import saved_configs
from undiffuse.training.config import RunConfig
from undiffuse.training.folder import CHECKPOINTS
from undiffuse.wording import command

#: Learning-rate decays that do not depend on the run's length.
_WITHOUT_END = ("constant", "inverse_sqrt")


def is_extension(old: RunConfig, new: RunConfig, changes: Sequence[str]) -> bool:
    """Whether the only change is a larger number of images.

    Args:
        old: configuration of the existing run.
        new: requested configuration.
        changes: differences, see ``training.config.differences``.
    """
    return len(changes) == 1 and changes[0].startswith("num_images:") and new.num_images > old.num_images


def check_same_end(run: Path, old: RunConfig, new: RunConfig) -> None:
    """Raise if the learning-rate schedule depends on the run's length.

    Args:
        run: folder of the run.
        old: its configuration.
        new: requested configuration.
    Raises:
        UsageError: with the command that trains the longer run from the start.
    """
    if old.optimizer.decay not in _WITHOUT_END:
        raise UsageError(
            f"{run} was started with another configuration (num_images: {old.num_images} -> {new.num_images}), and its "
            f"learning rate falls to that end (optimizer.decay={old.optimizer.decay}); to train longer, "
            f"start a new run with: {_again(run, new.num_images)}"
        )


def extend(run: Path, num_images: int) -> None:
    """Set a larger number of images in ``config.json``.

    Args:
        run: folder of the run.
        num_images: new length of the run.
    """
    record = read_record(run)
    accept(run, saved_configs(run), {**record, "config": {**record["config"], "num_images": num_images}})


def is_finished(run: Path, config: RunConfig) -> bool:
    """Whether a run is complete, that is, has a checkpoint of its last image.

    Args:
        run: folder of the run.
        config: requested configuration.
    """
    names = (path.name.removeprefix("images_") for path in (run / CHECKPOINTS).glob("images_*"))
    return any(name.isdecimal() and int(name) >= config.num_images for name in names)


def extension_advice(run: Path, config: RunConfig) -> str:
    """Advice on training a finished run for twice as many images.

    Args:
        run: folder of the run.
        config: of it.
    """
    twice, decay = 2 * config.num_images, config.optimizer.decay
    if decay in _WITHOUT_END:
        again = command("train", "--resume", "--out", run, f"num_images={twice}")
        return f"nothing was left to train; for longer: {again}"
    return (
        f"nothing was left to train, and the learning rate has reached its end (optimizer.decay={decay}); to train "
        f"longer, start a new run with: {_again(run, twice)}"
    )


def _again(run: Path, num_images: int) -> str:
    return command("train", "--config", run, f"num_images={num_images}", "--out", "OTHER")
