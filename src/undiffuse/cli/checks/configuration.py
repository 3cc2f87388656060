"""Checks of a run's configuration, from a recipe and overrides, before torch is imported.

``recipes.json`` has the settings of each recipe, written by ``tools/make_cli_reference.py``, so the registry rows of a
recipe are known without importing it. Everything else is checked by ``checks.models``, which needs pydantic and 0.5 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from undiffuse.api.configuration.start_rules import check_start, check_start_overrides
from undiffuse.api.configuration.starts import config_file, record_in
from undiffuse.checksums import read_json
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, observing

if TYPE_CHECKING:
    from undiffuse.data.config import SourceConfig
    from undiffuse.training.config import RunConfig

_TABLE = Path(__file__).with_name("recipes.json")


@cache
def recipe_settings() -> dict[str, dict[str, Any]]:
    """Recipe name -> its settings that differ from the defaults, with all sections and the names of their rows."""
    found: dict[str, dict[str, Any]] = json.loads(_TABLE.read_bytes())
    return found


def check_configuration(
    values: Mapping[str, Any], overrides: Sequence[str], data: str | None = None, what: str = "config"
) -> None:
    """Validate a configuration with overrides, as far as possible without importing torch.

    Args:
        values: the configuration before the overrides, see ``recipe_settings``.
        overrides: ``key=value`` strings.
        data: value of ``--data``.
        what: name of the values, for the message.
    Raises:
        UsageError: an invalid configuration; the message is that of the configuration itself.
    """
    from undiffuse.api.configuration.overrides import apply_overrides
    from undiffuse.api.configuration.text_folder import check_text_encoder
    from undiffuse.cli.checks.models import UnresolvedError, run_model
    from undiffuse.config import validate
    from undiffuse.data.spec import source_config_for

    source = source_config_for(data) if data is not None else None
    try:
        base = validate(run_model(), values, what)
        with observing(SILENT):  # notes are shown when the run starts
            if any(names_system(one) and one.partition("=")[2] != base.system.name for one in overrides):
                _check_other_system(base, overrides, source)
            else:
                requested = apply_overrides(base, overrides, source)
                if any(one.startswith("system.text") for one in overrides):
                    check_text_encoder(requested)
    except UnresolvedError:
        return


def _check_other_system(base: RunConfig, overrides: Sequence[str], source: SourceConfig | None) -> None:
    """Check overrides that change the system.

    Which settings of the old system the new one keeps is known only after importing torch; the stand-ins may keep more.
    So an error is raised only if it also occurs when the new system keeps none.

    Raises:
        UsageError: an error that does not depend on the settings that are kept.
    """
    from undiffuse.api.configuration.overrides import apply_overrides

    try:
        apply_overrides(base, overrides, source)
    except UsageError as error:
        other = _error_without_settings(base, overrides, source)
        if other is not None and _problem(error) == _problem(other):
            raise


def _error_without_settings(
    base: RunConfig, overrides: Sequence[str], source: SourceConfig | None
) -> UsageError | None:
    """The error of the overrides if the new system keeps no setting of the old one; None if there is none."""
    from undiffuse.api.configuration.overrides import apply_overrides
    from undiffuse.config import ComponentConfig

    empty = base.model_copy(update={"system": ComponentConfig(name=base.system.name)})
    try:
        apply_overrides(empty, overrides, source)
    except UsageError as error:
        return error
    return None


def _problem(error: UsageError) -> str:
    """The message without its list of sections, which depends on the settings that are kept."""
    message = str(error)
    return message.partition(";")[0] if message.startswith("config has no section") else message


def check_proposed(overrides: Sequence[str], data: str) -> None:
    """Check that at least one of the recipes that may be proposed accepts the overrides; the data decide which one.

    Raises:
        UsageError: none accepts them; the message is that of the first recipe.
    """
    from undiffuse.recipes.proposal import FEW_IMAGES_OVERRIDES, PROPOSED

    first_error: UsageError | None = None
    for recipe in PROPOSED if overrides else ():
        for proposed in ((), FEW_IMAGES_OVERRIDES):
            try:
                check_configuration(recipe_settings()[recipe], [*proposed, *overrides], data)
            except UsageError as error:
                first_error = first_error or error
            else:
                return
    if first_error is not None:
        raise first_error


def names_system(override: str) -> bool:
    """Whether an override changes the system; which settings it then keeps is known only after importing torch."""
    return override.partition("=")[0] in ("system", "system.name")


def check_file_with(file: Path, overrides: Sequence[str], data: str | None) -> None:
    """Check the configuration in a file, given by ``--config``, with overrides."""
    record, file = record_in(file), config_file(file)
    if "format_version" in record:
        from undiffuse.models.files.record import check_format

        check_format(record["format_version"], str(file))
    check_configuration(record.get("config", record), overrides, data, f"--config {file}")


def check_fine_tuning(folder: Path, name: str, overrides: Sequence[str], data: str | None) -> None:
    """Check that a model can be fine-tuned with these overrides, if its configuration can be read.

    Args:
        folder: of the model.
        name: of the model, for messages.
        overrides: ``key=value`` strings.
        data: value of ``--data``.
    """
    try:
        values = read_json(folder / "config.json")["config"]
        system = values["system"]
    except (OSError, ValueError, LookupError, TypeError):
        return  # loading the model raises the error
    check_start(name, system)
    check_start_overrides(overrides)
    try:
        check_configuration(values, ())
    except UsageError:
        return
    check_configuration({**values, "start": {"name": name, "path": name}}, overrides, data)


def check_resumed_with(run: Path, overrides: Sequence[str], data: str | None) -> None:
    """Check the configuration of a run with overrides; whether the run itself is valid is checked on resuming."""
    try:
        values = read_json(run / "config.json")["config"]
        check_configuration(values, ())
    except (OSError, ValueError, LookupError, TypeError, UsageError):
        return
    check_configuration(values, overrides, data)
