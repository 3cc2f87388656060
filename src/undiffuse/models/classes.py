"""Resolves class names given by the user: names in the data take precedence; ``None`` means unconditional."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from undiffuse.errors import UsageError
from undiffuse.observer import note
from undiffuse.registry import nearest

#: A class to sample: its name, an integer for a class with a numeric name, or ``None`` for unconditional samples.
ClassName = str | SupportsIndex | None
#: Requested classes: one for all samples, several used cyclically (``[None]`` for unconditional), ``None`` for all.
Classes = str | SupportsIndex | Iterable[ClassName] | None

#: Name for "no class" in earlier versions; still accepted if the model has no class with this name.
_OLD_NAME = "none"
_INSTEAD = "for unconditional samples use --no-class, or class_name=[None] in Python"


def requested_classes(requested: Classes, known: Sequence[str]) -> list[str | None]:
    """The requested classes, in the order of sampling; all classes if none are specified.

    Args:
        requested: one name for all samples, several to be used cyclically (``None`` among them for unconditional
            samples), or ``None`` for all classes.
        known: class names of the model.
    Raises:
        UsageError: if a class is unknown, or the model has no classes.
    Example:
        >>> requested_classes([3, None], ["1", "3", "none"]), requested_classes("none", ["1", "3", "none"])
        (['3', None], ['none'])
    """
    if requested is None:
        return list(known)
    names = [requested] if isinstance(requested, str) or _is_number(requested) else list(requested)  # type: ignore[arg-type]
    return [find_class(name, known) for name in names] or list(known)  # type: ignore[arg-type]


def find_class(name: ClassName, known: Sequence[str]) -> str | None:
    """Find the known class with this name; returns ``None`` for unconditional samples.

    Args:
        name: name given by the user, or an integer for a class with a numeric name.
        known: class names of the model.
    Raises:
        UsageError: if there is no such class; suggests the nearest one.
    """
    if name is None:
        return None
    text = name if isinstance(name, str) else str(operator.index(name)) if _is_number(name) else repr(name)
    matches = [each for each in known if each == text] or [each for each in known if _nfc(each) == _nfc(text)]
    if matches:
        return matches[0]
    is_old_name = text.casefold() == _OLD_NAME
    if text == _OLD_NAME and known and not any(each.casefold() == _OLD_NAME for each in known):
        note(f"this model has no class 'none': interpreted as unconditional; {_INSTEAD}")
        return None
    if not known:
        hint = f"; {_INSTEAD}" if is_old_name else ""
        raise UsageError(f"this model was trained without classes, got class {text!r}; leave the class out{hint}")
    raise UsageError(f"unknown class {text!r}; {nearest(text, known)}{f'; {_INSTEAD}' if is_old_name else ''}")


def _nfc(name: str) -> str:
    """The name with composed accents, as typed on a keyboard; macOS decomposes them in folder names."""
    return unicodedata.normalize("NFC", name)


def _is_number(value: object) -> bool:
    """Whether the value is an integer of Python, NumPy or torch, but not a bool."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return True
