"""Conditions: rows are selected, dropped and stacked, and what is not given stays not given."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch

from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError


def full(start: int = 0) -> Condition:
    """Every field, three rows; row i holds start + i."""
    row = torch.arange(start, start + 3)
    picture = row.float()[:, None, None, None].expand(3, 1, 2, 2)
    return Condition(
        class_label=row,
        tokens=row[:, None].expand(3, 4),
        token_mask=torch.ones(3, 4, dtype=torch.bool),
        embedding=row.float()[:, None].expand(3, 5),
        low_res=picture,
        aug_level=row.float(),
        augment_label=row.float()[:, None],
        control=picture,
        until=row.double() / 100,
        deep=picture,
    )


def test_every_field_is_tried_here() -> None:
    assert all(getattr(full(), field.name) is not None for field in fields(Condition))


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 2)])
def test_selected_rows(rows: torch.Tensor | slice) -> None:
    condition = full()
    chosen = condition.select(rows)
    for field in fields(Condition):
        assert torch.equal(getattr(chosen, field.name), getattr(condition, field.name)[rows])


def test_dropped_rows_are_unconditional_and_the_others_untouched() -> None:
    condition = full(1)
    dropped = condition.drop(torch.tensor([False, True, False]))
    assert dropped.class_label is not None
    assert dropped.class_label.tolist() == [1, -1, 3]
    for field in fields(Condition):
        before, after = getattr(condition, field.name), getattr(dropped, field.name)
        assert after.dtype == before.dtype
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        if field.name == "until":
            assert torch.equal(after, before), "what is asked for is no part of what is told"
        elif field.name != "class_label":
            assert not bool(after[1].any())
    assert Condition().drop(torch.tensor([True])).class_label is None


def test_stacked_rows_come_apart_again() -> None:
    both = Condition.stack([full(0), full(10)])
    for field in fields(Condition):
        assert torch.equal(getattr(both.select(slice(3, 6)), field.name), getattr(full(10), field.name))
    assert Condition.stack([Condition(), Condition()]) == Condition()


def test_rows_that_are_told_different_things_do_not_stack() -> None:
    with pytest.raises(UsageError, match="only some of them have 'tokens'"):
        Condition.stack([Condition(class_label=torch.zeros(1, dtype=torch.int64)), full()])


def test_one_condition_over_another() -> None:
    under, label = full(), Condition(class_label=torch.tensor([7, 8, 9]))
    both = label.over(under)
    assert both.class_label is label.class_label and both.until is under.until
    assert label.over(None) is label
    assert Condition().empty and not label.empty


def test_it_moves_and_maps() -> None:
    assert full().to("meta").class_label.device.type == "meta"  # type: ignore[union-attr]
    assert full().map(lambda value: value[:0]).tokens.shape == (0, 4)  # type: ignore[union-attr]
