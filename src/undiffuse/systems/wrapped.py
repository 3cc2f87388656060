"""Saving and opening a model around a denoiser from elsewhere, whose code no folder holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from undiffuse.config import validate
from undiffuse.core.denoiser import Denoiser
from undiffuse.core.space import Space
from undiffuse.errors import UsageError
from undiffuse.files import replacing
from undiffuse.models.options import SamplingConfig
from undiffuse.models.wrapped import WrappedModel
from undiffuse.systems.base import System, SystemConfig
from undiffuse.systems.record import FORMAT_VERSION, write_record

NAME = "wrapped"


class WrappedConfig(SystemConfig):
    """What a folder says of a denoiser from elsewhere; it is built by whoever has its code.

    Args:
        space: of its data.
        sampling: defaults.
    """

    name: Literal["wrapped"] = "wrapped"
    space: Space
    sampling: SamplingConfig = SamplingConfig()

    def build(self, shape: tuple[int, ...], class_names: Sequence[str], num_augment_labels: int = 0) -> System:
        raise UsageError(
            "its denoiser was written elsewhere; open it in Python with undiffuse.load(folder, denoiser=...)"
        )


def rebuilt(record: Mapping[str, Any], denoiser: Denoiser) -> WrappedModel:
    """The model that a read ``config.json`` describes, around a denoiser without its weights yet.

    Raises:
        UsageError: a model of ours, whose denoiser is its own.
    """
    asked = record["config"]["system"]
    if asked.get("name") != NAME:
        raise UsageError("this model has a denoiser of its own; leave denoiser out")
    config = validate(WrappedConfig, asked)
    return WrappedModel(denoiser, config.space, record["model"]["class_names"], config.sampling)


def record_of(model: WrappedModel, about: str) -> dict[str, Any]:
    """The ``config.json`` of such a model."""
    config = WrappedConfig(space=model.space, sampling=model.sampling)
    return {
        "format_version": FORMAT_VERSION,
        "model": {"shape": list(model.shape), "class_names": list(model.class_names)},
        "data": {"fingerprint": "", "train": 0, "validation": 0},
        "config": {"recipe": about, "seed": 0, "data": {}, "system": config.model_dump(mode="json")},
    }


def card_of(model: WrappedModel, about: str) -> str:
    """Its model card: what it is, and how it is opened."""
    size = "×".join(map(str, model.shape))
    return (
        f"# {about}\n\nA denoiser that was written elsewhere, for {size}. "
        "`undiffuse.load(folder, denoiser=...)` opens it with its own code.\n"
    )


def write_folder(model: WrappedModel, out: Path, about: str, save: Any) -> None:
    """``config.json``, weights and card in one piece.

    Args:
        save: writes weights with the record that goes with them, see ``saved.save_weights``.
    """
    with replacing(out) as folder:
        folder.mkdir()
        save(folder / "model.safetensors", model.state_dict(), write_record(folder, record_of(model, about)))
        (folder / "model_card.md").write_text(card_of(model, about), encoding="utf-8")
