"""Conditions and evaluations: rows are selected, dropped and joined, and what is not given stays not given."""

from __future__ import annotations

import pytest
import torch

from undiffuse.core.condition import DROP, Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.processes import FlowProcess
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier_free import ClassifierFreeGuidance


def full(start: int = 0) -> Condition:
    """Every field, three rows; row i holds start + i."""
    row = torch.arange(start, start + 3)
    image = row.float()[:, None, None, None].expand(3, 1, 2, 2)
    return Condition(
        label=row,
        tokens=row[:, None].expand(3, 4),
        token_mask=torch.ones(3, 4, dtype=torch.bool),
        pooled=row.float()[:, None].expand(3, 6),
        embedding=row.float()[:, None].expand(3, 5),
        augment=row.float()[:, None],
        images={"low_res": image, "control": image + 1},
        levels={"low_res": row.float()},
    )


def test_every_field_is_tried_here() -> None:
    assert {name.partition(".")[0] for name in full().tensors()} == set(Condition.__dataclass_fields__) == set(DROP)


@pytest.mark.parametrize("rows", [torch.tensor([2, 0]), torch.tensor([True, False, True]), slice(1, 2)])
def test_selected_rows(rows: torch.Tensor | slice) -> None:
    condition = full()
    chosen = condition.select(rows).tensors()
    assert chosen.keys() == condition.tensors().keys()
    for name, value in condition.tensors().items():
        assert torch.equal(chosen[name], value[rows])


def test_dropped_rows_lose_what_is_reported_and_keep_what_they_are() -> None:
    condition = full(1)
    dropped = condition.drop(torch.tensor([False, True, False])).tensors()
    for name, before in condition.tensors().items():
        after = dropped[name]
        assert after.dtype == before.dtype
        assert torch.equal(after[[0, 2]], before[[0, 2]])
        if DROP[name.partition(".")[0]] == "keep":
            assert torch.equal(after, before), name
        elif name != "label":
            assert not bool(after[1].any()), name
    assert dropped["label"].tolist() == [1, -1, 3]
    assert Condition().drop(torch.tensor([True])).label is None


def test_a_model_reports_itself_what_is_dropped() -> None:
    policy = {**DROP, "images.control": "null", "label": "keep"}
    dropped = full(1).drop(torch.ones(3, dtype=torch.bool), policy)  # type: ignore[arg-type]
    assert not bool(dropped.images["control"].any()) and bool(dropped.images["low_res"].all())
    assert dropped.label is not None and dropped.label.tolist() == [1, 2, 3]


def test_guidance_leaves_out_the_class_and_shows_both_sides_the_image() -> None:
    seen: list[Condition] = []

    class Listening(Denoiser):
        process = FlowProcess()

        def forward(
            self,
            x_t: torch.Tensor,
            t: torch.Tensor,
            cond: Condition | None = None,
            evaluation: Evaluation | None = None,
        ) -> Denoised:
            assert cond is not None and evaluation is not None and evaluation.target_time is not None
            assert torch.equal(evaluation.target_time, t / 2)
            seen.append(cond)
            return Denoised(x_t)

    t = torch.full((3,), 0.5)
    ClassifierFreeGuidance(Listening(), 2.0)(torch.zeros(3, 1, 2, 2), t, full(1), Evaluation(target_time=t / 2))
    (cond,) = seen
    assert cond.label is not None and cond.label.tolist() == [1, 2, 3, -1, -1, -1]
    assert torch.equal(cond.images["low_res"][3:], full(1).images["low_res"])


def test_joined_rows_come_apart_again() -> None:
    both = Condition.join([full(0), full(10)])
    for name, value in full(10).tensors().items():
        assert torch.equal(both.select(slice(3, 6)).tensors()[name], value)
    assert Condition.join([Condition(), Condition()]).empty


def test_samples_with_different_conditions_do_not_join() -> None:
    with pytest.raises(UsageError, match="only some of the rows have 'tokens'"):
        Condition.join([Condition(label=torch.zeros(1, dtype=torch.int64)), full()])
    with pytest.raises(UsageError, match=r"'images\.control'"):
        one = torch.zeros(1, 1, 2, 2)
        Condition.join([Condition(images={"low_res": one}), Condition(images={"low_res": one, "control": one})])


def test_nothing_is_empty() -> None:
    assert Condition().empty and Evaluation().empty and not full().empty
    assert not Condition(images={"mask": torch.zeros(1, 1, 2, 2)}).empty


def test_it_moves_and_maps() -> None:
    assert full().to("meta").label.device.type == "meta"  # type: ignore[union-attr]
    assert full().map(lambda value: value[:0]).tokens.shape == (0, 4)  # type: ignore[union-attr]
