"""Training a run for longer than it was asked for: gone on with where that is what a longer run would have been.

A learning rate that falls to an end of its own falls later in a longer run, whose weights are others from there on; one
that knows of no end makes a run longer without changing what it was.
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

#: Decays that do not ask for the run's length.
_WITHOUT_END = ("constant", "inverse_sqrt")


def is_longer(old: RunConfig, new: RunConfig, changes: Sequence[str]) -> bool:
    """Whether a run is to be gone on with for longer and nothing else.

    Args:
        old: configuration of the run that is there.
        new: configuration that is asked for.
        changes: what differs, see ``training.config.differences``.
    """
    return len(changes) == 1 and changes[0].startswith("num_images:") and new.num_images > old.num_images


def check_same_end(run: Path, old: RunConfig, new: RunConfig) -> None:
    """Refuse a longer run whose learning rate would have fallen later.

    Args:
        run: folder of the run.
        old: its configuration.
        new: configuration that is asked for.
    Raises:
        UsageError: says how it is trained.
    """
    if old.optimizer.decay not in _WITHOUT_END:
        raise UsageError(
            f"{run} was started with another configuration (num_images: {old.num_images} -> {new.num_images}), and its "
            f"learning rate falls to that end (optimizer.decay={old.optimizer.decay}); for longer, train it anew with: "
            f"{_again(run, new.num_images)}"
        )


def lengthen(run: Path, num_images: int) -> None:
    """Have ``config.json`` ask for more images, as if it had done so from the beginning.

    Args:
        run: folder of the run.
        num_images: that it will end at.
    """
    record = read_record(run)
    accept(run, saved_configs(run), {**record, "config": {**record["config"], "num_images": num_images}})


def is_finished(run: Path, config: RunConfig) -> bool:
    """Whether a run has seen all its images: it has a checkpoint of its end.

    Args:
        run: folder of the run.
        config: that is asked for.
    """
    names = (path.name.removeprefix("images_") for path in (run / CHECKPOINTS).glob("images_*"))
    return any(name.isdecimal() and int(name) >= config.num_images for name in names)


def how_longer(run: Path, config: RunConfig) -> str:
    """How to train a finished run for twice as many images.

    Args:
        run: folder of the run.
        config: of it.
    """
    twice, decay = 2 * config.num_images, config.optimizer.decay
    if decay in _WITHOUT_END:
        again = command("train", "--resume", "--out", run, f"num_images={twice}")
        return f"nothing was left to train; for longer: {again}"
    return (
        f"nothing was left to train, and the learning rate has come to its end (optimizer.decay={decay}); for longer, "
        f"train it anew with: {_again(run, twice)}"
    )


def _again(run: Path, num_images: int) -> str:
    return command("train", "--config", run, f"num_images={num_images}", "--out", "OTHER")
