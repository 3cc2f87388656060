"""Whether samples cover all modes of the data, if the modes are known."""

from __future__ import annotations

from collections.abc import Iterable

from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.run_context import RunContext
from undiffuse.metrics.modes import Modes, to_details


def modes(context: RunContext) -> Iterable[Finding]:
    """Whether the model has collapsed; no finding if the modes of the data are unknown."""
    if context.count_modes is not None:
        yield assess_modes(context.count_modes(context.samples))


def assess_modes(found: Modes) -> Finding:
    """The finding of ``modes`` for counted modes."""
    details = to_details(found)
    evidence = found.summary.split(": ", 1)[1]
    if found.collapsed:
        advice = (
            "train with another objective (unrolled or relativistic), a lower learning rate, or for longer; the rule "
            "is in doctor.json"
        )
        return Finding("problem", "the model has collapsed onto few modes", evidence, advice, details)
    if found.good_share < 0.5 * found.real_good_share:
        return Finding("warning", "most samples belong to no mode of the data", evidence, "train on", details)
    return Finding("ok", "modes of the data", evidence, details=details)
