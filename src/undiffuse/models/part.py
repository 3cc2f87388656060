"""What is to be known of a part of a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What is to be known of ``getattr(model, name)``.

    Args:
        source: where it came from; None for what was made here.
        trained: it moves with the rest, and its weights lie in the model's own file. A frozen one has a file of its
            own, which is written once.
        in_ema: averages have a copy of it, which follows; or else they share the one that there is.
        stored: with the model. One that is not is fetched from its source by whoever asks for it, and may be None.
    """

    source: str | None = None
    trained: bool = True
    in_ema: bool = True
    stored: bool = True
