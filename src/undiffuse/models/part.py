"""Description of a frozen part of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A frozen part of a model, ``getattr(model, name)``: not trained, and shared between the model and its averages.

    Args:
        source: where it came from; None if it was trained with undiffuse.
        sha256: SHA-256 of its source, if that is a file.
        stored: whether the model's folder has a file for it, which is written once. Other parts are downloaded from
            their source by the user, and may be None until then.
    """

    source: str | None = None
    sha256: str | None = None
    stored: bool = True
