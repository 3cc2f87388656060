"""Saving and opening a model around a denoiser from elsewhere, whose code no folder holds."""

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
    """The model that a read ``config.json`` describes, around a denoiser without its weights yet.

    Args:
        record: a read ``config.json``.
        denoiser: from elsewhere, freshly made.
    Raises:
        UsageError: a model of ours, whose denoiser is its own.
    """
    described = components_of(record)[MAIN].config
    if described is None or described.get("name") != NAME:
        raise UsageError("this model has a denoiser of its own; leave denoiser out")
    config = validate(WrappedConfig, described)
    return WrappedModel(denoiser, config.space, record["model"]["class_names"], config.sampling)


def record_of(model: WrappedModel, about: str) -> dict[str, Any]:
    """The ``config.json`` of such a model.

    Args:
        model: around a denoiser from elsewhere.
        about: what it is, in a few words; the record's ``recipe``.
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
    """Its model card: what it is, and how it is opened.

    Args:
        model: around a denoiser from elsewhere.
        about: what it is, in a few words; the title.
    """
    size = "×".join(map(str, model.shape))
    return (
        f"# {about}\n\nA denoiser that was written elsewhere, for {size}. "
        "`undiffuse.load(folder, denoiser=...)` opens it with its own code.\n"
    )


def write_folder(model: WrappedModel, out: Path, about: str) -> None:
    """``config.json``, weights and card in one piece.

    Args:
        model: around a denoiser from elsewhere.
        out: the folder; nothing half-written stands there.
        about: what it is, in a few words.
    """
    with replacing(out) as folder:
        folder.mkdir()
        save_weights(folder / WEIGHTS["ema"], model.state_dict(), write_record(folder, record_of(model, about)))
        (folder / "model_card.md").write_text(card_of(model, about), encoding="utf-8")
