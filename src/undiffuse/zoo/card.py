"""Model cards of bundled models: stored as values in ``config.json``, rendered as ``model_card.md`` and in lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from undiffuse.checksums import read_checked
from undiffuse.config import FrozenModel, validate
from undiffuse.wording import count_noun
from undiffuse.zoo import bundled_folder

#: Size limits of one model's weights, and of all bundled models with their cards: ``tools/budgets.toml``.
MODEL_BYTES, ALL_BYTES = 4_000_000, 26_000_000

_STORED = {"bfloat16": "bfloat16", "int8": "int8 with a scale per output channel (small ones bfloat16)"}

Text = Annotated[str, Field(min_length=1)]


class Measured(FrozenModel):
    """One number of an evaluation.

    Args:
        metric: its name in ``undiffuse evaluate``.
        value: the number; None if nothing was found.
        uncertainty: one standard error.
        unit: unit of the value.
        better: which direction is better, as text.
        protocol: a short description of the data and the number of samples.
    """

    metric: Text
    value: float | None
    uncertainty: float | None
    unit: str
    better: str
    protocol: Text


class TrainedOn(FrozenModel):
    """A training data set and its licence.

    Args:
        name: its name in ``undiffuse data get``, or of a computed source.
        about: a short description.
        licence: licence of the images.
        url: where they were published.
    """

    name: Text
    about: Text
    licence: Text
    url: Text


class Card(FrozenModel):
    """The section ``card`` of a bundled model's ``config.json``.

    Args:
        title: what the model generates, in a few words.
        sets: the training data sets.
        licence: licence of the weights.
        terms: notes on the terms of use of the data.
        command: the training command, and the steps after it.
        images: number of images seen in training.
        parameters: number of parameters of the network.
        sampler, steps, grid: the default sampler, number of steps and time grid.
        evaluations: NFE of a sample with these defaults.
        temperature: default sampling temperature.
        guidance: default weight of classifier-free guidance; 1 is none.
        guidance_interval: log-SNR interval with guidance; the whole range if empty.
        metrics: measured on the shipped weights.
        stored: parameter format in ``model.safetensors``: all in bfloat16, or large weights as 8-bit integers.
        weights_sha256: SHA-256 of that file.
        made_with: software versions used to train and export it.
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
        """The first metric as text; empty if there is none."""
        return metric_text(self.metrics[0]) if self.metrics else ""


class Bundled(FrozenModel):
    """Summary of a bundled model for lists.

    Args:
        name: its name on the command line.
        folder: its location.
        shape: shape of one sample.
        class_names: classes that it can be conditioned on.
        num_bytes: size of the folder.
        card: its model card.
    """

    name: str
    folder: Path
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    num_bytes: int
    card: Card


def bundled(name: str) -> Bundled:
    """The summary of the bundled model ``name``.

    Raises:
        UsageError: no such model; the message suggests the closest name.
    """
    folder = bundled_folder(name)
    record = read_checked(folder / "config.json", "reinstall undiffuse")
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
        "trained on": "; ".join(f"{data_set.about} ({data_set.url})" for data_set in card.sets),
        "licence of the data": "; ".join(f"{data_set.name}: {data_set.licence}" for data_set in card.sets),
        "licence of the weights": f"{card.licence}. {_reworded(card.terms)}",
        "training images": f"{data['train']:,}, {data['validation']:,} held out; fingerprint `{data['fingerprint']}`",
        "seen in training": f"{card.images:,} images, seed {config['seed']}",
        "system": f"{config['system']['name']}, recipe `{config['recipe']}`",
        "parameters": f"{card.parameters:,}, {_STORED[card.stored]} in the file, float32 when read",
        "samples by": _sampling_text(card),
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


def _sampling_text(card: Card) -> str:
    temperature = f", temperature {card.temperature:g}" if card.temperature != 1 else ""
    within = f" within log-SNR {card.guidance_interval}" if card.guidance_interval else ""
    guidance = f", guidance {card.guidance:g}{within}" if card.guidance != 1 else ""
    text = f"`{card.sampler}`, {count_noun(card.steps, 'step')} on the grid `{card.grid}`{temperature}{guidance}"
    return f"{text}: NFE {card.evaluations}"


def _metric_lines(metrics: Sequence[Measured]) -> list[str]:
    if not metrics:
        return ["Not measured.", ""]
    lines = ["Measured on these weights:", "", "| metric | value | better | protocol |", "|---|---|---|---|"]
    for measured in metrics:
        value = metric_text(measured).removeprefix(f"{measured.metric} ")
        unit = f" ({_reworded(measured.unit)})" if measured.unit else ""
        protocol = _reworded(measured.protocol)
        lines.append(f"| {measured.metric} | {value}{unit} | {measured.better} | {protocol} |")
    return [*lines, ""]


def _reworded(text: str) -> str:
    """A card's text in current terms; the stored text of older cards is not changed."""
    return text.replace("picture", "image")  # data
