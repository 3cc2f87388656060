"""Examining data and runs: each finding with the numbers that show it and with what to do about it.

A check is one row of ``DATA_CHECKS`` or ``RUN_CHECKS``: a function of a ``pictures.DataSubject`` or a
``runs.RunSubject`` that gives ``Finding``s. One that cannot be made says why and stops none of the others.
"""

from __future__ import annotations

from undiffuse.doctor.findings import SEVERITIES, Examination, Finding, Severity, examine

__all__ = ["DATA_CHECKS", "RUN_CHECKS", "SEVERITIES", "Examination", "Finding", "Severity", "examine"]

#: Of a set of pictures.
DATA_CHECKS: dict[str, str] = {
    "broken": "undiffuse.doctor.stored:broken",
    "incomplete": "undiffuse.doctor.stored:incomplete",
    "left_out": "undiffuse.doctor.stored:left_out",
    "modes": "undiffuse.doctor.stored:modes",
    "sizes": "undiffuse.doctor.stored:sizes",
    "amount": "undiffuse.doctor.amounts:amount",
    "classes": "undiffuse.doctor.amounts:classes",
    "colour": "undiffuse.doctor.values:colour",
    "range": "undiffuse.doctor.values:value_range",
    "plain": "undiffuse.doctor.values:plain",
    "clipped": "undiffuse.doctor.values:clipped",
    "borders": "undiffuse.doctor.values:borders",
    "duplicates": "undiffuse.doctor.copies:exact",
    "near_duplicates": "undiffuse.doctor.copies:near",
    "labels": "undiffuse.doctor.copies:labels",
    "split": "undiffuse.doctor.copies:split",
    "against": "undiffuse.doctor.copies:against",
}

#: Of a run or a saved model.
RUN_CHECKS: dict[str, str] = {
    "files": "undiffuse.doctor.runs:files",
    "progress": "undiffuse.doctor.journal:progress",
    "losses": "undiffuse.doctor.journal:losses",
    "overfitting": "undiffuse.doctor.journal:overfitting",
    "ema": "undiffuse.doctor.weights:ema",
    "weights": "undiffuse.doctor.weights:finite",
    "prior": "undiffuse.doctor.levels:prior",
    "levels": "undiffuse.doctor.levels:levels",
    "noise": "undiffuse.doctor.noise:noise",
    "steps": "undiffuse.doctor.samples:steps",
    "colours": "undiffuse.doctor.samples:colours",
    "saturation": "undiffuse.doctor.samples:saturation",
    "variety": "undiffuse.doctor.samples:variety",
    "classes": "undiffuse.doctor.samples:classes",
    "modes": "undiffuse.doctor.modes:modes",
    "coverage": "undiffuse.doctor.samples:coverage",
    "copying": "undiffuse.doctor.copying:copying",
}
