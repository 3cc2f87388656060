"""The doctor on metrics logs of adversarial runs."""

from __future__ import annotations

import pytest

from undiffuse.diagnostics.gan_dynamics import assess_balance, assess_gap, is_adversarial
from undiffuse.errors import UsageError


def training(r_t: float, count: int = 20) -> list[dict[str, float]]:
    row = {"discriminator_loss": 1.2, "generator_loss": 0.8, "r_t": r_t, "d_fake": -0.4}
    return [{**row, "images": 100 * number} for number in range(count)]


def validation(train: float, held_out: float, fake: float) -> list[dict[str, float]]:
    return [{"images": 100, "d_real_train": train, "d_real": held_out, "d_fake": fake}]


def test_gan_dynamics_are_known_by_their_metrics() -> None:
    assert is_adversarial(training(0.3)) and not is_adversarial([{"images": 3, "loss": 0.5}])


def test_neither_side_may_win() -> None:
    assert assess_balance(training(0.5)).severity == "ok"
    assert assess_balance(training(0.97)).severity == "warning"
    late = [*training(0.99, 30), *training(0.2, 9)]
    assert assess_balance(late).severity == "ok", "of late it is in balance"


def test_outputs_without_a_zero_are_not_judged_by_their_sign() -> None:
    rows = [{key: value for key, value in row.items() if key != "r_t"} for row in training(0.99)]
    finding = assess_balance(rows)
    assert finding.severity == "ok" and "sign" not in finding.evidence


@pytest.mark.parametrize(
    ("held_out", "severity"), [(0.95, "ok"), (1.2, "ok"), (0.4, "warning"), (-0.5, "problem"), (-2.0, "problem")]
)
def test_the_gap_to_held_out_data(held_out: float, severity: str) -> None:
    (finding,) = assess_gap(validation(1.0, held_out, -1.0))
    assert finding.severity == severity
    assert finding.details["share"] == pytest.approx((1.0 - held_out) / 2)


def test_no_logits_no_findings() -> None:
    with pytest.raises(UsageError, match="validate_every_images"):
        list(assess_gap([{"images": 1, "loss": 0.5}]))
    (same,) = assess_gap(validation(0.0, 0.0, 0.0))
    assert same.severity == "ok"
