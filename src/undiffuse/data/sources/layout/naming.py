"""How data that is named and not there is spoken of. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable

from undiffuse.errors import UsageError
from undiffuse.registry import nearest


def no_source(spec: str, sources: Iterable[str]) -> UsageError:
    """``spec`` is neither one of the sources nor a path."""
    return UsageError(
        f"no data source {spec!r}: neither a source by that name ({nearest(spec, sources)}) nor an existing folder of "
        "images or file of them; check the path"
    )
