"""Arguments and options that several commands share, and how they list names."""

from __future__ import annotations

from typing import Annotated

import typer

from undiffuse.errors import UsageError

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="a run folder, a model folder or a bundled name")]
WeightsOption = Annotated[str, typer.Option(help="ema, the averaged weights, or raw, those that training moved")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
SamplerOption = Annotated[str | None, typer.Option(help="such as heun or ddim:eta=0.5; the model's own by default")]
StepsOption = Annotated[int | None, typer.Option(help="steps of the time grid")]
GridOption = Annotated[
    str | None, typer.Option(help="time grid: uniform, quadratic, log_snr, angle, karras or karras:rho=5")
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
    typer.Option(help="sample under another process, ve, ve:sigma_max=80, ...; the model's own by default"),
]
TemperatureOption = Annotated[
    float | None,
    typer.Option(
        help="scale of the noise that it begins with, such as 0.9: surer, less varied; the model's own by default"
    ),
]
FeaturesOption = Annotated[
    str, typer.Option(help="auto, handwriting, fashion, pixels, efficientnet or inception; auto picks by the data")
]
NoCacheOption = Annotated[bool, typer.Option("--no-cache", help="compute anew what the cache has; keep nothing")]
SeedOption = Annotated[int, typer.Option(help="seed of the first picture; picture i has seed + i")]


def parse_interval(option: str, text: str | None) -> tuple[float, float] | None:
    """``LO,HI`` as two log-SNRs, of which the first may be ``-inf`` and the last ``inf``.

    Raises:
        UsageError: anything else.
    """
    if text is None:
        return None
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} must be LO,HI in log-SNR, such as -3,4, got {text!r}") from None
    return low, high


def list_rows(rows: dict[str, str]) -> None:
    """Names and what is said of them, in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")
