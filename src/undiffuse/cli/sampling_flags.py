"""Command line flags for the sampling options, generated from ``models.options``."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from undiffuse.cli.checks import completion
from undiffuse.cli.checks.names import REGISTRIES
from undiffuse.cli.checks.sampling_options import Flag, earlier_flags, flags, read_options
from undiffuse.observer import note
from undiffuse.wording import renamed_note

R = TypeVar("R")
#: The parameter of a command that is replaced by the flags.
_PARAMETER = "options"


def sampling_flags(function: Callable[..., R]) -> Callable[..., R]:
    """Replace a command's parameter ``options`` by one flag per sampling option; unset flags keep the model's defaults.

    A command without a parameter ``image`` does not get the flags for initial images. Deprecated flag names are hidden
    and print a note with the current name.
    """

    @wraps(function)
    def wrapper(*arguments: Any, **values: Any) -> R:
        typed = {name: values.pop(name) for name in (*flags(), *earlier_flags()) if name in values}
        for old, flag in earlier_flags().items():
            if typed.get(old) is not None:
                note(renamed_note(flag.earlier_option, flag.option))
        return function(*arguments, **values, **{_PARAMETER: read_options(typed)})

    hints = get_type_hints(function, localns={"SamplingOptions": object}, include_extras=True)
    known = [flag for flag in flags().values() if not flag.of_image or "image" in hints]
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        keyword = parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        options = [_parameter(flag) for flag in known] + [_earlier_parameter(flag) for flag in known if flag.earlier]
        parameters += options if parameter.name == _PARAMETER else [keyword]
    wrapper.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def _parameter(flag: Flag) -> inspect.Parameter:
    complete = completion.rows(REGISTRIES[flag.kind]) if flag.kind else None
    shown = typer.Option(help=flag.help, metavar=None if flag.type else "LO,HI", autocompletion=complete)
    annotation: Any = Annotated[(flag.type or str) | None, shown]
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _earlier_parameter(flag: Flag) -> inspect.Parameter:
    shown = typer.Option(help=f"deprecated name of {flag.option}", hidden=True)
    annotation: Any = Annotated[(flag.type or str) | None, shown]
    return inspect.Parameter(flag.earlier, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
