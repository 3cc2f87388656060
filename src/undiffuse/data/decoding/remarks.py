"""What was done to the images of a set, or could not be, counted and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from undiffuse.wording import counted

_MOST = 8  # kinds that are named


class Remarks:
    """Counts what decoding has to say of each image."""

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def take(self, remarks: Iterable[str]) -> None:
        """Those of one image, each as it goes on after "12 images"."""
        self._counts.update(remarks)

    @property
    def report(self) -> dict[str, str]:
        """What to say about them in a set's provenance; nothing where there is nothing."""
        found = self._counts.most_common()
        parts = [f"{counted(count, 'image')} {text}" for text, count in found[:_MOST]]
        if len(found) > _MOST:
            parts.append(f"{sum(count for _, count in found[_MOST:]):,} more with {len(found) - _MOST} other remarks")
        return {"decoding": "; ".join(parts)} if parts else {}
