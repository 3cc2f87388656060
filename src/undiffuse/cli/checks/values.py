"""Checks of a configuration value when the registry row is unknown; see ``checks.models``."""

from __future__ import annotations

from collections.abc import Sequence

from undiffuse.api.configuration.parsing import read_value
from undiffuse.cli.checks.outline import Option
from undiffuse.errors import UsageError


def check_value(key: str, text: str, options: Sequence[Option]) -> None:
    """Check that at least one of the options with this key accepts a value.

    Args:
        key: the configuration key.
        text: its value, as on the command line.
        options: the option of each row that has the key.
    Raises:
        UsageError: none accepts it; the message is pydantic's for the first option.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    from undiffuse.cli.checks.models import UnresolvedError, kind_of

    first_error: ValidationError | None = None
    for option in options:
        try:
            TypeAdapter(kind_of(option), config=ConfigDict(allow_inf_nan=False)).validate_python(read_value(text))
        except UnresolvedError:
            return
        except ValidationError as error:
            first_error = first_error or error
        else:
            return
    if first_error is not None:
        first = first_error.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        if first["type"] == "value_error":  # a message of this package, which already states what was received
            raise UsageError(f"config key {where!r}: {first['ctx']['error']}")
        raise UsageError(f"config key {where!r}: {first['msg']}, got {first.get('input')!r}")
