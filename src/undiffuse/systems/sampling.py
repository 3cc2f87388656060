"""How a model samples: its own defaults, and what a request makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Self

from pydantic import Field, model_validator
from torch import nn

from undiffuse.config import FrozenModel
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier_free import EVERYWHERE, check_interval
from undiffuse.samplers.base import Sampler
from undiffuse.samplers.reuse import reusing
from undiffuse.systems.base import SampleRequest


class SamplingConfig(FrozenModel):
    """How a model samples unless told otherwise.

    Args:
        sampler: ``name`` or ``name:option=value``.
        num_steps: of the time grid.
        grid: a row of ``GRIDS``, with options after a colon; ``through:knots=...`` is one tuned for this model.
        clip_x_0: cut each x_0-hat of a picture to [-1, 1]; points are never cut.
        guidance: weight of classifier-free guidance; 1 is none.
        guidance_interval: (smallest, largest) log-SNR that is guided; everywhere by default.
        autoguidance: weight of guidance by the worse model that training kept; 1 is none.
    """

    sampler: str = "heun"
    num_steps: Annotated[int, Field(ge=1)] = 10
    grid: str = "log_snr"
    clip_x_0: bool = True
    guidance: Annotated[float, Field(ge=0)] = 1.0
    guidance_interval: tuple[float, float] | None = None
    autoguidance: Annotated[float, Field(ge=0)] = 1.0

    @model_validator(mode="after")
    def _interval_holds_something(self) -> Self:
        check_interval(self.guidance_interval or EVERYWHERE)
        return self

    def asked(self, request: SampleRequest) -> SamplingConfig:
        """These defaults with what a request asks for in their place."""
        asked = {
            "sampler": request.sampler,
            "num_steps": request.num_steps,
            "grid": request.grid,
            "guidance": request.guidance,
            "autoguidance": request.autoguidance,
        }
        return self.model_copy(update={key: value for key, value in asked.items() if value is not None})

    def interval(self, request: SampleRequest | None = None) -> tuple[float, float]:
        """The log-SNRs that are guided.

        Raises:
            UsageError: an interval that holds nothing.
        """
        asked = request.guidance_interval if request is not None else None
        return check_interval(asked or self.guidance_interval or EVERYWHERE)


def written_interval(interval: tuple[float, float]) -> str:
    """``-3,inf``: text, for JSON knows no infinity."""
    return f"{interval[0]:g},{interval[1]:g}"


def check_guidance(scale: float, class_conditional: bool, label_dropout: float) -> None:
    """Refuse guidance of a model that does not know both what a class looks like and what all do.

    Raises:
        UsageError: says why, and what would do.
    """
    if scale == 1:
        return
    if not class_conditional:
        raise UsageError(f"guidance {scale:g} needs a model trained with classes, this one was not; leave it out")
    if label_dropout == 0:
        raise UsageError(
            f"guidance {scale:g} needs a model that was also trained without labels, this one had label_dropout=0; "
            "leave it out"
        )


def reusing_sampler(
    sampler: Sampler, every: int, wanted: SamplingConfig, network: nn.Module, shape: tuple[int, ...]
) -> Sampler:
    """``sampler`` with features of ``network`` reused, see ``samplers.reuse``.

    Raises:
        UsageError: a network that has none to reuse, or guidance, whose two evaluations would need some each.
    """
    shape_of: Callable[[tuple[int, ...]], tuple[int, ...] | None] | None
    shape_of = getattr(network, "deep_shape", None)
    deep_shape = shape_of(shape) if shape_of is not None else None
    if deep_shape is None:
        raise UsageError(
            f"reuse={every} needs a U-Net of several levels whose output does not grow level by level, and this model "
            "has another network; leave it out"
        )
    for name in ("guidance", "autoguidance"):
        if (scale := getattr(wanted, name)) != 1:
            raise UsageError(
                f"reuse={every} does not go together with {name} {scale:g}; say {name} 1 or leave reuse out"
            )
    return reusing(sampler, every, deep_shape)
