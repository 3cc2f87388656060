"""The command ``distill``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.api.configuration.parsing import parse_duration
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import DeviceOption, DryRunOption, ModelArgument, ResumeOption, StopAfterOption


@checked("distill")
def distill(
    model: ModelArgument,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as num_images=50000")
    ] = None,
    steps: Annotated[int, typer.Option(help="sampling steps of the student: 1, 2, 4 or 8")] = 2,
    method: Annotated[
        str, typer.Option(help="consistency, distribution_matching, progressive or mean_flow")
    ] = "consistency",
    start: Annotated[
        str | None, typer.Option(help="another model to initialise the student from, such as a few-step student")
    ] = None,
    data: Annotated[str | None, typer.Option(help="other images than the model's training data")] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/distilled-RECIPE-NNN by default")] = None,
    resume: ResumeOption = False,
    stop_after: StopAfterOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Distil a trained model into one that samples in a few steps."""
    seconds = parse_duration(stop_after) if stop_after is not None else None
    from undiffuse.api.distilling import configure
    from undiffuse.api.training import train
    from undiffuse.cli.training_summary import print_summary

    config = configure(model, steps, method, overrides or [], data, start)
    if dry_run:
        from undiffuse.cli.tables import show_plan

        show_plan(config, device)
        return
    print_summary(train(config, out=out, resume=resume, stop_after_seconds=seconds, device=device))
