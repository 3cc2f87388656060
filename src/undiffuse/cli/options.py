"""Arguments and options shared by several commands, and printing of name lists."""

from __future__ import annotations

from typing import Annotated

import typer

from undiffuse.cli.checks import completion
from undiffuse.cli.checks.names import REGISTRIES

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="a run folder, a model folder or a bundled name", autocompletion=completion.models
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="ema: the averaged weights; raw: the weights of the last step", autocompletion=completion.weights
    ),
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="resume from the newest valid checkpoint in --out")]
StopAfterOption = Annotated[str | None, typer.Option(help="stop with a checkpoint after 90s, 10m, 1.5h")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="show configuration, size and cost; write nothing")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda", autocompletion=completion.devices)]
FeaturesOption = Annotated[
    str,
    typer.Option(
        help="auto, handwriting, fashion, pixels, efficientnet or inception; auto picks by the data",
        autocompletion=completion.rows(REGISTRIES["features"]),
    ),
]
MetricOption = Annotated[
    str,
    typer.Option(
        help="distance between features: frechet, or kernel, which needs few images",
        autocompletion=completion.rows(REGISTRIES["distance"]),
    ),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="ignore cached results and store none")]
DataOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="options of the data, such as data.on_error=skip"),
]
MovedDataOption = Annotated[
    str | None,
    typer.Option(help="new location of the model's training data, if it was moved", autocompletion=completion.data),
]
RecipeReadsOption = Annotated[
    str | None,
    typer.Option(help="read the data as this recipe does, see 'undiffuse recipes'", autocompletion=completion.recipes),
]
SeedOption = Annotated[int, typer.Option(help="seed of the first image; image i has seed + i")]


def list_rows(rows: dict[str, str]) -> None:
    """Print names and their descriptions in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")
