"""Diagnostics of data sets and runs: each finding has its evidence and advice.

A check is an entry of ``DATA_CHECKS`` or ``RUN_CHECKS``: a function of a ``data_context.DataContext`` or a
``run_context.RunContext`` that yields ``Finding``s. A check that fails reports the reason and does not stop the others.
"""

from __future__ import annotations

from undiffuse.diagnostics.findings import SEVERITIES, Examination, Finding, Severity, examine

__all__ = ["DATA_CHECKS", "RUN_CHECKS", "SEVERITIES", "Examination", "Finding", "Severity", "examine"]

#: Checks of a data set.
DATA_CHECKS: dict[str, str] = {
    "broken": "undiffuse.diagnostics.stored_files:broken",
    "incomplete": "undiffuse.diagnostics.stored_files:incomplete",
    "left_out": "undiffuse.diagnostics.stored_files:left_out",
    "modes": "undiffuse.diagnostics.stored_files:modes",
    "sizes": "undiffuse.diagnostics.stored_files:sizes",
    "captions": "undiffuse.diagnostics.captions:captions",
    "amount": "undiffuse.diagnostics.dataset_size:amount",
    "classes": "undiffuse.diagnostics.dataset_size:classes",
    "colour": "undiffuse.diagnostics.pixel_values:colour",
    "range": "undiffuse.diagnostics.pixel_values:value_range",
    "plain": "undiffuse.diagnostics.pixel_values:plain",
    "clipped": "undiffuse.diagnostics.pixel_values:clipped",
    "borders": "undiffuse.diagnostics.pixel_values:borders",
    "duplicates": "undiffuse.diagnostics.duplicate_checks:exact",
    "near_duplicates": "undiffuse.diagnostics.duplicate_checks:near",
    "labels": "undiffuse.diagnostics.duplicate_checks:labels",
    "split": "undiffuse.diagnostics.duplicate_checks:split",
    "against": "undiffuse.diagnostics.duplicate_checks:against",
}

#: Checks of a run or a saved model.
RUN_CHECKS: dict[str, str] = {
    "files": "undiffuse.diagnostics.run_files:files",
    "progress": "undiffuse.diagnostics.metrics_log:progress",
    "losses": "undiffuse.diagnostics.metrics_log:losses",
    "overfitting": "undiffuse.diagnostics.metrics_log:overfitting",
    "ema": "undiffuse.diagnostics.weights:ema",
    "weights": "undiffuse.diagnostics.weights:finite",
    "prior": "undiffuse.diagnostics.noise_levels:prior",
    "levels": "undiffuse.diagnostics.noise_levels:levels",
    "noise": "undiffuse.diagnostics.noise:noise",
    "steps": "undiffuse.diagnostics.samples:steps",
    "colours": "undiffuse.diagnostics.samples:colours",
    "saturation": "undiffuse.diagnostics.samples:saturation",
    "variety": "undiffuse.diagnostics.samples:variety",
    "classes": "undiffuse.diagnostics.samples:classes",
    "modes": "undiffuse.diagnostics.modes:modes",
    "coverage": "undiffuse.diagnostics.samples:coverage",
    "copying": "undiffuse.diagnostics.memorisation:memorisation",
}
