"""Counts and descriptions of what decoding changed in, or could not read from, the images of a set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from undiffuse.wording import count_noun

#: Properties of the stored images that 8-bit grey or RGB cannot represent, worded to follow "12 images".
TRANSPARENT, HIGH_DEPTH = "with transparency, laid on data.background", "of more than 8 bits a value, each rounded to 8"
#: Provenance keys of these notes: separate keys, so that a comparison of two sets reports the difference.
STORED = {TRANSPARENT: "transparency", HIGH_DEPTH: "bit_depth"}

_MAX_LISTED = 8  # kinds of notes listed in a report


class DecodingNotes:
    """Counter of the decoder's notes about the images of a set."""

    def __init__(self) -> None:
        self._counts = Counter[str]()

    def take(self, notes: Iterable[str]) -> None:
        """Count the notes of one image, each worded to follow "12 images"."""
        self._counts.update(notes)

    @property
    def report(self) -> dict[str, str]:
        """Provenance entries for these notes; empty if there are none."""
        separate = {key: self._describe(text) for text, key in STORED.items() if self._counts[text]}
        found = [(text, count) for text, count in self._counts.most_common() if count and text not in STORED]
        parts = [self._describe(text) for text, _ in found[:_MAX_LISTED]]
        if len(found) > _MAX_LISTED:
            parts.append(
                f"{sum(count for _, count in found[_MAX_LISTED:]):,} more with {len(found) - _MAX_LISTED} other remarks"
            )
        return {**separate, **({"decoding": "; ".join(parts)} if parts else {})}

    def _describe(self, text: str) -> str:
        return f"{count_noun(self._counts[text], 'image')} {text}"


def storage_record(provenance: Mapping[str, str]) -> dict[str, str]:
    """The provenance entries about stored properties that the decoded set lacks (transparency, bit depth)."""
    return {key: provenance[key] for key in STORED.values() if key in provenance}
