"""What a report is made of: plain arrays and JSON, so that this room knows nothing of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.errors import UsageError

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class ReportMaterial:
    """Everything that the page of one run shows; what is missing gets a plain sentence in its place.

    Args:
        record: the run's ``config.json``: ``model`` (``shape``, ``class_names``), ``data`` and ``config``.
        journal: rows of ``metrics.jsonl``; ``kind`` is ``"train"`` or ``"validation"``.
        samples: generated items, (N, C, H, W) uint8 or (N, 2) floats.
        data: real items of the same kind, best as many of them.
        filmstrip: n samples at K times, (K, n, C, H, W) uint8 or (K, n, 2) floats.
        filmstrip_labels: K labels such as ``"t = 0.75"``.
        filmstrip_shows: what a frame is, for the caption.
        evaluation: JSON of ``evaluate``: ``{"results": [{"metric", "value", "uncertainty", "unit", "protocol"}]}``.
        commands: how to go on, title to command line.
        hardware: what the run was made on, in words.
        version: of this package.

    Raises:
        UsageError: pictures of another type or shape, or labels that do not match the frames.
    """

    record: Mapping[str, Any]
    journal: Sequence[Mapping[str, Any]]
    samples: Array
    data: Array
    filmstrip: Array | None = None
    filmstrip_labels: Sequence[str] = ()
    filmstrip_shows: str = "the network's estimate x̂₀ of the finished sample"
    evaluation: Mapping[str, Any] | None = None
    commands: Mapping[str, str] = field(default_factory=dict)
    hardware: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        for name in ("samples", "data"):
            _check_items(name, getattr(self, name), leading=1)
        if self.filmstrip is not None:
            _check_items("filmstrip", self.filmstrip, leading=2)
            if len(self.filmstrip_labels) != len(self.filmstrip):
                raise UsageError(
                    f"expected a label for each of the {len(self.filmstrip)} frames of filmstrip, "
                    f"got {len(self.filmstrip_labels)} filmstrip_labels"
                )

    @property
    def points(self) -> bool:
        """Whether the items are points of the plane and not pictures."""
        return bool(self.samples.ndim == 2)


def _check_items(name: str, items: Array, leading: int) -> None:
    """Refuse what is neither pictures (..., C, H, W) of bytes nor points (..., 2)."""
    tail = items.shape[leading:]
    pictures = items.dtype == np.uint8 and len(tail) == 3 and tail[0] in (1, 3) and min(tail) > 0
    points = np.issubdtype(items.dtype, np.floating) and tail == (2,)
    if not pictures and not points:
        lead = ", ".join("KN"[-leading:]) + ", "
        raise UsageError(
            f"{name} of a report must be uint8 ({lead}C, H, W) with 1 or 3 channels or float ({lead}2); "
            f"got {items.dtype} {items.shape}"
        )
