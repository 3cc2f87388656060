"""What is to be known of a part of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A frozen part of a model, ``getattr(model, name)``, which averages share: it neither moves nor is averaged.

    Args:
        source: where it came from; None for what was made here.
        sha256: of what it came from, where that is a file.
        stored: the model's folder has a file of it, written once. One that is not stored is fetched from its source by
            its user, and may be None until then.
    """

    source: str | None = None
    sha256: str | None = None
    stored: bool = True
