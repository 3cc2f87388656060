"""What the commands ``train`` and ``distill`` print when a training ends."""

from __future__ import annotations

import typer

from undiffuse.api.training import TrainedRun
from undiffuse.errors import StoppedError
from undiffuse.wording import command


def report_end(run: TrainedRun) -> None:
    """Print the command that follows: sampling from a finished run, or resuming one that stopped early.

    Raises:
        StoppedError: a signal stopped it; the exit code is 128 + the signal's number.
    """
    if run.finished:
        typer.echo(f"done: {run.folder}; next: {command('sample', run.folder, '-n', 64)}")
        return
    cause = f" ({run.cause})" if run.cause else ""
    resume = command("train", "--resume", "--out", run.folder)
    text = f"stopped at {run.num_images} images with a checkpoint{cause}; resume with: {resume}"
    if run.signal:
        raise StoppedError(text, run.signal)
    typer.echo(text)
