"""Muon: what it does to a matrix, and that it minimises what Adam minimises."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from undiffuse.training.muon import Muon, is_matrix, orthogonalised, product_dtype


@pytest.mark.parametrize("shape", [(3, 8, 8), (2, 5, 40), (2, 40, 5), (1, 1, 7)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(shape, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(matrices, full_matrices=False)
    result = orthogonalised(matrices)
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.3
    # the result has the same singular vectors: U^T result V is diagonal
    turned = u.mT @ result @ vh.mT
    off_diagonal = turned - torch.diag_embed(torch.diagonal(turned, dim1=-2, dim2=-1))
    assert off_diagonal.abs().max() < 1e-9


def test_scale_of_the_gradient_does_not_matter() -> None:
    torch.manual_seed(1)
    matrix = torch.randn(1, 6, 9, dtype=torch.float64)
    assert torch.allclose(orthogonalised(matrix), orthogonalised(1e3 * matrix), atol=1e-6)


def test_which_parameters_are_matrices() -> None:
    assert is_matrix(torch.zeros(4, 5)) and is_matrix(torch.zeros(4, 2, 3, 3))
    assert not is_matrix(torch.zeros(4)) and not is_matrix(torch.zeros(4, 1)) and not is_matrix(torch.zeros(1, 9))


def test_vectors_move_as_adam_moves_them() -> None:
    torch.manual_seed(2)
    start, gradients = torch.randn(7), torch.randn(5, 7)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    muon, adam = Muon([ours], lr=1e-2), torch.optim.Adam([theirs], lr=1e-2)
    for gradient in gradients:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        muon.step()
        adam.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_a_matrix_moves_by_about_what_adam_would_move_it() -> None:
    torch.manual_seed(3)
    weight = nn.Parameter(torch.zeros(64, 32, 3, 3))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=1e-2).step()
    rms = float(weight.detach().square().mean().sqrt())
    assert 0.1e-2 < rms < 0.4e-2  # Adam's steady update has a root mean square of 0.2 to 0.4 times its rate


def old_moves(matrix: Tensor) -> Tensor:
    """The quintic written as its polynomial, in float64: a x + b (x x^T) x + c (x x^T)^2 x, five times."""
    x = matrix.double().flatten(1)
    tall = x.shape[0] > x.shape[1]
    x = x.mT if tall else x
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    return (x.mT if tall else x).reshape(matrix.shape)


def test_all_matrices_together_move_as_each_would_alone() -> None:
    torch.manual_seed(5)
    shapes = [(6, 20), (6, 20), (20, 6), (4, 3, 3, 3), (8, 8), (2, 2)]
    starts, momenta = [torch.randn(shape) for shape in shapes], [torch.zeros(shape) for shape in shapes]
    weights = [nn.Parameter(start.clone()) for start in starts]
    muon, expected = Muon(weights, lr=1e-2, momentum=0.9, weight_decay=0.1), [start.double() for start in starts]
    for _ in range(3):
        for index, weight in enumerate(weights):
            gradient = torch.randn_like(weight)
            weight.grad = gradient.clone()
            momenta[index] = 0.9 * momenta[index] + 0.1 * gradient
            move = old_moves(0.1 * gradient + 0.9 * momenta[index])
            size = 1e-2 * 0.2 * max(weight.shape[0], weight[0].numel()) ** 0.5
            expected[index] = (1 - 1e-3) * expected[index] - size * move
        muon.step()
        for weight, wanted, start in zip(weights, expected, starts, strict=True):
            moved = (wanted - start).norm()
            assert (weight.detach() - wanted).norm() < 0.05 * moved  # directions are bfloat16


@pytest.mark.parametrize("setting", ["never", "always"])
def test_directions_are_in_bfloat16_only_where_the_machine_multiplies_it(
    setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIFFUSE_COMPUTE", f"bf16={setting}")
    torch.manual_seed(7)
    weight = nn.Parameter(torch.zeros(24, 40))
    weight.grad = torch.randn_like(weight)
    Muon([weight], lr=1.0).step()
    wanted = -0.2 * 40**0.5 * old_moves(weight.grad)
    error = float((weight.detach() - wanted).norm() / wanted.norm())
    assert error < 1e-5 if setting == "never" else 1e-3 < error < 0.05
    assert product_dtype("cpu") == (torch.float32 if setting == "never" else torch.bfloat16)


def test_state_has_the_names_that_checkpoints_know() -> None:
    weights = [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4))]
    muon = Muon(weights, lr=1e-2)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    muon.step()
    state = muon.state_dict()["state"]
    assert set(state[0]) == {"momentum"} and set(state[1]) == {"step", "exp_avg", "exp_avg_sq"}
    assert float(state[1]["step"]) == 1 and state[1]["step"].dtype == torch.float32


def test_steps_of_vectors_are_counted_one_by_one() -> None:
    vectors = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3))]
    muon = Muon(vectors, lr=1e-2)
    vectors[0].grad = torch.ones(3)
    muon.step()
    vectors[1].grad = torch.ones(3)
    muon.step()
    # a first step of Adam is its rate whatever the gradient; the second vector has just had its first
    assert torch.allclose(vectors[1].detach(), torch.full((3,), -1e-2), atol=1e-6)
    assert [float(muon.state[vector]["step"]) for vector in vectors] == [2, 1]


def test_it_fits_a_linear_map() -> None:
    torch.manual_seed(4)
    inputs, truth = torch.randn(256, 12), torch.randn(12, 5)
    layer = nn.Linear(12, 5)
    optimizer = Muon(layer.parameters(), lr=0.2)
    for step in range(200):
        for group in optimizer.param_groups:
            group["lr"] = 0.2 * (1 - step / 200)
        loss = ((layer(inputs) - inputs @ truth) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 1e-3
