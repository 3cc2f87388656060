"""Feature caching: what is reused is what was computed, row by row, and what it costs is counted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.processes import FlowProcess
from undiffuse.errors import UsageError
from undiffuse.models.denoising import NetworkModel
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.networks import UNetConfig
from undiffuse.networks.spec import NetworkSpec
from undiffuse.networks.unet import UNet
from undiffuse.recipes import get_recipe
from undiffuse.samplers import SAMPLERS, make_sampler
from undiffuse.samplers.base import Steps, sample
from undiffuse.samplers.feature_caching import with_feature_caching
from undiffuse.samplers.grids import time_grid
from undiffuse.samplers.noise import SeededNoise

PROCESS = FlowProcess()


class Slow(Denoiser):
    """x_0-hat = x / 2 + features, which are t at the last whole evaluation: closed form of what caching gives."""

    process = PROCESS

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        reused = evaluation is not None and evaluation.cached_features is not None
        features = evaluation.cached_features if reused else t[:, None].to(x_t.dtype)
        return Denoised(x_t / 2 + features, None, 0 if reused else 1, 1 if reused else 0, features)


def draw(every: int, times: Tensor, seeds: list[int], name: str = "euler") -> tuple[Tensor, int, int]:
    sampler = with_feature_caching(make_sampler(name), every, (1,))
    result = sample(Slow(), sampler, times, shape=(1,), seeds=seeds, dtype=torch.float64)
    return result.x, result.nfe, result.partial_nfe


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_every_k_th_step_is_whole_and_those_between_take_its_features(every: int) -> None:
    times = time_grid("uniform", PROCESS, 7)
    x, nfe, partial = draw(every, times, [1, 2])
    expected = SeededNoise([1, 2]).prior(torch.empty(2, 1, dtype=torch.float64))
    for index in range(7):
        t, s, kept = times[index], times[index + 1], times[index - index % every]
        x_0 = expected / 2 + kept
        expected = (1 - s) * x_0 + s * (expected - (1 - t) * x_0) / t if index < 6 else x_0
    assert torch.allclose(x, expected, rtol=1e-12)
    assert (nfe, partial) == (-(-7 // every), 7 - -(-7 // every))


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not make_sampler(name).adaptive])
def test_reusing_nothing_changes_nothing(name: str) -> None:
    times = time_grid("uniform", PROCESS, 5)
    plain = sample(Slow(), make_sampler(name), times, shape=(1,), seeds=[3, 4], dtype=torch.float64)
    x, nfe, partial = draw(1, times, [3, 4], name)
    assert torch.equal(x, plain.x)
    assert (nfe, partial) == (plain.nfe, 0)


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "dpmpp_2m", "ancestral"])
def test_rows_at_different_steps_get_what_they_get_alone(name: str) -> None:
    times, sampler = time_grid("uniform", PROCESS, 6), with_feature_caching(make_sampler(name), 2, (1,))
    expected = torch.cat([draw(2, times, [seed], name)[0] for seed in (1, 2)])
    noise = SeededNoise([1, 2])
    x = noise.prior(torch.empty(2, 1, dtype=torch.float64))
    memory = sampler.init(x)
    at = torch.tensor([0, -1])  # the second row joins a step late
    while bool((at < 6).any()):
        index = at.clamp(0, 5)
        steps = Steps(times[index], times[index + 1], index, torch.full((2,), 6), index == 5)
        moved, after = sampler.step(Slow(), x, steps, memory, noise.at(index))
        going = (at >= 0) & (at < 6)
        x = torch.where(going[:, None], moved, x)
        memory = tuple(
            torch.where(going.reshape(-1, *([1] * (new.ndim - 1))), new, old)
            for new, old in zip(after, memory, strict=True)
        )
        at = at + 1
    assert torch.allclose(x, expected, rtol=1e-12, atol=1e-12)


# --- the U-Net ------------------------------------------------------------------------------------------------------


def unet(shape: tuple[int, int, int] = (1, 9, 7), **options: Any) -> UNet:
    torch.manual_seed(0)
    network = UNet(
        UNetConfig(**{"channels": 16, "multipliers": (1, 2), "num_blocks": 1, **options}), NetworkSpec(shape)
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network.eval()


@pytest.mark.parametrize(
    "options", [{}, {"patch_size": 2}, {"multipliers": (1, 2, 3), "num_blocks": 2}, {"progressive_input": "input_skip"}]
)
@torch.no_grad()
def test_the_part_with_its_own_features_is_the_whole(options: dict[str, Any]) -> None:
    network, x, c = unet(**options), torch.randn(3, 1, 9, 7), torch.tensor([0.1, 0.5, 0.9])
    whole, cached_features = network.forward_with_features(x, c, Condition())
    assert torch.equal(whole, network(x, c, Condition()))
    assert tuple(cached_features.shape[1:]) == network.cached_features_shape((1, 9, 7))
    assert torch.equal(network.forward_cached(x, c, Condition(), cached_features), whole)
    # what lies below is taken, not computed: other features, another output; another x, the same features
    assert not torch.allclose(network.forward_cached(x, c, Condition(), cached_features + 1), whole)
    ran = []
    hook = network.middle.register_forward_hook(lambda *_: ran.append(1))
    network.forward_cached(x, c, Condition(), cached_features)
    hook.remove()
    assert not ran


@pytest.mark.parametrize("options", [{"multipliers": (1,)}, {"progressive_output": "output_skip"}])
def test_a_network_with_nothing_to_reuse_reports_so(options: dict[str, Any]) -> None:
    assert unet(**options).cached_features_shape((1, 9, 7)) is None


def system(*overrides: str) -> NetworkModel:
    torch.manual_seed(0)
    config = apply_overrides(get_recipe("ddpm-digits"), ["system.network.channels=16", *overrides])
    built = config.system.build((1, 8, 8), [str(digit) for digit in range(10)]).model  # type: ignore[attr-defined]
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    assert isinstance(built, NetworkModel)
    return built.eval()


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_no_bit_depends_on_the_batch(precision: str) -> None:
    model = system(f"system.precision={precision}")
    request = SampleRequest.of(seeds=range(19), steps=4, sampler="unipc", cache_interval=2)
    whole = model.sample(request)
    assert (whole.nfe, whole.partial_nfe) == (2, 2)
    assert not torch.equal(
        whole.x, model.sample(replace(request, options=SamplingOptions.of(steps=4, sampler="unipc"))).x
    )
    for size in (1, 7):
        assert torch.equal(model.sample(replace(request, batch_size=size)).x, whole.x)


@pytest.mark.parametrize(
    ("overrides", "requested", "message"),
    [
        ((), {"cache_interval": 0}, "at least 1, got 0"),
        ((), {"cache_interval": 2, "sampler": "rk45"}, "a fixed time grid"),
        ((), {"cache_interval": 2, "guidance": 3.0}, "cannot be combined with guidance 3"),
        (("system.network.multipliers=[1]",), {"cache_interval": 2}, "needs a U-Net with several levels"),
    ],
)
def test_what_cannot_be_reused_is_rejected(
    overrides: tuple[str, ...], requested: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        system(*overrides).sample(SampleRequest.of(seeds=[0], steps=2, **requested))  # type: ignore[arg-type]


@pytest.mark.parametrize("strength", [0.25, 0.5])
def test_a_row_that_begins_midway_has_features_of_its_own(strength: float) -> None:
    model, options = system(), SamplingOptions.of(steps=4, sampler="euler", cache_interval=4, strength=strength)
    created = model.sample(SampleRequest([0, 1], options, images=torch.zeros(2, *model.shape)))
    assert (created.nfe, created.partial_nfe) == (1, round(4 * strength) - 1)  # the first of its steps is whole
