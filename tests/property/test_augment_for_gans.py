"""What GANs transform their images with: DiffAugment's steps and the probability that adapts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from undiffuse.augment import AdaptiveProbability, DiffAugment
from undiffuse.augment.adaptive import AdaptiveConfig
from undiffuse.augment.differentiable import STEPS
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError

GENERATOR = torch.Generator().manual_seed(0)
X = torch.rand(6, 3, 8, 12, dtype=torch.float64, generator=GENERATOR) * 2 - 1


def uniform(policy: DiffAugment, count: int = 6) -> Tensor:
    return torch.rand(count, policy.num_uniforms, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("policy", [(name,) for name in STEPS] + [tuple(STEPS)])
def test_gradients_reach_the_images_twice(policy: tuple[str, ...]) -> None:
    augment = DiffAugment(policy)
    x, u = X[:2, :, :4, :4].clone().requires_grad_(), uniform(augment, 2)
    assert torch.autograd.gradcheck(lambda value: augment(value, u), x)
    assert torch.autograd.gradgradcheck(lambda value: augment(value, u).square(), x)


@pytest.mark.parametrize("policy", [(name,) for name in STEPS] + [tuple(STEPS)])
def test_a_row_depends_on_its_own_numbers_alone(policy: tuple[str, ...]) -> None:
    augment = DiffAugment(policy)
    u = uniform(augment)
    whole = augment(X, u)
    assert whole.shape == X.shape and int((whole != X).flatten(1).any(1).sum()) >= 4
    assert torch.equal(whole[2:4], augment(X[2:4], u[2:4]))
    assert augment(X[:0], u[:0]).shape == (0, *X.shape[1:])


def test_brightness_saturation_and_contrast_in_their_ranges() -> None:
    augment = DiffAugment(("colour",))

    def created(*u: float) -> Tensor:
        return augment(X, torch.tensor([u], dtype=torch.float64).expand(6, 3))

    assert torch.allclose(created(0.5, 0.5, 0.5), X)
    assert torch.allclose(created(0.75, 0.5, 0.5), X + 0.25)
    grey = X.mean(dim=1, keepdim=True).expand_as(X)
    assert torch.allclose(created(0.5, 0.0, 0.5), grey)
    assert torch.allclose(created(0.5, 1.0, 0.5), 2 * X - grey)
    mean = X.mean(dim=(1, 2, 3), keepdim=True)
    assert torch.allclose(created(0.5, 0.5, 0.0), (X + mean) / 2)
    assert torch.allclose(created(0.5, 0.5, 1.0), 1.5 * X - 0.5 * mean)


def test_translation_by_every_whole_number_of_pixels_up_to_an_eighth() -> None:
    augment = DiffAugment(("translation",))
    u = torch.stack(torch.meshgrid(*[torch.linspace(0.01, 0.99, 60)] * 2, indexing="ij"), dim=-1).reshape(-1, 2)
    found = augment(X[:1].expand(len(u), -1, -1, -1), u)
    kinds = {row.numpy().tobytes() for row in found}
    expected = set()
    for down in (-1, 0, 1):  # 8 / 8
        for right in (-2, -1, 0, 1, 2):  # 12 / 8, rounded
            moved = torch.zeros_like(X[0])
            moved[:, max(down, 0) : 8 + min(down, 0), max(right, 0) : 12 + min(right, 0)] = X[
                0, :, max(-down, 0) : 8 + min(-down, 0), max(-right, 0) : 12 + min(-right, 0)
            ]
            expected.add((moved + 0.0).numpy().tobytes())
    assert {(torch.frombuffer(bytearray(k), dtype=torch.float64) + 0.0).numpy().tobytes() for k in kinds} == expected


def test_a_hole_of_half_the_sides_centred_anywhere() -> None:
    augment = DiffAugment(("cutout",))
    ones, u = torch.ones(4000, 1, 8, 8), torch.rand(4000, 2, generator=torch.Generator().manual_seed(0))
    holes = augment(ones, u) == 0
    counts = holes.flatten(1).sum(1)
    assert counts.max() == 16 and counts.min() == 4  # whole, and a corner of it
    centre = augment(ones[:1], torch.tensor([[0.5, 0.5]])) == 0
    assert bool(centre[0, 0, 2:6, 2:6].all()) and int(centre.sum()) == 16
    share = holes.double().mean(dim=0)[0]
    assert (share - share.flip(0)).abs().max() < 0.05 and (share - share.mT).abs().max() < 0.05


def test_draws_are_those_of_the_step_and_differ_between_real_and_created() -> None:
    augment = DiffAugment()
    real, created = (augment.draw(StepRandom(0, 3), 5, what) for what in ("real", "made"))
    assert real.shape == (5, 7) and torch.equal(real, augment.draw(StepRandom(0, 3), 5, "real"))
    assert not torch.equal(real, created)
    assert torch.equal(DiffAugment(())(X, torch.empty(6, 0)), X)


def test_what_it_rejects() -> None:
    with pytest.raises(UsageError, match="did you mean 'cutout'"):
        DiffAugment(("cutuot",))
    with pytest.raises(UsageError, match=r"expected random numbers of shape \(6, 2\) .* got \(6, 3\)"):
        DiffAugment(("cutout",))(X, torch.rand(6, 3))


def test_p_moves_towards_the_target_at_the_stated_speed() -> None:
    """Karras et al. 2020: from 0 to 1 in 500,000 images while the discriminator overfits."""
    adaptive = AdaptiveProbability()
    for step in range(1, 251):
        adaptive.update(sign_mean=0.9, images=1000)
        assert float(adaptive.p) == pytest.approx(step * 1000 / 500_000)
    adaptive.update(0.6, 1000)
    assert float(adaptive.p) == pytest.approx(0.5), "at the target it stays"
    adaptive.update(torch.tensor(0.1), 5000)
    assert float(adaptive.p) == pytest.approx(0.49)


def test_p_stays_a_probability() -> None:
    adaptive = AdaptiveProbability(AdaptiveConfig(speed_images=100, start=0.5))
    for sign, end in ((1.0, 1.0), (-1.0, 0.0)):
        for _ in range(3):
            adaptive.update(sign, 64)
        assert float(adaptive.p) == end


def test_it_finds_the_probability_at_which_the_sign_is_the_target() -> None:
    """A discriminator that overfits less the more it is augmented: r_t = 1 - p, so p goes to 0.4 and stays near."""
    adaptive = AdaptiveProbability(AdaptiveConfig(speed_images=10_000))
    for _ in range(200):
        adaptive.update(1 - float(adaptive.p), 100)
    assert abs(float(adaptive.p) - 0.4) <= 0.0101


def test_p_is_saved_with_the_weights() -> None:
    adaptive, other = AdaptiveProbability(), AdaptiveProbability()
    adaptive.update(1.0, 12_345)
    assert set(adaptive.state_dict()) == {"p"} and not list(adaptive.parameters())
    other.load_state_dict(adaptive.state_dict())
    assert float(other.p) == float(adaptive.p) == pytest.approx(12_345 / 500_000)
    other.update(1.0, 1), adaptive.update(1.0, 1)
    assert torch.equal(other.p, adaptive.p)
