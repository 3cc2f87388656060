"""GAN dynamics from the metrics log of an adversarial run: losses need not fall, but no network should dominate.

The difference of the discriminator's logits on data and on samples measures how well it distinguishes the two. If its
logits on training data are above those on held-out data, it has memorised training images, and the generator learns to
copy them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from undiffuse.diagnostics.findings import Finding, percent
from undiffuse.errors import UsageError

Rows = Sequence[Mapping[str, Any]]

_RECENT = 9
#: Mean sign of the logits on training data above which the generator receives little gradient.
_WON = 0.95
#: The gap to held-out data, in units of the distance between training data and samples.
_SOME, _MUCH = 0.25, 0.5


def is_adversarial(rows: Rows) -> bool:
    """Whether the metrics log is from an adversarial run."""
    return any("d_fake" in row for row in rows)


def assess_balance(rows: Rows) -> Finding:
    """The balance of the two networks, from training rows.

    Args:
        rows: with ``discriminator_loss``, ``generator_loss`` and, if logits have a meaningful sign, ``r_t``.
    """
    means = {key: _recent(rows, key) for key in ("discriminator_loss", "generator_loss")}
    signs = [float(row["r_t"]) for row in rows if "r_t" in row][-_RECENT:]
    if signs:
        means["r_t"] = statistics.mean(signs)
    sign = f", mean sign on training data {means['r_t']:.2f}" if signs else ""
    text = (
        f"discriminator {means['discriminator_loss']:.3g}, generator {means['generator_loss']:.3g}{sign} recently; in "
        "adversarial training neither loss need fall"
    )
    if signs and means["r_t"] > _WON:
        advice = (
            "samples may have stopped improving: a penalty (system.objective.r1=1), spectral norm, a lower "
            "optimizer.phase_learning_rates.discriminator, or augmentation (system.diff_augment)"
        )
        return Finding("warning", "the discriminator calls nearly all training data real", text, advice, means)
    return Finding("ok", "adversarial losses", text, details=means)


def assess_gap(rows: Rows) -> Iterable[Finding]:
    """Whether the discriminator has memorised its training data, from validation rows with ``d_real`` and the like."""
    valid = [row for row in rows if {"d_real", "d_real_train", "d_fake"} <= set(row)]
    if not valid:
        raise UsageError(
            "the metrics log has no discriminator logits on held-out data; train with validate_every_images and "
            "data.validation_fraction above 0"
        )
    last = valid[-1]
    gap, apart = last["d_real_train"] - last["d_real"], abs(last["d_real_train"] - last["d_fake"])
    share = gap / apart if apart > 0 else math.inf if gap > 0 else 0.0
    details = {"gap": gap, "train_to_samples": apart, "share": share, "at_images": last["images"]}
    text = (
        f"discriminator logits on training data are {gap:.3g} above those on held-out data, {apart:.3g} from those on "
        "samples"
    )
    if share > _SOME:
        yield Finding(
            "problem" if share > _MUCH else "warning",
            "the discriminator has memorised its training data",
            f"{text}: {percent(min(share, 1.0))} of the way",
            "train on more data or for fewer num_images, with system.diff_augment or system.adaptive",
            details,
        )
    else:
        yield Finding("ok", "discriminator logits on held-out data", text, details=details)


def _recent(rows: Rows, key: str) -> float:
    values = [float(row[key]) for row in rows if isinstance(row.get(key), int | float) and math.isfinite(row[key])]
    return statistics.mean(values[-_RECENT:]) if values else math.nan
