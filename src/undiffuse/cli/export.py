"""The command ``export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.api.configuration.parsing import parse_steps
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import DeviceOption, ModelArgument, WeightsOption


@checked("export")
def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="folder of the exported model")],
    tune_steps: Annotated[
        str | None,
        typer.Option(help="tune a time grid of this many steps; of a list, such as 6,8,10, the first within tolerance"),
    ] = None,
    sampler: Annotated[str, typer.Option(help="sampler to tune the grid for: unipc, dpmpp_2m, heun, ...")] = "unipc",
    tolerance: Annotated[float, typer.Option(help="root-mean-square error of values in [-1, 1]")] = 0.1,
    seeds: Annotated[int, typer.Option(help="number of seeds to tune on, and of others to measure on")] = 64,
    temperature: Annotated[
        float | None, typer.Option(help="default temperature of the exported model; unchanged by default")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="store the weights in bfloat16, half as large")] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="store large weights as 8-bit integers, a quarter as large"),
    ] = False,
    embed_parts: Annotated[
        bool,
        typer.Option("--embed-parts", help="copy a frozen text encoder into the folder, instead of naming its place"),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an exported model in --out")] = False,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Export a model to a folder: configuration, weights, model card; optionally with tuned sampling steps."""
    steps = parse_steps(tune_steps)
    from undiffuse.api import exporting

    exporting.export(
        model,
        out,
        tune_steps=steps,
        sampler=sampler,
        tolerance=tolerance,
        seeds=seeds,
        temperature=temperature,
        bf16=bf16,
        int8=int8,
        embed_parts=embed_parts,
        overwrite=overwrite,
        weights=weights,
        device=device,
    )
