"""The command ``ema``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.cli.checks.commands import checked


@checked("ema")
def ema(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run that was trained with ema.posthoc={}")],
    sigma_rel: Annotated[float, typer.Option(help="width of the average as a fraction of the run, 0.03 to 0.25")],
    out: Annotated[Path, typer.Option(help="folder of the model")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an exported model in --out")] = False,
) -> None:
    """Average the weights of a finished run with another EMA length, and write the model."""
    from undiffuse.api.averaging import average

    average(run, sigma_rel, out, overwrite=overwrite)
