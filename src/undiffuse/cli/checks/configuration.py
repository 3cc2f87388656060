"""Checks of a run's configuration, from a recipe and overrides, before torch is imported.

``recipes.json`` has the settings of each recipe, written by ``tools/make_cli_reference.py``, so the registry rows of a
recipe are known without importing it. Everything else is checked by ``checks.models``, which needs pydantic and 0.5 s.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.starts import config_file, record_in
from undiffuse.checksums import read_json
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, observing

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
    from undiffuse.cli.checks.models import UnresolvedError, run_model
    from undiffuse.config import validate
    from undiffuse.data.spec import source_config_for

    source = source_config_for(data) if data is not None else None
    try:
        base = validate(run_model(), values, what)
        if any(names_system(override) for override in overrides):
            return
        with observing(SILENT):  # notes are shown when the run starts
            apply_overrides(base, overrides, source)
    except UnresolvedError:
        return


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


def check_resumed_with(run: Path, overrides: Sequence[str], data: str | None) -> None:
    """Check the configuration of a run with overrides; whether the run itself is valid is checked on resuming."""
    try:
        values = read_json(run / "config.json")["config"]
        check_configuration(values, ())
    except (OSError, ValueError, LookupError, TypeError, UsageError):
        return
    check_configuration(values, overrides, data)
