"""A run's configuration as a recipe and overrides would make it, looked at before torch is imported.

``recipes.json`` holds what each recipe says, written from the recipes by ``tools/make_cli_reference.py``: which rows
are chosen is known from it at once. All else ``early_models`` know, which take pydantic and half a second.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from undiffuse.api.configuration.starts import config_file, record_in
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, observing
from undiffuse.sealed import read_json

_TABLE = Path(__file__).with_name("recipes.json")


@cache
def recipe_settings() -> dict[str, dict[str, Any]]:
    """By a recipe's name: what it says beyond the defaults, with all its sections and the names of their rows."""
    found: dict[str, dict[str, Any]] = json.loads(_TABLE.read_bytes())
    return found


def check_configuration(
    values: Mapping[str, Any], overrides: Sequence[str], data: str | None = None, what: str = "config"
) -> None:
    """Refuse what the configuration itself will refuse, as far as it can be known without the mathematics.

    Args:
        values: what is overridden, see ``recipe_settings``.
        data: what ``--data`` names.
        what: the values are called.
    Raises:
        UsageError: in the words of the configuration.
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
        with observing(SILENT):  # said when it is acted on
            apply_overrides(base, overrides, source)
    except UnresolvedError:
        return


def check_proposed(overrides: Sequence[str], data: str) -> None:
    """Refuse what no recipe takes that may be proposed for data; which one it will be, only the data tell.

    Raises:
        UsageError: in the words of the configuration of the first of them.
    """
    from undiffuse.recipes.proposal import FEW_IMAGES_OVERRIDES, PROPOSED

    refused: UsageError | None = None
    for recipe in PROPOSED if overrides else ():
        for proposed in ((), FEW_IMAGES_OVERRIDES):
            try:
                check_configuration(recipe_settings()[recipe], [*proposed, *overrides], data)
            except UsageError as error:
                refused = refused or error
            else:
                return
    if refused is not None:
        raise refused


def names_system(override: str) -> bool:
    """Whether an override brings another system, of which only the mathematics tells what it takes of the old one."""
    return override.partition("=")[0] in ("system", "system.name")


def check_file_with(file: Path, overrides: Sequence[str], data: str | None) -> None:
    """The same of the configuration in a file, which ``--config`` names."""
    record, file = record_in(file), config_file(file)
    if "format_version" in record:
        from undiffuse.models.files.record import check_format

        check_format(record["format_version"], str(file))
    check_configuration(record.get("config", record), overrides, data, f"--config {file}")


def check_resumed_with(run: Path, overrides: Sequence[str], data: str | None) -> None:
    """The same of the run in a folder; whether that is sound is looked at when it is resumed."""
    try:
        values = read_json(run / "config.json")["config"]
        check_configuration(values, ())
    except (OSError, ValueError, LookupError, TypeError, UsageError):
        return
    check_configuration(values, overrides, data)
