"""``undiffuse seal``: accept an edited configuration, or restore the one saved with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from undiffuse.api.loading import find_model
from undiffuse.checksums import CHECKSUM, is_modified
from undiffuse.config import Component
from undiffuse.errors import UsageError
from undiffuse.models.files.components import synchronised, training_section
from undiffuse.models.files.record import accept, check_belongs, read_record, result_record
from undiffuse.models.files.record import restore as put_back
from undiffuse.models.files.wrapped import NAME as WRAPPED
from undiffuse.models.saved import saved_configs
from undiffuse.objectives import OBJECTIVE_CONFIGS
from undiffuse.objectives.base import ObjectiveConfig
from undiffuse.observer import announce


def seal(model: str | Path, restore: bool = False) -> None:
    """Make ``config.json`` of a run or a model folder valid again, without changing weights or checkpoints.

    If nothing was edited, nothing is written.

    Args:
        model: the folder, or the name of a bundled model.
        restore: restore the copy saved with the weights, instead of accepting the file.
    Raises:
        UsageError: there is nothing to accept or to restore.
    """
    folder = find_model(model)
    kept, file = saved_configs(folder), folder / "config.json"
    if restore and not kept:
        raise UsageError(f"{folder} has no valid weights with a copy of config.json; restore config.json yourself")
    if _is_valid(folder, kept[:1] if restore else kept, as_saved=restore):
        announce(
            f"nothing to do: {file} was not changed since it was {'written' if restore else 'written or accepted'}"
        )
    elif restore:
        put_back(folder, kept[0])
        announce(f"put back: {file}, as the weights were saved with it")
    else:
        differs, followed = accept_edits(folder, kept)
        if followed:
            announce(f"components.model.config follows config.system: {'; '.join(followed)}")
        announce(f"accepted: {file}{' (' + '; '.join(differs) + ')' if differs else ''}")


def accept_edits(folder: Path, kept: Sequence[Mapping[str, Any]] | None = None) -> tuple[list[str], list[str]]:
    """Accept the edited ``config.system`` and update the description of the model accordingly.

    Args:
        folder: of the run or the model.
        kept: copies of the configuration in weights and checkpoints, if they have been read.
    Returns:
        Differences from the copy saved with the weights, and updates of the model's description.
    """
    record, followed = _followed(read_record(folder))
    return accept(folder, saved_configs(folder) if kept is None else kept, record), followed


def _followed(record: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The record with the description of its model updated from ``config.system``.

    Raises:
        UsageError: ``config.system`` is invalid.
    """
    trained = training_section(record)
    if trained["name"] == WRAPPED:
        return dict(record), []
    config = Component(OBJECTIVE_CONFIGS, "system").pick(trained)
    assert isinstance(config, ObjectiveConfig)
    return synchronised(record, config.component())


def _is_valid(folder: Path, kept: Sequence[Mapping[str, Any]], *, as_saved: bool) -> bool:
    """Whether ``config.json`` is unchanged since it was written and matches these copies.

    Args:
        as_saved: whether it must equal them, rather than have been accepted in their place.
    """
    try:
        record = read_record(folder)
        for copy in kept:
            check_belongs(folder, record, copy, "what")
    except UsageError:
        return False
    with_checksum = CHECKSUM in record and not is_modified(record)
    return with_checksum and not (as_saved and any(result_record(record) != copy for copy in kept))
