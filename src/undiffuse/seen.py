"""The number of training images a model has seen, from its files. Any package may import this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def images_seen(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """The number from the metrics log or, without one, from ``config.json``; 0 if neither has it.

    Args:
        record: contents of ``config.json``: a bundled model has a card, an exported one ``trained_images``.
        rows: rows of the metrics log.
    """
    card = record.get("card")
    recorded = (card.get("images") if isinstance(card, Mapping) else None) or record.get("trained_images") or 0
    return max((int(row["images"]) for row in rows if "images" in row), default=int(recorded))
