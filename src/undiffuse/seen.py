"""How many images a model has seen in training, by what is written about it. Any room may import this module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def images_seen(record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """By the metrics log or, without one, by what ``config.json`` says of it; 0 where neither does.

    Args:
        record: of ``config.json``; a bundled model's has a card, an exported one's the number itself.
        rows: of the metrics log.
    """
    card = record.get("card")
    recorded = (card.get("images") if isinstance(card, Mapping) else None) or record.get("trained_images") or 0
    return max((int(row["images"]) for row in rows if "images" in row), default=int(recorded))
