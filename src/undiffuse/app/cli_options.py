"""Arguments and options that several commands share, and how they list names."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from undiffuse.app import completing
from undiffuse.app.early import REGISTRIES
from undiffuse.errors import UsageError

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


def parse_duration(text: str) -> float:
    """Seconds of ``90``, ``90s``, ``10m`` or ``1.5h``."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"--stop-after must be a time such as 90s, 10m or 1.5h, got {text!r}")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def parse_steps(text: str | None) -> tuple[int, ...]:
    """``10`` or ``6,8,10`` as numbers in ascending order; nothing for nothing.

    Raises:
        UsageError: not whole numbers of at least 2 steps.
    """
    parts = [part.strip() for part in text.split(",")] if text is not None else []
    if not all(part.isdecimal() and int(part) >= 2 for part in parts):
        raise UsageError(f"--tune-steps must be whole numbers of at least 2 steps, such as 10 or 6,8,10, got {text!r}")
    return tuple(sorted({int(part) for part in parts}))


def parse_counts(text: str | None) -> list[int]:
    """Whole numbers of ``250,500,1000``, each above the one before."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    counts = [int(word) if word.isdecimal() else 0 for word in words]
    if (text is not None and not counts) or min(counts, default=1) < 1 or counts != sorted(set(counts)):
        raise UsageError(f"--counts must be rising numbers of pictures such as 250,500,1000, got {text!r}")
    return counts


def list_rows(rows: dict[str, str]) -> None:
    """Names and what is said of them, in two columns."""
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")
