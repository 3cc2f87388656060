"""How a model samples: its own defaults, and what a request makes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, NamedTuple, Self

from pydantic import Field, model_validator
from torch import nn

from undiffuse.config import FrozenModel
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier_free import EVERYWHERE, check_interval
from undiffuse.samplers.base import Sampler, check_temperature
from undiffuse.samplers.reuse import reusing
from undiffuse.systems.base import SampleRequest


class Guidance(NamedTuple):
    """A weight, of which 1 is none, and the (smallest, largest) log-SNR within which it is at work."""

    scale: float = 1.0
    interval: tuple[float, float] = EVERYWHERE


class SamplingConfig(FrozenModel):
    """How a model samples unless told otherwise.

    Args:
        sampler: ``name`` or ``name:option=value``.
        num_steps: of the time grid.
        grid: a row of ``GRIDS``, with options after a colon; ``through:knots=...`` is one tuned for this model.
        clip_x_0: cut each x_0-hat of a picture to [-1, 1]; points are never cut.
        temperature: the noise that sampling begins with is multiplied by it; training always has 1.
        guidance: weight of classifier-free guidance; 1 is none.
        guidance_interval: (smallest, largest) log-SNR that is guided; everywhere by default.
        autoguidance: weight of guidance by the worse model that training kept; 1 is none.
        autoguidance_interval: (smallest, largest) log-SNR that it guides; everywhere by default.
    """

    sampler: str = "heun"
    num_steps: Annotated[int, Field(ge=1)] = 10
    grid: str = "log_snr"
    clip_x_0: bool = True
    temperature: float = 1.0
    guidance: Annotated[float, Field(ge=0)] = 1.0
    guidance_interval: tuple[float, float] | None = None
    autoguidance: Annotated[float, Field(ge=0)] = 1.0
    autoguidance_interval: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        check_temperature(self.temperature)
        for interval in (self.guidance_interval, self.autoguidance_interval):
            check_interval(interval or EVERYWHERE)
        return self

    def asked(self, request: SampleRequest) -> SamplingConfig:
        """These defaults with the sampler, steps, grid and temperature that a request asks for in their place.

        Raises:
            UsageError: a temperature that is none.
        """
        asked = {
            "sampler": request.sampler,
            "num_steps": request.num_steps,
            "grid": request.grid,
            "temperature": None if request.temperature is None else check_temperature(request.temperature),
        }
        return self.model_copy(update={key: value for key, value in asked.items() if value is not None})

    def classifier_free(self, request: SampleRequest | None = None) -> Guidance:
        """The classifier-free guidance of a request, or by default.

        Raises:
            UsageError: an interval that holds nothing.
        """
        return self._guidance("guidance", request)

    def auto(self, request: SampleRequest | None = None) -> Guidance:
        """The same of the guidance by the model's own guide."""
        return self._guidance("autoguidance", request)

    def _guidance(self, name: str, request: SampleRequest | None) -> Guidance:
        scale, interval = (getattr(request, key, None) for key in (name, f"{name}_interval"))
        interval = interval or getattr(self, f"{name}_interval") or EVERYWHERE
        return Guidance(getattr(self, name) if scale is None else scale, check_interval(interval))


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
    sampler: Sampler, every: int, scales: Mapping[str, float], network: nn.Module, shape: tuple[int, ...]
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
    for name, scale in scales.items():
        if scale != 1:
            raise UsageError(
                f"reuse={every} does not go together with {name} {scale:g}; say {name} 1 or leave reuse out"
            )
    return reusing(sampler, every, deep_shape)
