"""Checks of the files of a run: configuration, metrics log, weights, checkpoints, disk space."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.run_context import CheckpointState, RunContext
from undiffuse.errors import UsageError
from undiffuse.wording import command, count_noun, format_names


def files(context: RunContext) -> Iterable[Finding]:
    """The files of the run: configuration, metrics log, weights, checkpoints, disk space."""
    if context.config_error:
        yield Finding(
            "problem",
            "config.json is invalid",
            context.config_error,
            "restore the original, or read it with the version of undiffuse that wrote it",
        )
    if context.metrics_log_note:
        advice = "the other rows are valid; restore an intact copy to get the whole curve"
        yield Finding("warning", "the metrics log is damaged", context.metrics_log_note, advice)
    yield from _checkpoints(context.checkpoints, context.folder)
    leftovers = [path.name for path in sorted(context.folder.glob("nonfinite_step_*"))]
    if leftovers:
        yield Finding(
            "problem",
            "training stopped at a number that is not finite",
            f"the evidence is in {format_names(leftovers)}",
            "read report.json there; restart with a lower optimizer.learning_rate or system.precision=fp32",
            {"folders": leftovers},
        )
    try:
        context.model  # noqa: B018 (raises if the weights do not match their checksum)
    except UsageError as error:
        advice = f"restore an intact copy, or train on with: {command('train', '--resume', '--out', context.folder)}"
        yield Finding("problem", "the model cannot be loaded", str(error), advice)
        return
    yield Finding("ok", "model", f"weights match their checksum, {context.model.weights_sha256[:12]}")


def _checkpoints(checkpoints: Sequence[CheckpointState], folder: Path) -> Iterable[Finding]:
    if not checkpoints:
        return
    damaged = {state.name: state.damage for state in checkpoints if state.damage}
    total = sum(state.num_bytes for state in checkpoints)
    size = f"{total / 2**20:,.0f} MiB in {count_noun(len(checkpoints), 'checkpoint')}"
    if damaged:
        valid = len(checkpoints) - len(damaged)
        yield Finding(
            "problem" if valid == 0 else "warning",
            "damaged checkpoints",
            f"{len(damaged)} of {len(checkpoints)}: {format_names(damaged.values())}",
            f"delete {folder / 'checkpoints'}/{next(iter(damaged))}; training continues from the newest intact one"
            if valid
            else "restore a copy: without an intact one training starts from the beginning",
            {"damaged": damaged},
        )
    else:
        yield Finding("ok", "checkpoints are intact", size, details={"bytes": total})
    if len(settings := next((state.settings for state in checkpoints if not state.damage), ())) > 1:
        changes = format_names(f"at {change['images']:,} images" for change in settings[1:])
        yield Finding(
            "note",
            "trained with more than one setting",
            f"other threads, norms, device or torch {changes}: not bit-identical to training on one machine",
            "train on one machine for bit-identical results",
            {"settings": [dict(entry) for entry in settings]},
        )
    if total > 10 * 2**30:
        yield Finding(
            "note",
            "disk taken by checkpoints",
            size,
            "lower keep_checkpoints, or delete old ones once training is done: sampling needs none",
            {"bytes": total},
        )
