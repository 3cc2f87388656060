"""Muon: what it does to a matrix, and that it minimises what Adam minimises."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from undiffuse.training.muon import Muon, is_matrix, orthogonalised


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
