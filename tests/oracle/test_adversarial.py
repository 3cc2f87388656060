"""Adversarial objectives against the formulas of their papers, penalties and unrolling against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.losses.adversarial import OBJECTIVES, Penalties, wgan
from undiffuse.losses.penalties import gradient_norms, gradient_penalty, interpolates, zero_centred_penalty
from undiffuse.losses.unrolled import unrolled
from undiffuse.networks.gan.parts import ProjectionHead
from undiffuse.networks.gan.spectral import (
    SpectralConv2d,
    SpectralEmbedding,
    SpectralLinear,
    largest_singular_value,
    power_iteration,
)

REAL = torch.tensor([-2.0, -0.3, 0.4, 3.0], dtype=torch.float64)
FAKE = torch.tensor([1.5, -0.7, 0.2, -2.5], dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def log_sigmoid_by_hand(y: Tensor) -> Tensor:
    return (1 / (1 + torch.exp(-y))).log()


#: (discriminator, generator) of (r, f), written as the papers do.
FORMULAS = {
    "minmax": (
        lambda r, f: -(log_sigmoid_by_hand(r) + (1 - 1 / (1 + torch.exp(-f))).log()),
        lambda r, f: (1 - 1 / (1 + torch.exp(-f))).log(),
    ),
    "non_saturating": (
        lambda r, f: -(log_sigmoid_by_hand(r) + (1 - 1 / (1 + torch.exp(-f))).log()),
        lambda r, f: -log_sigmoid_by_hand(f),
    ),
    "wgan": (lambda r, f: f - r, lambda r, f: -f),
    "wgan_gp": (lambda r, f: f - r, lambda r, f: -f),
    "hinge": (
        lambda r, f: torch.maximum(0 * r, 1 - r) + torch.maximum(0 * f, 1 + f),
        lambda r, f: -f,
    ),
    "relativistic": (lambda r, f: -log_sigmoid_by_hand(r - f), lambda r, f: -log_sigmoid_by_hand(f - r)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_are_those_of_the_papers(name: str) -> None:
    objective = OBJECTIVES[name]()
    discriminator, generator = FORMULAS[name]
    assert torch.allclose(objective.discriminator(REAL, FAKE), discriminator(REAL, FAKE), atol=1e-12)
    assert torch.allclose(objective.generator(REAL, FAKE), generator(REAL, FAKE), atol=1e-12)
    assert objective.paired == (name == "relativistic")
    shifted = objective.discriminator(REAL + 1, FAKE + 1)
    assert objective.signed != torch.allclose(shifted, objective.discriminator(REAL, FAKE))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_stay_finite_far_out(name: str) -> None:
    objective = OBJECTIVES[name]()
    far = torch.tensor([-1e4, 1e4])
    assert bool(torch.isfinite(objective.discriminator(far, far.flip(0))).all())
    assert bool(torch.isfinite(objective.generator(far, far.flip(0))).all())


class LinearGan:
    """D(x) = sigmoid(w x + b) and G(z) = a z + c on numbers, with the gradients that the documents write out."""

    def __init__(self) -> None:
        self.w, self.b, self.a, self.c = (torch.tensor(v, dtype=torch.float64, requires_grad=True)
                                          for v in (0.7, -0.2, 1.3, 0.4))  # fmt: skip
        self.x, self.z = normal(9, seed=1) + 1, normal(9, seed=2)

    def outputs(self) -> tuple[Tensor, Tensor]:
        return self.w * self.x + self.b, self.w * (self.a * self.z + self.c) + self.b


def test_the_stochastic_gradient_of_the_discriminator() -> None:
    # Goodfellow et al. 2014, algorithm 1: ascend grad 1/m sum [log D(x) + log(1 - D(G(z)))]
    gan = LinearGan()
    ours = torch.autograd.grad(OBJECTIVES["minmax"]().discriminator(*gan.outputs()).mean(), [gan.w, gan.b])
    with torch.no_grad():
        real, fake = (1 / (1 + torch.exp(-y)) for y in gan.outputs())
        created = gan.a * gan.z + gan.c
        # d log D / dy = 1 - D and d log(1 - D) / dy = -D
        ascent = [((1 - real) * gan.x - fake * created).mean(), ((1 - real) - fake).mean()]
    for gradient, by_hand in zip(ours, ascent, strict=True):
        assert math.isclose(float(gradient), -float(by_hand), rel_tol=1e-12)


def test_the_stochastic_gradient_of_the_generator() -> None:
    # descend grad 1/m sum log(1 - D(G(z))); in practice ascend that of log D(G(z))
    for name, slope in (("minmax", lambda d: -d), ("non_saturating", lambda d: -(1 - d))):
        gan = LinearGan()
        ours = torch.autograd.grad(OBJECTIVES[name]().generator(*gan.outputs()).mean(), [gan.a, gan.c])
        with torch.no_grad():
            fake = 1 / (1 + torch.exp(-gan.outputs()[1]))
            by_hand = [(slope(fake) * gan.w * gan.z).mean(), (slope(fake) * gan.w).mean()]
        for gradient, value in zip(ours, by_hand, strict=True):
            assert math.isclose(float(gradient), float(value), rel_tol=1e-12)


def test_the_optimal_discriminator_and_its_value() -> None:
    # prop. 1 and theorem 1: at p_data = p_g, D = 1/2 and the value is -log 4
    nothing = torch.zeros(3, dtype=torch.float64)
    assert torch.allclose(OBJECTIVES["minmax"]().discriminator(nothing, nothing), torch.full_like(nothing, math.log(4)))


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize("length", [0.25, 3.0])
def test_the_gradient_penalty_of_a_linear_critic(sided: str, length: float) -> None:
    weight = normal(2, 3, 3)
    weight = (weight * length / weight.norm()).requires_grad_()
    x = interpolates(normal(5, 2, 3, 3, seed=1), normal(5, 2, 3, 3, seed=2), torch.rand(5))
    rows = gradient_penalty((x * weight).sum((1, 2, 3)), x, 10.0, sided)
    excess = length - 1 if sided == "two" else max(length - 1, 0.0)
    assert torch.allclose(rows, torch.full((5,), 10 * excess**2, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(rows.mean(), weight)
    assert torch.allclose(gradient, 20 * excess * weight.detach() / length)


def test_points_between_data_and_samples() -> None:
    real, fake, u = normal(4, 3), normal(4, 3, seed=1), torch.tensor([0.0, 1.0, 0.25, 0.5], dtype=torch.float64)
    x = interpolates(real.requires_grad_(), fake, u)
    assert x.is_leaf and x.requires_grad
    assert torch.allclose(x, u[:, None] * real + (1 - u[:, None]) * fake)


def test_r1_of_a_quadratic_discriminator() -> None:
    # D(x) = 1/2 x^T A x + b . x has the slope A x + b
    root, b = normal(4, 4), normal(4, seed=3)
    matrix = (root + root.T).requires_grad_()
    x = normal(6, 4, seed=1).requires_grad_()
    rows = zero_centred_penalty(0.5 * torch.einsum("bi,ij,bj->b", x, matrix, x) + x @ b, x, 3.0)
    expected = 1.5 * (x.detach() @ matrix.detach() + b).square().sum(1)
    assert torch.allclose(rows, expected)
    (gradient,) = torch.autograd.grad(rows.sum(), matrix)
    slope = x.detach() @ matrix.detach() + b
    by_hand = 1.5 * (slope.T @ x.detach() + x.detach().T @ slope)  # A enters symmetrically
    assert torch.allclose(gradient, by_hand)


def test_a_flat_critic_has_a_finite_gradient() -> None:
    weight = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    x = normal(2, 3).requires_grad_()
    rows = gradient_penalty(x @ weight, x, 10.0, "two")
    assert torch.allclose(rows, torch.full((2,), 10.0, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(rows.sum(), weight)
    assert bool(torch.isfinite(gradient).all())
    assert not bool(gradient_norms(x @ weight, x).any())


def test_when_penalties_are_due() -> None:
    assert [Penalties(r1=1.0, every=3).due(step) for step in range(5)] == [True, False, False, True, False]
    assert not Penalties().due(0) and not Penalties().any
    for wrong in ({"r1": -1.0}, {"r2": math.inf}, {"lipschitz": math.nan}, {"every": 0}):
        with pytest.raises(UsageError, match=r"penalt|penalised"):
            Penalties(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="positive"):
        wgan(clip=0.0)


def layers() -> list[nn.Module]:
    torch.manual_seed(3)
    return [SpectralConv2d(3, 5, 3, padding=1), SpectralLinear(7, 4), SpectralLinear(6, 1), SpectralEmbedding(4, 6)]


@pytest.mark.parametrize("number", range(4))
def test_spectral_norm_agrees_with_svd(number: int) -> None:
    layer = layers()[number].double()
    layer.u = power_iteration(layer.weight, layer.u, 500)  # type: ignore[arg-type]
    sigma = torch.linalg.svdvals(layer.weight.flatten(1))[0]  # type: ignore[union-attr, operator]
    divided = layer.eval().normalized_weight()  # type: ignore[operator]
    assert math.isclose(float(torch.linalg.svdvals(divided.detach().flatten(1))[0]), 1.0, rel_tol=1e-10)
    # the gradient of the largest singular value is u v^T
    estimate = largest_singular_value(layer.weight, layer.u)  # type: ignore[arg-type]
    assert math.isclose(float(estimate.detach()), float(sigma.detach()), rel_tol=1e-10)
    (gradient,) = torch.autograd.grad(estimate, layer.weight)  # type: ignore[arg-type]
    left, _, right = torch.linalg.svd(layer.weight.detach().flatten(1), full_matrices=False)  # type: ignore
    assert torch.allclose(gradient.flatten(1), torch.outer(left[:, 0], right[0]), atol=1e-6)


def test_power_iteration_moves_in_training_alone_and_is_saved() -> None:
    layer = SpectralLinear(6, 5)
    with torch.no_grad():
        layer.weight += torch.randn(5, 6)
    before = layer.u.clone()
    layer.eval()(torch.ones(1, 6))
    assert torch.equal(layer.u, before) and "u" in layer.state_dict()
    layer.train()(torch.ones(1, 6))
    assert torch.equal(layer.u, power_iteration(layer.weight, before))


def test_projection_discriminator_is_its_formula() -> None:
    torch.manual_seed(0)
    head, phi = ProjectionHead(6, 3), torch.randn(4, 6)
    label = torch.tensor([2, 0, -1, 1])
    assert head.classes is not None
    row = torch.tensor([2, 0, 3, 1])
    expected = phi @ head.linear.weight[0] + head.linear.bias + (phi * head.classes.weight[row]).sum(1)
    assert torch.allclose(head(phi, Condition(label=label)), expected)
    plain = ProjectionHead(6, 0)
    assert torch.allclose(plain(phi, Condition(label=label)), plain.linear(phi)[:, 0])


# GAN dynamics in which everything is known: L_D(theta, phi) = 1/2 a theta^2 - b theta phi, the generator minimises
# theta^k phi. One step takes theta to (1 - eta a) theta + eta b phi, so that
# theta^k = q^k theta^0 + (1 - q^k) b phi / a with q = 1 - eta a.
A, B, ETA = 0.8, 1.7, 0.1


def quadratic(phi: Tensor, num_steps: int, rule: str = "sgd") -> Tensor:
    theta = unrolled(
        lambda theta: 0.5 * A * theta["theta"] ** 2 - B * theta["theta"] * phi,
        {"theta": torch.tensor(0.6, dtype=torch.float64, requires_grad=True)},
        num_steps,
        ETA,
        rule,  # type: ignore[arg-type]
    )
    return theta["theta"]


@pytest.mark.parametrize("num_steps", [0, 1, 2, 7])
def test_unrolling_quadratic_dynamics_in_closed_form(num_steps: int) -> None:
    phi = torch.tensor(-1.1, dtype=torch.float64, requires_grad=True)
    theta, q = quadratic(phi, num_steps), (1 - ETA * A) ** num_steps
    assert math.isclose(float(theta.detach()), q * 0.6 + (1 - q) * B * -1.1 / A, rel_tol=1e-12)
    (gradient,) = torch.autograd.grad(theta * phi, phi)
    assert math.isclose(float(gradient), float(theta.detach()) + -1.1 * (1 - q) * B / A, rel_tol=1e-12)


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_the_unrolled_gradient_agrees_with_finite_differences(rule: str) -> None:
    def value(phi: Tensor) -> Tensor:
        return quadratic(phi, 3, rule) * phi

    assert torch.autograd.gradcheck(value, (torch.tensor(0.9, dtype=torch.float64, requires_grad=True),))


def test_unrolling_nothing_leaves_the_parameters_as_they_are() -> None:
    start = {"theta": torch.tensor(0.6, requires_grad=True)}
    out = unrolled(lambda theta: theta["theta"] ** 2, start, 0, 0.1)
    assert torch.equal(out["theta"], start["theta"]) and not out["theta"].requires_grad


def test_what_the_loss_does_not_use_is_left_alone() -> None:
    start = {"used": torch.tensor(1.0), "unused": torch.tensor(2.0)}
    out = unrolled(lambda theta: theta["used"] ** 2, start, 2, 0.1, "adam")
    assert float(out["unused"].detach()) == 2.0 and float(out["used"].detach()) < 1.0


def test_adam_looks_ahead_by_the_rate() -> None:
    out = unrolled(lambda theta: 1e-3 * theta["theta"], {"theta": torch.tensor(1.0, dtype=torch.float64)}, 4, 0.05)
    assert math.isclose(float(out["theta"].detach()), 1 - 4 * 0.05, rel_tol=1e-6)  # a constant slope, whatever its size
