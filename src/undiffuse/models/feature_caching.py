"""Feature caching: sampling reuses features of the network between steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from undiffuse.errors import UsageError
from undiffuse.samplers.base import Sampler
from undiffuse.samplers.feature_caching import with_feature_caching


def caching_sampler(sampler: Sampler, every: int, network: nn.Module, shape: tuple[int, ...]) -> Sampler:
    """``sampler`` with features of ``network`` reused between steps, see ``samplers.feature_caching``.

    Args:
        sampler: the base sampler.
        every: interval in steps between full evaluations of the network.
        network: network of the model.
        shape: shape of one sample, (C, H, W).
    Raises:
        UsageError: if the network does not support feature caching.
    """
    shape_of: Callable[[tuple[int, ...]], tuple[int, ...] | None] | None
    shape_of = getattr(network, "cached_features_shape", None)
    cached_features_shape = shape_of(shape) if shape_of is not None else None
    if cached_features_shape is None:
        raise UsageError(
            f"cache_interval={every} needs a U-Net with several levels and without progressive output growing, but "
            "this model has another network; leave it out"
        )
    return with_feature_caching(sampler, every, cached_features_shape)


def check_without_guidance(every: int, scales: Mapping[str, float]) -> None:
    """Check that feature caching is not combined with guidance, whose two evaluations would need separate caches.

    Args:
        every: interval in steps between full evaluations of the network.
        scales: weight of each kind of guidance, by the name of its option; 1 for none.
    Raises:
        UsageError: if a weight is not 1.
    """
    for name, scale in scales.items():
        if scale != 1:
            raise UsageError(
                f"cache_interval={every} cannot be combined with {name} {scale:g}; set {name} to 1 or leave "
                "cache_interval out"
            )
