"""Findings of the checks: severity, evidence and advice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from undiffuse.errors import UndiffuseError
from undiffuse.observer import SILENT, Observer, SubProgress, observing
from undiffuse.registry import resolve

Severity = Literal["ok", "note", "warning", "problem"]
#: In increasing severity; ``--strict`` fails from ``warning`` on.
SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "problem")


@dataclass(frozen=True)
class Finding:
    """One finding of a check.

    Args:
        severity: ``ok``, ``note`` (good to know), ``warning`` (probably costs quality) or ``problem`` (does harm).
        title: short description.
        evidence: the numbers that support it.
        advice: a command, a key of the configuration, or another remedy; empty if nothing needs to be done.
        details: all numbers and names, for JSON.
        check: registry name of the check.
    """

    severity: Severity
    title: str
    evidence: str
    advice: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    check: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Examination:
    """The findings, most severe first, the requested checks, and the checks that failed to run."""

    findings: list[Finding]
    checked: list[str]
    seconds: float
    not_run: list[str] = field(default_factory=list)

    @property
    def is_well(self) -> bool:
        """Whether nothing is worse than a note."""
        return all(finding.severity in ("ok", "note") for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "findings": [finding.to_dict() for finding in self.findings],
            "checked": self.checked,
            "not_made": self.not_run,
            "seconds": round(self.seconds, 2),
        }


def examine(checks: Mapping[str, Any], context: Any, observer: Observer = SILENT) -> Examination:
    """Run the checks in sequence; a check that fails becomes a note and does not stop the others.

    Args:
        checks: name -> a function of ``context`` that yields findings, or ``"module:function"``.
        observer: receives the number of finished checks and the total; progress within a check counts as a fraction.
    """
    started = time.monotonic()
    found: list[Finding] = []
    for number, (name, row) in enumerate(checks.items()):
        observer.progress(number, len(checks))
        check, progress = resolve(row), SubProgress(observer, number, len(checks))
        if observer is not SILENT:
            context.observer = progress
        with observing(progress.subtasks() if observer is not SILENT else None):
            found += [replace(finding, check=name) for finding in _attempt(check, context)]
    observer.progress(len(checks), len(checks))
    not_run = [finding.check for finding in found if finding.title == _NOT_RUN]
    order = {severity: number for number, severity in enumerate(SEVERITIES)}
    findings = sorted(_joined(found), key=lambda finding: -order[finding.severity])
    return Examination(findings, list(checks), time.monotonic() - started, not_run)


def _attempt(check: Callable[[Any], Iterable[Finding]], context: Any) -> list[Finding]:
    found: list[Finding] = []
    try:
        for finding in check(context):
            found.append(finding)
        return found
    except UndiffuseError as error:
        reason = " ".join(str(error).split())
    except Exception as error:  # a bug in one check must not hide the findings of the others
        reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())}"
    return [*found, Finding("note", _NOT_RUN, reason)]


_NOT_RUN = "could not be checked"


def _joined(findings: list[Finding]) -> list[Finding]:
    """Merge the checks that failed for the same reason into one finding."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        if finding.title == _NOT_RUN:
            reasons.setdefault(finding.evidence, []).append(finding.check)
    notes = [
        Finding("note", f"{_NOT_RUN}: {', '.join(checks)}", reason, details={"checks": checks}, check=checks[0])
        for reason, checks in reasons.items()
    ]
    return [finding for finding in findings if finding.title != _NOT_RUN] + notes


def percent(share: float) -> str:
    """Format a fraction as a percentage: ``12 %``, ``0.3 %``."""
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
