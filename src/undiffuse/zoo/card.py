"""What is said of a bundled model: kept as values in its ``config.json``, shown as ``model_card.md`` and in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from undiffuse.config import FrozenModel, validate
from undiffuse.sealed import read_sealed
from undiffuse.wording import counted
from undiffuse.zoo import bundled_folder

#: What the weights of the largest bundled model may take, and all models with their cards: ``tools/budgets.toml``.
MODEL_BYTES, ALL_BYTES = 4_000_000, 26_000_000

_STORED = {"bfloat16": "bfloat16", "int8": "int8 with a scale per output channel (small ones bfloat16)"}

Text = Annotated[str, Field(min_length=1)]


class Measured(FrozenModel):
    """One number of an evaluation.

    Args:
        metric: as ``undiffuse evaluate`` calls it.
        value: the number; none where nothing was found.
        uncertainty: one standard error.
        unit: of the value.
        better: which way, in words.
        protocol: what it was measured on, in a few words.
    """

    metric: Text
    value: float | None
    uncertainty: float | None
    unit: str
    better: str
    protocol: Text


class TrainedOn(FrozenModel):
    """A set of images that a model learned from, and on what terms its publishers give it.

    Args:
        name: as in ``undiffuse data get``.
        about: the set in a few words.
        licence: of the images.
        url: where they were published.
    """

    name: Text
    about: Text
    licence: Text
    url: Text


class Card(FrozenModel):
    """The section ``card`` of a bundled model's ``config.json``.

    Args:
        title: what it makes, in a few words.
        sets: of images that it was trained on.
        licence: of the weights.
        terms: what a user should know about the data's terms.
        command: that trains it again, and what was done then.
        images: that training saw.
        parameters: of the network.
        sampler, steps, grid: that it samples by as a default.
        evaluations: NFE of such a sample.
        temperature: that it samples at.
        guidance: by its classes, as a default; 1 is none.
        guidance_interval: log-SNRs that are guided; everywhere where it is empty.
        metrics: measured on the weights as they ship.
        stored: how ``model.safetensors`` keeps parameters: all in bfloat16, or large weights as 8-bit integers.
        weights_sha256: of that file.
        made_with: versions that it was made with.
    """

    title: Text
    sets: Annotated[tuple[TrainedOn, ...], Field(min_length=1)]
    licence: Text
    terms: Text
    command: Text
    images: Annotated[int, Field(ge=1)]
    parameters: Annotated[int, Field(ge=1)]
    sampler: Text
    steps: Annotated[int, Field(ge=1)]
    grid: Text
    evaluations: Annotated[int, Field(ge=1)]
    temperature: Annotated[float, Field(ge=0)] = 1.0
    guidance: Annotated[float, Field(ge=0)] = 1.0
    guidance_interval: str = ""
    metrics: tuple[Measured, ...] = ()
    stored: Literal["bfloat16", "int8"] = "bfloat16"
    weights_sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    made_with: Text

    @property
    def headline(self) -> str:
        """The first metric in a few words; empty where none was taken."""
        return metric_text(self.metrics[0]) if self.metrics else ""


class Bundled(FrozenModel):
    """A bundled model as a list shows it.

    Args:
        name: what it is called on the command line.
        folder: where it lies.
        shape: of one sample.
        class_names: that samples can be drawn of.
        num_bytes: of the folder.
        card: see there.
    """

    name: str
    folder: Path
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    num_bytes: int
    card: Card


def bundled(name: str) -> Bundled:
    """What there is to say of a bundled model.

    Raises:
        UsageError: no such model; the nearest is named.
    """
    folder = bundled_folder(name)
    record = read_sealed(folder / "config.json", "reinstall undiffuse")
    conditional = bool(record["config"]["system"].get("class_conditional"))
    return Bundled(
        name=name,
        folder=folder,
        shape=tuple(record["model"]["shape"]),
        class_names=tuple(record["model"]["class_names"]) if conditional else (),
        num_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        card=validate(Card, record.get("card", {}), f"{name}: card"),
    )


def metric_text(measured: Measured) -> str:
    """``frechet 0.31 ± 0.02``."""
    value = "none" if measured.value is None else f"{measured.value:.3g}"
    error = "" if measured.uncertainty is None else f" ± {measured.uncertainty:.2g}"
    return f"{measured.metric} {value}{error}"


def card_text(name: str, card: Card, record: Mapping[str, Any]) -> str:
    """``model_card.md``: the card, the data's fingerprint and the processes from the rest of ``config.json``."""
    model, data, config = record["model"], record["data"], record["config"]
    conditional = config["system"].get("class_conditional")
    rows = {
        "makes": " × ".join(map(str, model["shape"])) + " images (channels × height × width)",
        "classes": ", ".join(model["class_names"]) if conditional else "none",
        "trained on": "; ".join(f"{one.about} ({one.url})" for one in card.sets),
        "licence of the data": "; ".join(f"{one.name}: {one.licence}" for one in card.sets),
        "licence of the weights": f"{card.licence}. {_reworded(card.terms)}",
        "training images": f"{data['train']:,}, {data['validation']:,} held out; fingerprint `{data['fingerprint']}`",
        "seen in training": f"{card.images:,} images, seed {config['seed']}",
        "system": f"{config['system']['name']}, recipe `{config['recipe']}`",
        "parameters": f"{card.parameters:,}, {_STORED[card.stored]} in the file, float32 when read",
        "samples by": _way(card),
        "SHA-256 of the weights": f"`{card.weights_sha256}`",
        "made with": card.made_with,
    }
    return "\n".join(
        [
            *(f"# {name}: {card.title}", "", "![samples of consecutive seeds](samples.png)", ""),
            *("| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""),
            *("Trained by", "", f"    {card.command}", ""),
            *_metric_lines(card.metrics),
            *("Samples, from a shell and in Python:", ""),
            *(f"    undiffuse sample {name} -n 64", f'    undiffuse.load("{name}").sample(64)', ""),
        ]
    )


def _way(card: Card) -> str:
    temperature = f", temperature {card.temperature:g}" if card.temperature != 1 else ""
    within = f" within log-SNR {card.guidance_interval}" if card.guidance_interval else ""
    guidance = f", guidance {card.guidance:g}{within}" if card.guidance != 1 else ""
    way = f"`{card.sampler}`, {counted(card.steps, 'step')} on the grid `{card.grid}`{temperature}{guidance}"
    return f"{way}: NFE {card.evaluations}"


def _metric_lines(metrics: Sequence[Measured]) -> list[str]:
    if not metrics:
        return ["Not measured.", ""]
    lines = ["Measured on these weights:", "", "| metric | value | better | protocol |", "|---|---|---|---|"]
    for one in metrics:
        value = metric_text(one).removeprefix(f"{one.metric} ")
        lines.append(
            f"| {one.metric} | {value}{f' ({_reworded(one.unit)})' if one.unit else ''} | {one.better} | "
            f"{_reworded(one.protocol)} |"
        )
    return [*lines, ""]


def _reworded(text: str) -> str:
    """A text of a card in the words of today; what earlier cards hold stays as it is."""
    return text.replace("picture", "image")  # data
