"""What data and users say, made into conditions: every field that a spec knows, whatever is said of a row."""

from __future__ import annotations

import pytest
import torch

from undiffuse.conditioning.base import EncodedPrompts
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.conditioning.prompt import Prompt
from undiffuse.core.condition_spec import UNCONDITIONAL, ConditionSpec
from undiffuse.core.per_sample import PerRow
from undiffuse.core.random import StepRandom
from undiffuse.data.given import Given
from undiffuse.errors import UsageError

SPEC = ConditionSpec(class_names=("cat", "dog"), num_augment=2)
X_0 = torch.zeros(400, 1)
GIVEN = Given(
    label=torch.arange(400) % 2, augment=torch.rand(400, 2), captions=PerRow(f"number {row}" for row in range(400))
)


def test_a_share_of_the_samples_is_given_no_class_and_none_loses_what_was_done_to_it() -> None:
    condition = LabelConditioner(SPEC, 0.25).for_training(GIVEN, X_0, StepRandom(0, 7))
    assert condition.label is not None and condition.augment is not None
    dropped = condition.label == -1
    assert 70 < int(dropped.sum()) < 130
    assert torch.equal(condition.label[~dropped], GIVEN.label[~dropped])  # type: ignore[index]
    assert torch.equal(condition.augment, GIVEN.augment)  # type: ignore[arg-type]
    again = LabelConditioner(SPEC, 0.25).for_training(GIVEN, X_0, StepRandom(0, 7))
    assert torch.equal(again.label, condition.label)  # type: ignore[arg-type]


def test_a_model_is_conditioned_on_what_its_spec_knows_and_no_more() -> None:
    assert LabelConditioner(UNCONDITIONAL).for_training(GIVEN, X_0, StepRandom(0, 0)).empty
    only = LabelConditioner(ConditionSpec(num_augment=2)).for_training(GIVEN, X_0, StepRandom(0, 0))
    assert list(only.tensors()) == ["augment"]
    assert LabelConditioner(UNCONDITIONAL).encode_prompts([Prompt()]).condition.empty
    with pytest.raises(UsageError, match="knows no classes, got class 'cat'"):
        LabelConditioner(UNCONDITIONAL).encode_prompts([Prompt(negative=Prompt("cat"))])


def test_a_policy_of_the_model_s_own_keeps_what_others_drop() -> None:
    spec = ConditionSpec(class_names=("cat", "dog"), drop={"label": "keep"})
    condition = LabelConditioner(spec, 1.0).for_training(GIVEN, X_0, StepRandom(0, 0))
    assert torch.equal(condition.label, GIVEN.label)  # type: ignore[arg-type]


def test_rows_of_any_wishes_have_the_same_fields() -> None:
    prompts = [Prompt("dog"), Prompt(), Prompt("cat", negative=Prompt("dog"))]
    encoded = LabelConditioner(SPEC).encode_prompts(prompts)
    wanted, negative = encoded.condition, encoded.negative
    assert wanted.label is not None and wanted.label.tolist() == [1, -1, 0]
    assert negative.label is not None and negative.label.tolist() == [-1, -1, 1]
    alone = [LabelConditioner(SPEC).encode_prompts([prompt]) for prompt in prompts]
    joined_parts = EncodedPrompts.join(alone)
    for whole, part in ((wanted, joined_parts.condition), (negative, joined_parts.negative)):
        joined = part.tensors()
        assert joined.keys() == whole.tensors().keys() == {"label", "augment"}
        assert all(torch.equal(joined[name], value) for name, value in whole.tensors().items())


def test_a_negative_of_one_row_changes_no_other_s() -> None:
    spec = ConditionSpec(class_names=("cat", "dog"), drop={"label": "keep"})
    alone = LabelConditioner(spec).encode_prompts([Prompt("cat")]).negative.label
    prompts = [Prompt("cat"), Prompt("cat", negative=Prompt("dog"))]
    several = LabelConditioner(spec).encode_prompts(prompts).negative.label
    assert alone is not None and several is not None and several.tolist() == [*alone.tolist(), 1]


def test_an_unknown_class_is_rejected_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown class 'dig'; did you mean 'dog'"):
        LabelConditioner(SPEC).encode_prompts([Prompt("dig")])


def test_what_a_set_reports_goes_with_its_rows() -> None:
    some = GIVEN.select(torch.tensor([3, 1]))
    assert some.captions == ("number 3", "number 1") and some.label is not None and some.label.tolist() == [1, 1]
    joined = Given.join([some, GIVEN.select(slice(0, 1))])
    assert joined.captions == ("number 3", "number 1", "number 0")
