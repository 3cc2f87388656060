"""Whether a value can be one of a key of the configuration, whichever row is meant; see ``early_models``."""

from __future__ import annotations

from collections.abc import Sequence

from undiffuse.api.configuration.parsing import read_value
from undiffuse.cli.checks.outline import Option
from undiffuse.errors import UsageError


def check_value(key: str, text: str, options: Sequence[Option]) -> None:
    """Refuse what none of the options that a key may stand for takes.

    Args:
        options: one of each row that has the key.
    Raises:
        UsageError: in pydantic's words for the first of them.
    """
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    from undiffuse.cli.checks.models import UnresolvedError, kind_of

    found: ValidationError | None = None
    for option in options:
        try:
            TypeAdapter(kind_of(option), config=ConfigDict(allow_inf_nan=False)).validate_python(read_value(text))
        except UnresolvedError:
            return
        except ValidationError as error:
            found = found or error
        else:
            return
    if found is not None:
        first = found.errors()[0]
        where = ".".join([key, *map(str, first["loc"])])
        if first["type"] == "value_error":  # our own message, which already says what was received
            raise UsageError(f"config key {where!r}: {first['ctx']['error']}")
        raise UsageError(f"config key {where!r}: {first['msg']}, got {first.get('input')!r}")
