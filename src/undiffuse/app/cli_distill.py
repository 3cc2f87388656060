"""The command ``distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.app.checks import checked
from undiffuse.app.cli_options import DeviceOption, ModelArgument
from undiffuse.app.parsing import parse_duration
from undiffuse.claims import chosen_folder
from undiffuse.wording import command


@checked("distill")
def distill(
    model: ModelArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as num_images=50000")
    ] = None,
    steps: Annotated[int, typer.Option(help="of the student: 1, 2, 4 or 8")] = 2,
    method: Annotated[
        str, typer.Option(help="consistency, distribution_matching, progressive or mean_flow")
    ] = "consistency",
    start: Annotated[
        str | None, typer.Option(help="another model that the student begins as, such as a student of few steps")
    ] = None,
    data: Annotated[str | None, typer.Option(help="other pictures than those the model was trained on")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/distilled-RECIPE-NNN by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest sound checkpoint in --out")] = False,
    stop_after: Annotated[str | None, typer.Option(help="stop with a checkpoint after 90s, 10m, 1.5h")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show configuration, size and cost; write nothing")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Make a model that samples in a few steps out of a trained one."""
    seconds = parse_duration(stop_after) if stop_after is not None else None
    from undiffuse.app import distilling, training

    config = distilling.configure(model, steps, method, overrides or [], data, start)
    if dry_run:
        training.dry_run(config, device)
        return
    with chosen_folder(out, Path("runs"), config.recipe) as folder:
        if training.train(config, folder, resume=resume, stop_after_seconds=seconds, device=device):
            typer.echo(f"done: {folder}; next: {command('sample', folder, '-n', 64)}")
