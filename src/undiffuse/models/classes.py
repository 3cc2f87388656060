"""Which of a model's classes a user means: the data's names always win; "no class" is no name, it is ``None``."""

from __future__ import annotations

import operator
import unicodedata
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from undiffuse.errors import UsageError
from undiffuse.observer import note
from undiffuse.registry import nearest

#: A class to draw: its name, a number for one that is called by a number, or ``None`` for no class in particular.
ClassName = str | SupportsIndex | None
#: What a request names: one class for all samples, several in turn (``[None]`` for no class), ``None`` for all in turn.
Classes = str | SupportsIndex | Iterable[ClassName] | None

#: What stood for no class in earlier versions; it still does where no class of the model is called so.
_OLD_WORD = "none"
_INSTEAD = "no class in particular is drawn with --no-class, and in Python with class_name=[None]"


def requested_classes(requested: Classes, known: Sequence[str]) -> list[str | None]:
    """The classes in turn that a request names; all of them if it names none.

    Args:
        requested: one name for all samples, several in turn (``None`` among them for no class), or ``None`` for all in
            turn.
        known: the model's own names.
    Raises:
        UsageError: an unknown class, or any class of a model without.
    Example:
        >>> requested_classes([3, None], ["1", "3", "none"]), requested_classes("none", ["1", "3", "none"])
        (['3', None], ['none'])
    """
    if requested is None:
        return list(known)
    many = [requested] if isinstance(requested, str) or _is_number(requested) else list(requested)  # type: ignore[arg-type]
    return [find_class(name, known) for name in many] or list(known)  # type: ignore[arg-type]


def find_class(name: ClassName, known: Sequence[str]) -> str | None:
    """The one of the ``known`` classes that ``name`` is, or ``None`` for no class in particular.

    Args:
        name: as the user wrote it: a text, or a whole number for a class that is called by a number.
        known: the model's own names.
    Raises:
        UsageError: no such class; the nearest is named.
    """
    if name is None:
        return None
    text = name if isinstance(name, str) else str(operator.index(name)) if _is_number(name) else repr(name)
    alike = [one for one in known if one == text] or [one for one in known if _look(one) == _look(text)]
    if alike:
        return alike[0]
    is_word = text.casefold() == _OLD_WORD
    if text == _OLD_WORD and known and not any(one.casefold() == _OLD_WORD for one in known):
        note(f"class 'none' is none of this model's: taken for no class; {_INSTEAD}")
        return None
    if not known:
        hint = f"; {_INSTEAD}" if is_word else ""
        raise UsageError(f"this model was trained without classes, got class {text!r}; leave the class out{hint}")
    raise UsageError(f"unknown class {text!r}; {nearest(text, known)}{f'; {_INSTEAD}' if is_word else ''}")


def _look(name: str) -> str:
    """A name with its accents composed, as it is typed; a folder of macOS has them apart."""
    return unicodedata.normalize("NFC", name)


def _is_number(value: object) -> bool:
    """Whole numbers of Python, NumPy and torch; ``True`` is none."""
    if isinstance(value, bool):
        return False
    try:
        operator.index(value)  # type: ignore[arg-type]
    except (TypeError, RuntimeError):
        return False
    return True
