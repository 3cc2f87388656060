"""The options of sampling as the text of their model states them: a key press or a wrong name waits for no import."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from undiffuse.api.configuration.parsing import parse_interval
from undiffuse.cli.checks.names import check_spec
from undiffuse.cli.checks.outline import Option, definition, options_of

_MODEL = "undiffuse.models.options:SamplingOptions"
_TYPES: dict[str, type] = {"str": str, "int": int, "float": float}


class Flag(NamedTuple):
    """An option on the command line.

    Attributes:
        name: of the parameter; with dashes, of the flag.
        type: of its value; None for an interval, which is typed as ``LO,HI``.
        kind: of the rows that it names; empty for what is no name.
        help: a line.
        of_image: whether it is of an image to begin from.
        earlier: name of the parameter in earlier versions; empty where it had no other.
    """

    name: str
    type: type | None
    kind: str
    help: str
    of_image: bool = False
    earlier: str = ""

    @property
    def option(self) -> str:
        """As it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def earlier_option(self) -> str:
        """As it was typed in earlier versions."""
        return f"--{self.earlier.replace('_', '-')}"


@cache
def flags() -> dict[str, Flag]:
    """Every option that a request may set, by name; the same as ``models.options.option_rows`` lists."""
    found = (_flag(field, option) for field, option in options_of(definition(_MODEL)).items())
    return {flag.name: flag for flag in found if flag is not None}


@cache
def earlier_flags() -> dict[str, Flag]:
    """Flags by the names that they had in earlier versions, where those are others."""
    return {flag.earlier: flag for flag in flags().values() if flag.earlier}


def check_options(values: Mapping[str, Any]) -> None:
    """Refuse options of sampling, by name and as typed, of which some row or value is none.

    Raises:
        UsageError: as the model of the options or what they name would.
    """
    known = flags() | earlier_flags()
    requested = {name: value for name, value in values.items() if name in known and value is not None}
    for name, value in requested.items():
        if kind := known[name].kind:
            check_spec(kind, value)
    if requested:
        read_options(requested)


def read_options(typed: Mapping[str, Any]) -> Any:
    """``SamplingOptions`` of flags as they were typed.

    Raises:
        UsageError: a value that an option cannot have.
    """
    known = flags() | earlier_flags()
    read = {name: _read(known[name], value) for name, value in typed.items()}
    from undiffuse.models.options import SamplingOptions

    return SamplingOptions.of(**read)


def _read(flag: Flag, value: Any) -> Any:
    return value if flag.type is not None else parse_interval(flag.option, value)


def _flag(field: str, option: Option) -> Flag | None:
    """The flag of a field ``Annotated[type, ..., Option(help, ...)]``; None for one that no request sets."""
    match option.annotation:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *marks])):
            calls = [one for one in marks if isinstance(one, ast.Call) and ast.unparse(one.func) == "Option"]
            words = {one.arg: ast.literal_eval(one.value) for one in calls[0].keywords}
            plain = re.findall(r"\bstr|int|float|LogSNRInterval\b", ast.unparse(kind))[0]
            text = ast.literal_eval(calls[0].args[0])
            return Flag(
                words.get("name", field),
                _TYPES.get(plain),
                words.get("kind", ""),
                text,
                words.get("of_image", False),
                words.get("earlier", ""),
            )
    return None
