"""``undiffuse train --data SRC`` without a recipe: choose a recipe by the data and the hardware."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.configuration.sources import configured
from undiffuse.api.loading import pick_device
from undiffuse.compute.hardware import hardware
from undiffuse.data import load_dataset
from undiffuse.data.config import ImageConfig, SourceConfig
from undiffuse.data.dataset import Dataset
from undiffuse.data.load import list_source
from undiffuse.data.readers.decoding.image import read_header, without_warnings
from undiffuse.data.storage.encoded_files import EncodedFiles
from undiffuse.data.storage.listing import FileListing
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe
from undiffuse.recipes.pace import estimate_duration
from undiffuse.recipes.proposal import DataSummary, Hardware, Proposal, propose
from undiffuse.training.config import RunConfig
from undiffuse.wording import command

#: Maximum number of file headers to read, evenly spaced.
_MOST_HEADERS = 4_000
_KEY = "data."


def apply_proposal(proposal: Proposal, overrides: Sequence[str]) -> list[str]:
    """The overrides of a proposal followed by the user's, without those that the user sets.

    A proposed augmentation does not flip images if the user sets ``random_flip``.

    Args:
        proposal: recipe and overrides for the data.
        overrides: of the user, which take precedence.
    """
    keys = {text.partition("=")[0].removesuffix(".name") for text in overrides}
    user_keys = keys | ({"random_flip"} if "augment" in keys else set())
    kept = [text for text in proposal.overrides if text.partition("=")[0] not in user_keys]
    augmented = any(text.startswith("augment=") for text in kept)
    unmirrored = ["augment.flip=0"] if augmented and "random_flip" in keys and "augment.flip" not in keys else []
    return [*kept, *unmirrored, *overrides]


def proposed(source: SourceConfig, data: str, overrides: Sequence[str], device: str = "auto") -> tuple[RunConfig, str]:
    """The proposed run for this data and hardware, and a description with reasons and duration.

    Quality is evaluated during training only if an override requests it.

    Args:
        source: configuration of ``data``.
        data: the source as typed, for the printed command.
        overrides: of the user, including those for the data.
        device: ``auto``, ``cpu`` or ``cuda``.
    Raises:
        UsageError: invalid keys or values, or no usable data.
    """
    options = [text.removeprefix(_KEY) for text in overrides if text.startswith(_KEY)]
    summary = data_facts(configured(source, options))
    here = Hardware(cores=hardware("cpu").threads, gpu=pick_device(device) != "cpu")
    proposal = propose(summary, here)
    whole, recipe = apply_proposal(proposal, overrides), get_recipe(proposal.recipe)
    config = apply_overrides(recipe, ["quality_every_images=0", *whole], source)
    because = [why for override, why in proposal.override_reasons.items() if override in whole]
    reasons = [*proposal.reasons, *because, estimate_duration(recipe, config, summary.side, here)]
    typed = command("train", proposal.recipe, "--data", data, *whole)
    return config, f"{proposal.recipe} fits: {'; '.join(filter(None, reasons))}\nthe same as: {typed}"


def data_facts(config: SourceConfig) -> DataSummary:
    """Summary of a data set for choosing a recipe; of encoded images only headers are read.

    Raises:
        UsageError: no usable data.
    """
    found = list_source(config) if isinstance(config, ImageConfig) else load_dataset(config)
    num_items, num_classes = _counts(found, getattr(config, "classes", ()))
    summary: dict[str, Any] = {
        "source": config.name,
        "num_items": num_items,
        "num_classes": num_classes,
        "path": getattr(config, "path", ""),
        "as_files": isinstance(found, FileListing),
    }
    if not isinstance(found, FileListing) and not found.space.is_image:
        return DataSummary(points=True, **summary)
    return DataSummary(**summary, **_image_facts(found, config))


def _counts(found: Dataset, classes: Sequence[str]) -> tuple[int, int]:
    """Numbers of items and classes, of the requested classes only."""
    if not classes or found.labels is None:
        return len(found), found.num_classes
    kept = [number for number, name in enumerate(found.class_names) if name in classes]
    return int(np.isin(found.labels, kept).sum()), len(kept)


def _image_facts(found: Dataset, config: SourceConfig) -> dict[str, Any]:
    if isinstance(found, FileListing):
        headers, all_read = _sample_headers(found.files, config)
        unreadable = len(found) - len(headers) if all_read and not getattr(config, "classes", ()) else 0
    else:
        headers, all_read, unreadable = np.array([[*found.shape[1:], found.shape[0] == 1]]), True, 0
    shorter = np.sort(headers[:, :2].min(axis=1))
    target = getattr(config, "target", None)
    channels = getattr(config, "channels", None)
    return {
        "side": min(target) if target is not None else int(shorter[len(shorter) // 2]),
        "requested": target is not None,
        "smallest": int(shorter[0]) if all_read else None,
        "unreadable": unreadable,
        "grey": bool(headers[:, 2].all()) if channels is None else channels == 1,
    }


def _sample_headers(files: EncodedFiles, config: SourceConfig) -> tuple[npt.NDArray[np.int32], bool]:
    """(K, 3) height, width and whether grey, and whether all files were read; corrupt files are skipped."""
    count = min(len(files), _MOST_HEADERS)
    rows = np.linspace(0, len(files) - 1, count).round().astype(int).tolist() if count else []
    headers, background = [], getattr(config, "background", 255)
    with without_warnings():
        for row in rows:
            try:
                headers.append(read_header(files.source(row), background, files.title(row)))
            except UsageError as error:
                first = error
    if not headers:
        raise first if rows else UsageError(f"{files.location} holds no images; name a folder or archive of them")
    return np.array(headers, dtype=np.int32), count == len(files)
