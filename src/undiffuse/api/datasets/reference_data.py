"""The real data of a model: its own, at its current location, and other data resized to the model's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.sources import configured
from undiffuse.api.training import split_data
from undiffuse.config import validate
from undiffuse.core.space import Space
from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.config import ImageConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.readers.decoding.notes import STORED, storage_record
from undiffuse.errors import UsageError
from undiffuse.models.files.record import changed_data_part
from undiffuse.models.saved import Model
from undiffuse.observer import note
from undiffuse.training.config import RunConfig

_CHUNK = 512
_COLOURS = {1: "grey", 3: "coloured"}
_BROUGHT = {1: "compare in grey", 3: "repeat what is grey in three channels"}


def real_data(
    model: Model, data: str | None = None, options: Sequence[str] = ()
) -> tuple[Callable[[], Dataset], Dataset]:
    """A function that loads the training items, and the held-out items, in the model's shape.

    Args:
        model: whose shape the items are converted to.
        data: current location of the model's data, or other held-out items; by default the recorded location.
            With other items, the model's data is needed only when the function is called.
        options: ``key=value`` texts for the source in ``data``.
    Raises:
        UsageError: no such data, of another shape, or changed since the model was trained.
    """
    if data is None:
        train, held_out = own_data(model)
        return lambda: train, held_out
    if not options and (moved := _moved(model, data)) is not None:
        return lambda: moved[0], moved[1]
    return partial(_training_data, model), held_out_data(model, data, options)


def held_out_data(model: Model, data: str, options: Sequence[str] = ()) -> Dataset:
    """All items of other data, converted to the model's shape.

    Args:
        model: whose shape the items are converted to.
        data: a source.
        options: ``key=value`` texts for the source.
    Raises:
        UsageError: no such data, another shape, or colour for a grey model or vice versa without an option.
    """
    fit = getattr(validate(RunConfig, model.config["config"]).data, "fit", "crop")
    held_out = fitted_data(data, tuple(model.module.shape), "the model", fit, options)
    seen = model.config["data"].get("stored_with")
    note_storage(data, storage_record(held_out.provenance), "what the model was trained on", seen)
    return held_out


def own_data(model: Model, moved_to: str | None = None) -> tuple[Dataset, Dataset]:
    """(training, held-out) parts of the model's data.

    Args:
        model: trained on it.
        moved_to: its current location; by default the recorded one.
    Raises:
        UsageError: it is missing, or differs from the model's training data.
    """
    parts = split_data(_own_config(model, moved_to))
    if _is_own(model, parts):
        return parts
    if moved_to is not None:
        raise UsageError(f"{moved_to} is other data than this model was trained on; name that with --data")
    raise UsageError("the data that this model was trained on has changed; put it back before comparing with it")


def _own_config(model: Model, moved_to: str | None) -> RunConfig:
    config = validate(RunConfig, model.config["config"])
    return config if moved_to is None else apply_overrides(config, (), source_config_for(moved_to))


def _is_own(model: Model, parts: tuple[Dataset, Dataset]) -> bool:
    train, held_out = parts
    now = {"fingerprint": train.fingerprint, "validation": len(held_out)}
    return not changed_data_part(model.config["data"], {**now, "validation_fingerprint": held_out.fingerprint})


def _moved(model: Model, data: str) -> tuple[Dataset, Dataset] | None:
    """The model's data if it was moved to ``data`` (by fingerprint); else ``None``."""
    location = getattr(validate(RunConfig, model.config["config"]).data, "location", None)
    if location is None or location.exists():
        return None
    try:
        return own_data(model, data)
    except UsageError:
        return None


def _training_data(model: Model) -> Dataset:
    """The training part, for a metric that needs it while held-out items come from --data."""
    try:
        return own_data(model)[0]
    except UsageError as error:
        raise UsageError(
            f"this metric compares with what the model was trained on ({error.reason}); put it back, or take metrics "
            "that need none: --metrics vlb,classes"
        ) from None


def fitted_data(data: str, shape: tuple[int, ...], of: str, fit: str = "crop", options: Sequence[str] = ()) -> Dataset:
    """Load ``data`` with its images resized to ``shape``.

    Args:
        data: a source.
        shape: (C, H, W), or (D,) of points.
        of: owner of the shape, for messages.
        fit: how images with another aspect ratio are fitted.
        options: ``key=value`` of the source, such as ``data.on_error=skip``.
    Raises:
        UsageError: no such data, another shape, or another number of channels without an option.
    """
    source = source_config_for(data)
    fitting = isinstance(source, ImageConfig) and Space.of_data(shape).is_image
    requested = configured(source.model_copy(update={"fit": fit}) if fitting else source, options)
    dataset = load_dataset(requested.model_copy(update={"size": shape[1:]}) if fitting else requested)
    if fitting and dataset.shape[0] != shape[0] and getattr(requested, "channels", None) is None:
        if shape[0] == 3 or has_colour(dataset):
            check_colours(data, dataset.shape[0], of, shape[0], [shape[0]])
        return fitted_data(data, shape, of, fit, [*options, "channels=1"])
    if dataset.shape != shape:
        raise UsageError(f"{of} has items of shape {shape}, {data} of {dataset.shape}; name data of that shape")
    return dataset


def has_colour(dataset: Dataset) -> bool:
    """Whether any image has unequal channels; grey images are often stored with three equal ones."""
    if dataset.shape[0] == 1:
        return False
    parts = (
        dataset.items(np.arange(start, min(start + _CHUNK, len(dataset)))) for start in range(0, len(dataset), _CHUNK)
    )
    return any(bool((part != part[:, :1]).any()) for part in parts)


def check_colours(data: str, channels: int, of: str, wanted: int, ways: Sequence[int]) -> None:
    """Raise that grey and colour images are compared only if the user chooses one of the two.

    Args:
        data: name of the first set, for the message.
        channels: of its images, 1 or 3.
        of: name of the other set or the model, for the message.
        wanted: its number of channels.
        ways: numbers of channels that both can be converted to.
    Raises:
        UsageError: always, with how to choose.
    """
    advice = " or ".join(f"data.channels={way} to {_BROUGHT[way]}" for way in ways) or "name others"
    raise UsageError(
        f"{data} is {_COLOURS[channels]} and {of} is {_COLOURS[wanted]}, which cannot be compared; set {advice}"
    )


def note_resizing(data: str, size: tuple[int, ...], of: str, wanted: tuple[int, ...]) -> None:
    """Note that images are resized before the comparison.

    Args:
        data: name of the set, for the message.
        size: (height, width) of its images.
        of: name of what they are compared with.
        wanted: its (height, width).
    """
    if size != wanted:
        note(f"the images of {data} are {size[0]}x{size[1]} and are resized to the {wanted[0]}x{wanted[1]} of {of}")


def note_storage(data: str, stored: Mapping[str, str], of: str, others: Mapping[str, str] | None) -> None:
    """Note if the images of only one side have transparency or more than 8 bits, which decoding converts.

    Args:
        data: name of the first set, for the message.
        stored: ``storage_record`` of the images of ``data``.
        of: name of the other set or the model, for the message.
        others: the same for ``of``; None if unknown.
    """
    if others is None:
        return
    for key in STORED.values():
        if (key in stored) != (key in others):
            having, lacking, text = (data, of, stored[key]) if key in stored else (of, data, others[key])
            note(f"{having}: {text}; {lacking}: none")
