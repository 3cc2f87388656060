"""Saving and loading of wrapped external denoisers, whose code is not part of undiffuse."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from undiffuse.config import validate
from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError
from undiffuse.files import replacing
from undiffuse.models.files.components import MAIN, components_of, main_component
from undiffuse.models.files.record import FORMAT_VERSION, write_record
from undiffuse.models.files.weights import WEIGHTS, save_weights
from undiffuse.models.wrapped import WrappedConfig, WrappedModel

NAME = "wrapped"


def rebuilt(record: Mapping[str, Any], denoiser: Denoiser) -> WrappedModel:
    """Build the wrapped model that ``config.json`` describes, without loading weights.

    Args:
        record: content of ``config.json``.
        denoiser: a new instance of the external denoiser.
    Raises:
        UsageError: if the model is not a wrapped external denoiser.
    """
    options = components_of(record)[MAIN].config
    if options is None or options.get("name") != NAME:
        raise UsageError("this model was not saved with an external denoiser; leave denoiser out")
    config = validate(WrappedConfig, options)
    return WrappedModel(denoiser, config.space, record["model"]["class_names"], config.sampling)


def record_of(model: WrappedModel, about: str) -> dict[str, Any]:
    """The content of ``config.json`` of a wrapped model.

    Args:
        model: the wrapped denoiser.
        about: a short description; the record's ``recipe``.
    """
    config = WrappedConfig(space=model.space, sampling=model.sampling)
    return {
        "format_version": FORMAT_VERSION,
        "model": {"shape": list(model.shape), "class_names": list(model.class_names)},
        "data": {"fingerprint": "", "train": 0, "validation": 0},
        "config": {"recipe": about, "seed": 0, "data": {}, "system": config.model_dump(mode="json")},
        "components": {MAIN: main_component(config)},
    }


def card_of(model: WrappedModel, about: str) -> str:
    """The model card of a wrapped model.

    Args:
        model: the wrapped denoiser.
        about: a short description; the title.
    """
    size = "×".join(map(str, model.shape))
    return (
        f"# {about}\n\nA denoiser that was written elsewhere, for {size}. "
        "`undiffuse.load(folder, denoiser=...)` opens it with its own code.\n"
    )


def write_folder(model: WrappedModel, out: Path, about: str) -> None:
    """Write ``config.json``, weights and model card atomically.

    Args:
        model: the wrapped denoiser.
        out: output folder.
        about: a short description.
    """
    with replacing(out) as folder:
        folder.mkdir()
        save_weights(folder / WEIGHTS["ema"], model.state_dict(), write_record(folder, record_of(model, about)))
        (folder / "model_card.md").write_text(card_of(model, about), encoding="utf-8")
