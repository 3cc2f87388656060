"""Contrastive losses against their formulas written out, equal captions, ranks in a gallery, and scale limits."""

from __future__ import annotations

import math

import pytest
import torch

from undiffuse.losses.contrastive import CONTRASTIVE_LOSSES, infonce, sigmoid
from undiffuse.metrics.alignment.retrieval import chance, ranks, recalls
from undiffuse.objectives.contrastive import equal_pairs


def some_logits(count: int = 5) -> torch.Tensor:
    return torch.randn(count, count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


NONE_EQUAL = torch.eye(5, dtype=torch.bool)


def test_infonce_is_the_mean_of_both_cross_entropies() -> None:
    z = some_logits()
    rows = [-float(z[i, i] - torch.logsumexp(z[i], 0)) for i in range(5)]
    columns = [-float(z[i, i] - torch.logsumexp(z[:, i], 0)) for i in range(5)]
    expected = [(row + column) / 2 for row, column in zip(rows, columns, strict=True)]
    assert infonce(z, NONE_EQUAL).tolist() == pytest.approx(expected, abs=1e-12)
    assert infonce(torch.zeros(5, 5), NONE_EQUAL).tolist() == pytest.approx([math.log(5)] * 5)


def test_the_sigmoid_loss_sums_over_all_pairs_of_an_image() -> None:
    z = some_logits()
    expected = [
        sum(math.log1p(math.exp(-float(z[i, j]) if i == j else float(z[i, j]))) for j in range(5)) for i in range(5)
    ]
    assert sigmoid(z, NONE_EQUAL).tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", CONTRASTIVE_LOSSES.values(), ids=list(CONTRASTIVE_LOSSES))
def test_equal_captions_are_no_negatives(loss: object) -> None:
    """Pair 0 and 3 have one caption: neither is pushed away from the other, and pair 0 sees four texts."""
    assert callable(loss)
    same = equal_pairs(["a", "b", "c", "a", "d"])
    z = some_logits().requires_grad_()
    losses = loss(z, same)
    (gradient,) = torch.autograd.grad(losses.sum(), z)
    assert bool(torch.isfinite(losses).all()) and bool(torch.isfinite(gradient).all())
    assert gradient[0, 3] == gradient[3, 0] == 0 and bool((gradient[same == False] != 0).all())  # noqa: E712
    kept = torch.tensor([0, 1, 2, 4])
    alone = loss(z.detach()[kept][:, kept], equal_pairs(["a", "b", "c", "d"]))
    assert losses[0].item() == pytest.approx(alone[0].item(), abs=1e-12)


def test_ranks_count_the_entries_that_are_at_least_as_similar() -> None:
    similarity = torch.tensor([[0.3, 0.9, 0.1], [0.5, 0.5, 0.5], [0.0, 0.1, 0.2]])
    assert ranks(similarity, torch.tensor([0, 1, 2])).tolist() == [1, 2, 0]
    found = recalls(torch.tensor([0, 3, 7, 40]))
    assert [found[k].value for k in (1, 5, 10)] == [0.25, 0.5, 0.75]
    assert chance(200) == {1: 0.005, 5: 0.025, 10: 0.05} and chance(5)[10] == 1.0


def test_samples_of_one_caption_count_once_in_the_interval() -> None:
    found = torch.arange(40) % 2 * 20
    wide, narrow = recalls(found, torch.arange(40) // 10)[1], recalls(found)[1]
    assert wide.value == narrow.value == 0.5 and wide.num == 4
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
