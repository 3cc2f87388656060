"""Output of the commands ``train`` and ``distill`` at the end of training."""

from __future__ import annotations

import typer

from undiffuse.api.training import TrainedRun
from undiffuse.errors import StoppedError
from undiffuse.wording import command


def print_summary(run: TrainedRun) -> None:
    """Print the next command: sampling from a finished run, or resuming one that was stopped.

    Raises:
        StoppedError: a signal stopped the run; the exit code is 128 + the signal's number.
    """
    if run.finished:
        typer.echo(f"done: {run.folder}; next: {run.next_command}")
        return
    cause = f" ({run.cause})" if run.cause else ""
    resume = command("train", "--resume", "--out", run.folder)
    text = f"stopped at {run.num_images} images with a checkpoint{cause}; resume with: {resume}"
    if run.signal:
        raise StoppedError(text, run.signal)
    typer.echo(text)
