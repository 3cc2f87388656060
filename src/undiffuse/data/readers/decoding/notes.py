"""What was done to the images of a set, or could not be, counted and in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from undiffuse.wording import counted

#: What images were stored with that 8 bits of grey or RGB do not hold, as it goes on after "12 images".
TRANSPARENT, HIGH_DEPTH = "with transparency, laid on data.background", "of more than 8 bits a value, each rounded to 8"
#: Such remarks stand in a set's provenance under keys of their own: two sets that differ in them do not compare unsaid.
STORED = {TRANSPARENT: "transparency", HIGH_DEPTH: "bit_depth"}

_MOST = 8  # kinds that are named


class DecodingNotes:
    """Counts what decoding has to say of each image."""

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def take(self, notes: Iterable[str]) -> None:
        """Those of one image, each as it goes on after "12 images"."""
        self._counts.update(notes)

    @property
    def report(self) -> dict[str, str]:
        """What to say about them in a set's provenance; nothing where there is nothing."""
        apart = {key: self._said(text) for text, key in STORED.items() if self._counts[text]}
        found = [(text, count) for text, count in self._counts.most_common() if count and text not in STORED]
        parts = [self._said(text) for text, _ in found[:_MOST]]
        if len(found) > _MOST:
            parts.append(f"{sum(count for _, count in found[_MOST:]):,} more with {len(found) - _MOST} other remarks")
        return {**apart, **({"decoding": "; ".join(parts)} if parts else {})}

    def _said(self, text: str) -> str:
        return f"{counted(self._counts[text], 'image')} {text}"


def storage_record(provenance: Mapping[str, str]) -> dict[str, str]:
    """Of a set's provenance, what its images were stored with that the set does not hold."""
    return {key: provenance[key] for key in STORED.values() if key in provenance}
