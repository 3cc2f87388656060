"""Error message for an unknown data source. Imports no heavy modules."""

from __future__ import annotations

from collections.abc import Iterable

from undiffuse.errors import UsageError
from undiffuse.registry import nearest


def no_source(spec: str, sources: Iterable[str]) -> UsageError:
    """Error for a ``spec`` that is neither one of the sources nor a path."""
    return UsageError(
        f"no data source {spec!r}: neither the name of a source ({nearest(spec, sources)}) nor an existing folder or "
        "file of images; check the path"
    )
