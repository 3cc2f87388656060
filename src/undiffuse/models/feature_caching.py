"""Feature caching: the features of a network that sampling reuses between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from undiffuse.errors import UsageError
from undiffuse.samplers.base import Sampler
from undiffuse.samplers.feature_caching import with_feature_caching


def caching_sampler(sampler: Sampler, every: int, network: nn.Module, shape: tuple[int, ...]) -> Sampler:
    """``sampler`` with features of ``network`` reused between steps, see ``samplers.feature_caching``.

    Args:
        sampler: with steps of its own.
        every: so many steps the whole network is evaluated once.
        network: of the model.
        shape: of one sample, (C, H, W).
    Raises:
        UsageError: a network that has none to reuse.
    """
    shape_of: Callable[[tuple[int, ...]], tuple[int, ...] | None] | None
    shape_of = getattr(network, "cached_features_shape", None)
    cached_features_shape = shape_of(shape) if shape_of is not None else None
    if cached_features_shape is None:
        raise UsageError(
            f"cache_interval={every} needs a U-Net of several levels whose output does not grow level by level, and "
            "this model has another network; leave it out"
        )
    return with_feature_caching(sampler, every, cached_features_shape)


def check_without_guidance(every: int, scales: Mapping[str, float]) -> None:
    """Refuse guidance, whose two evaluations would need cached features each.

    Args:
        every: so many steps the whole network is evaluated once.
        scales: of each kind of guidance, by the name of its option; 1 is none.
    Raises:
        UsageError: names the first that is at work.
    """
    for name, scale in scales.items():
        if scale != 1:
            raise UsageError(
                f"cache_interval={every} does not go together with {name} {scale:g}; say {name} 1 or leave "
                "cache_interval out"
            )
