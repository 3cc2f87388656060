"""The configuration of a fine-tuning run: that of its start model, with other data and a short, gentle schedule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.start_rules import check_start, check_start_overrides
from undiffuse.api.configuration.text_folder import with_text_from
from undiffuse.api.loading import find_model
from undiffuse.config import validate
from undiffuse.core.space import Space
from undiffuse.data import source_config_for
from undiffuse.data.config import SourceConfig
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models.files.weights import WEIGHTS
from undiffuse.models.saved import read_config
from undiffuse.training.config import RunConfig, StartConfig
from undiffuse.wording import command

#: Learning rate and number of images as fractions of those of the start model's training.
_RATE, _LENGTH = 0.25, 0.2
#: Options of data that apply to other data as well.
_KEPT_DATA_OPTIONS = ("name", "path", "validation_fraction", "fit", "background")
_PREFIX = "fine-tuned-"


def fine_tuned(start: str | Path, overrides: Sequence[str], data: str, weights: str = "ema") -> RunConfig:
    """The configuration of a run that starts from the weights of a model.

    Args:
        start: the folder of a run or a model, or the name of a bundled model.
        overrides: ``key=value`` texts.
        data: the new data.
        weights: ``ema`` or ``raw``.
    Raises:
        UsageError: no such model, one that is not a diffusion model, or overrides of what its weights are for.
    """
    folder = find_model(start).resolve()
    record = read_config(folder)
    check_start(str(start), record["config"]["system"])
    check_start_overrides(overrides)
    base = validate(RunConfig, record["config"], f"{folder / 'config.json'}: config")
    reference = _reference(str(start), folder, weights, record)
    begun = _gentle(with_text_from(base, folder)).model_copy(update={"start": reference, "prior": None})
    source = _of_shape(source_config_for(data), record["model"]["shape"])
    return apply_overrides(begun, overrides, source)


def _reference(name: str, folder: Path, weights: str, record: Mapping[str, Any]) -> StartConfig:
    file = folder / WEIGHTS[weights]
    if not file.is_file():
        on = command("train", "--resume", "--out", folder)
        raise UsageError(f"{folder} has no {file.name}; train it on until a checkpoint is written: {on}")
    system = record["config"]["system"]
    known = {
        "classes": record["model"]["class_names"] if system.get("class_conditional") else [],
        "num_words": len((system.get("text") or {}).get("entries", ())),
    }
    values = {"name": Path(name).name, "path": str(folder), "sha256": sha256_of(file), "weights": weights, **known}
    return validate(StartConfig, values, "start")


def _gentle(run: RunConfig) -> RunConfig:
    """The configuration of the start model's training with fewer images and a smaller learning rate.

    The average starts at the loaded weights, so it is not ramped up.
    """
    images = max(round(run.num_images * _LENGTH), run.batch_images)
    optimizer = run.optimizer.model_copy(
        update={
            "learning_rate": run.optimizer.learning_rate * _RATE,
            "phase_learning_rates": {phase: _RATE * rate for phase, rate in run.optimizer.phase_learning_rates.items()},
            "warmup_images": min(run.optimizer.warmup_images, images // 20),
            "rates": {},
        }
    )
    ema = run.ema.model_copy(
        update={"halflife_images": max(min(run.ema.halflife_images, images // 10), 1), "rampup": None}
    )
    every = {key: min(getattr(run, key), images // 5) for key in ("validate_every_images", "preview_every_images")}
    return run.model_copy(
        update={
            **every,
            "recipe": run.recipe if run.recipe.startswith(_PREFIX) else f"{_PREFIX}{run.recipe}",
            "data": _general_options(run.data),
            "system": _system(run.system, images),
            "optimizer": optimizer,
            "ema": ema,
            "freeze": (),
            "num_images": images,
            "train_items": None,
            "quality_every_images": 0,
        }
    )


def _system(system: Any, images: int) -> Any:
    """The system: conditioned on classes if it was and the data has any; with an early guide if it had one."""
    changed: dict[str, Any] = {"class_conditional": "auto"} if system.class_conditional else {}
    if system.guide_images is not None:
        changed["guide_images"] = max(min(system.guide_images, images // 10), 1)
    return system.model_copy(update=changed)


def _general_options(data: Any) -> Any:
    values = {key: value for key, value in data.model_dump(exclude_defaults=True).items() if key in _KEPT_DATA_OPTIONS}
    return type(data).model_validate({"name": data.name, **values})


def _of_shape(source: SourceConfig, shape: Sequence[int]) -> SourceConfig:
    """Data with the size and channels of the model's images, if the source has these options and they are not set."""
    if not Space.of_data(tuple(shape)).is_image:
        return source
    size = shape[1] if shape[1] == shape[2] else tuple(shape[1:])
    wanted = {"size": size, "channels": shape[0]}
    fields = type(source).model_fields
    unset = {key: value for key, value in wanted.items() if key in fields and getattr(source, key) is None}
    return source.model_copy(update=unset)
