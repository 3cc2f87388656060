"""Examining data and runs: each finding with the numbers that show it and with what to do about it.

A check is one row of ``DATA_CHECKS`` or ``RUN_CHECKS``: a function of a ``data_context.DataContext`` or a
``run_context.RunContext`` that gives ``Finding``s. One that cannot be made says why and stops none of the others.
"""

from __future__ import annotations

from undiffuse.doctor.findings import SEVERITIES, Examination, Finding, Severity, examine

__all__ = ["DATA_CHECKS", "RUN_CHECKS", "SEVERITIES", "Examination", "Finding", "Severity", "examine"]

#: Of a set of images.
DATA_CHECKS: dict[str, str] = {
    "broken": "undiffuse.doctor.stored_files:broken",
    "incomplete": "undiffuse.doctor.stored_files:incomplete",
    "left_out": "undiffuse.doctor.stored_files:left_out",
    "modes": "undiffuse.doctor.stored_files:modes",
    "sizes": "undiffuse.doctor.stored_files:sizes",
    "amount": "undiffuse.doctor.dataset_size:amount",
    "classes": "undiffuse.doctor.dataset_size:classes",
    "colour": "undiffuse.doctor.pixel_values:colour",
    "range": "undiffuse.doctor.pixel_values:value_range",
    "plain": "undiffuse.doctor.pixel_values:plain",
    "clipped": "undiffuse.doctor.pixel_values:clipped",
    "borders": "undiffuse.doctor.pixel_values:borders",
    "duplicates": "undiffuse.doctor.duplicate_checks:exact",
    "near_duplicates": "undiffuse.doctor.duplicate_checks:near",
    "labels": "undiffuse.doctor.duplicate_checks:labels",
    "split": "undiffuse.doctor.duplicate_checks:split",
    "against": "undiffuse.doctor.duplicate_checks:against",
}

#: Of a run or a saved model.
RUN_CHECKS: dict[str, str] = {
    "files": "undiffuse.doctor.run_files:files",
    "progress": "undiffuse.doctor.metrics_log:progress",
    "losses": "undiffuse.doctor.metrics_log:losses",
    "overfitting": "undiffuse.doctor.metrics_log:overfitting",
    "ema": "undiffuse.doctor.weights:ema",
    "weights": "undiffuse.doctor.weights:finite",
    "prior": "undiffuse.doctor.noise_levels:prior",
    "levels": "undiffuse.doctor.noise_levels:levels",
    "noise": "undiffuse.doctor.noise:noise",
    "steps": "undiffuse.doctor.samples:steps",
    "colours": "undiffuse.doctor.samples:colours",
    "saturation": "undiffuse.doctor.samples:saturation",
    "variety": "undiffuse.doctor.samples:variety",
    "classes": "undiffuse.doctor.samples:classes",
    "modes": "undiffuse.doctor.modes:modes",
    "coverage": "undiffuse.doctor.samples:coverage",
    "copying": "undiffuse.doctor.memorisation:memorisation",
}
