"""A command that samples takes a flag for each option of ``models.options``, which are listed nowhere else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any, TypeVar, get_type_hints

import typer

from undiffuse.cli import completion
from undiffuse.cli.checks.names import REGISTRIES
from undiffuse.cli.checks.sampling_options import Flag, flags, read_options

R = TypeVar("R")
#: The parameter of a command that stands for all of them.
_PARAMETER = "options"


def sampling_flags(function: Callable[..., R]) -> Callable[..., R]:
    """A command whose parameter ``options`` is given as flags; what no flag says is the model's own.

    A command without a parameter ``image`` has none of the flags that are of one.
    """

    @wraps(function)
    def called(*arguments: Any, **values: Any) -> R:
        typed = {name: values.pop(name) for name in flags() if name in values}
        return function(*arguments, **values, **{_PARAMETER: read_options(typed)})

    hints = get_type_hints(function, localns={"SamplingOptions": object}, include_extras=True)
    known = [flag for flag in flags().values() if not flag.of_image or "image" in hints]
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        alone = parameter.replace(annotation=hints[parameter.name], kind=inspect.Parameter.KEYWORD_ONLY)
        parameters += [_parameter(flag) for flag in known] if parameter.name == _PARAMETER else [alone]
    called.__signature__ = inspect.Signature(parameters, return_annotation=None)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _parameter(flag: Flag) -> inspect.Parameter:
    complete = completion.rows(REGISTRIES[flag.kind]) if flag.kind else None
    shown = typer.Option(help=flag.help, metavar=None if flag.type else "LO,HI", autocompletion=complete)
    annotation: Any = Annotated[(flag.type or str) | None, shown]
    return inspect.Parameter(flag.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
