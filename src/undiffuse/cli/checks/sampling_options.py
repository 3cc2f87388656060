"""The sampling options, parsed from the source of their model, so that completion and early checks need no import."""

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
        name: name of the parameter; with dashes, of the flag.
        type: type of the value; None for an interval, which is written as ``LO,HI``.
        kind: kind of the rows that the value names; empty if it is not a name.
        help: one line of help.
        of_image: whether it needs an initial image.
        earlier: deprecated name of the parameter; empty if there is none.
    """

    name: str
    type: type | None
    kind: str
    help: str
    of_image: bool = False
    earlier: str = ""

    @property
    def option(self) -> str:
        """The flag on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def earlier_option(self) -> str:
        """The deprecated flag on the command line."""
        return f"--{self.earlier.replace('_', '-')}"


@cache
def flags() -> dict[str, Flag]:
    """All options that a request may set, by name; the same as those of ``models.options.option_rows``."""
    found = (_flag(field, option) for field, option in options_of(definition(_MODEL)).items())
    return {flag.name: flag for flag in found if flag is not None}


@cache
def earlier_flags() -> dict[str, Flag]:
    """Flags by their deprecated names."""
    return {flag.earlier: flag for flag in flags().values() if flag.earlier}


def check_options(values: Mapping[str, Any]) -> None:
    """Check sampling options, given by name as on the command line.

    Raises:
        UsageError: an unknown row or an invalid value; the message is that of ``SamplingOptions`` or of the row.
    """
    known = flags() | earlier_flags()
    requested = {name: value for name, value in values.items() if name in known and value is not None}
    for name, value in requested.items():
        if kind := known[name].kind:
            check_spec(kind, value)
    if requested:
        read_options(requested)


def read_options(typed: Mapping[str, Any]) -> Any:
    """Parse the values of flags to ``SamplingOptions``.

    Raises:
        UsageError: an invalid value.
    """
    known = flags() | earlier_flags()
    read = {name: _read(known[name], value) for name, value in typed.items()}
    from undiffuse.models.options import SamplingOptions

    return SamplingOptions.of(**read)


def _read(flag: Flag, value: Any) -> Any:
    return value if flag.type is not None else parse_interval(flag.option, value)


def _flag(field: str, option: Option) -> Flag | None:
    """The flag of a field ``Annotated[type, ..., Option(help, ...)]``; None for a field that is not an option."""
    match option.annotation:
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[kind, *marks])):
            calls = [mark for mark in marks if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "Option"]
            arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in calls[0].keywords}
            plain = re.findall(r"\bstr|int|float|LogSNRInterval\b", ast.unparse(kind))[0]
            text = ast.literal_eval(calls[0].args[0])
            return Flag(
                arguments.get("name", field),
                _TYPES.get(plain),
                arguments.get("kind", ""),
                text,
                arguments.get("of_image", False),
                arguments.get("earlier", ""),
            )
    return None
