"""Arguments and options that several commands share, and how they list names."""

from __future__ import annotations

from typing import Annotated

import typer

from undiffuse.app import completing
from undiffuse.app.early import REGISTRIES

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="a run folder, a model folder or a bundled name", autocompletion=completing.models
    ),
]
WeightsOption = Annotated[
    str,
    typer.Option(
        help="ema, the averaged weights, or raw, those that training moved", autocompletion=completing.weights
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda", autocompletion=completing.devices)]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="such as heun or ddim:eta=0.5; the model's own by default",
        autocompletion=completing.rows(REGISTRIES["sampler"]),
    ),
]
StepsOption = Annotated[int | None, typer.Option(help="steps of the time grid")]
GridOption = Annotated[
    str | None,
    typer.Option(
        help="time grid: uniform, quadratic, log_snr, angle, karras or karras:rho=5",
        autocompletion=completing.rows(REGISTRIES["time grid"]),
    ),
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="classifier-free guidance, such as 2; 1 is none; for models with classes")
]
AutoguidanceOption = Annotated[
    float | None,
    typer.Option(help="guidance by an early state of the model, such as 2; 1 is none; for models that kept one"),
]
AutoguidanceIntervalOption = Annotated[
    str | None, typer.Option(metavar="LO,HI", help="log-SNRs that are autoguided, such as -inf,2; all by default")
]
GuidanceIntervalOption = Annotated[
    str | None, typer.Option(metavar="LO,HI", help="log-SNRs that are guided, such as -3,4; all by default")
]
ProcessOption = Annotated[
    str | None,
    typer.Option(
        help="sample under another process, ve, ve:sigma_max=80, ...; the model's own by default",
        autocompletion=completing.rows(REGISTRIES["process"]),
    ),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        help="scale of the noise that it begins with, such as 0.9: surer, less varied; the model's own by default"
    ),
]
FeaturesOption = Annotated[
    str,
    typer.Option(
        help="auto, handwriting, fashion, pixels, efficientnet or inception; auto picks by the data",
        autocompletion=completing.rows(REGISTRIES["features"]),
    ),
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="compute anew what the cache has; keep nothing")]
DataOptions = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="of the data named here, such as data.on_error=skip"),
]
MovedDataOption = Annotated[
    str | None,
    typer.Option(
        help="where the data that the model was trained on lies now, if it was moved", autocompletion=completing.data
    ),
]
RecipeReadsOption = Annotated[
    str | None,
    typer.Option(help="read the data as this recipe does, see 'undiffuse recipes'", autocompletion=completing.recipes),
]
SeedOption = Annotated[int, typer.Option(help="seed of the first picture; picture i has seed + i")]


def list_rows(rows: dict[str, str]) -> None:
    """Names and what is said of them, in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")
