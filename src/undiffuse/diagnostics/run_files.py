"""Check of a run's own files: configuration, metrics log, weights, checkpoints, disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from undiffuse.diagnostics.findings import Finding
from undiffuse.diagnostics.run_context import CheckpointState, RunContext
from undiffuse.errors import UsageError
from undiffuse.wording import command, counted, format_names


def files(context: RunContext) -> Iterable[Finding]:
    """The run's own files: configuration, weights, checkpoints, disk."""
    if context.config_error:
        yield Finding(
            "problem",
            "config.json is not sound",
            context.config_error,
            "put the original back, or read it with the version of undiffuse that wrote it",
        )
    if context.metrics_log_note:
        advice = "the other rows are valid; restore a sound copy to have the whole curve"
        yield Finding("warning", "the metrics log is damaged", context.metrics_log_note, advice)
    yield from _checkpoints(context.checkpoints, context.folder)
    leftovers = [path.name for path in sorted(context.folder.glob("nonfinite_step_*"))]
    if leftovers:
        yield Finding(
            "problem",
            "training stopped at a number that is not finite",
            f"the evidence lies in {format_names(leftovers)}",
            "read report.json there; start anew with a lower optimizer.learning_rate or system.precision=fp32",
            {"folders": leftovers},
        )
    try:
        context.model  # noqa: B018 (weights that do not match their checksum are refused here)
    except UsageError as error:
        advice = f"put a sound copy back, or train on with: {command('train', '--resume', '--out', context.folder)}"
        yield Finding("problem", "the model cannot be loaded", str(error), advice)
        return
    yield Finding("ok", "model", f"weights match their checksum, {context.model.weights_sha256[:12]}")


def _checkpoints(checkpoints: Sequence[CheckpointState], folder: Path) -> Iterable[Finding]:
    if not checkpoints:
        return
    damaged = {state.name: state.damage for state in checkpoints if state.damage}
    total = sum(state.num_bytes for state in checkpoints)
    size = f"{total / 2**20:,.0f} MiB in {counted(len(checkpoints), 'checkpoint')}"
    if damaged:
        valid = len(checkpoints) - len(damaged)
        yield Finding(
            "problem" if valid == 0 else "warning",
            "damaged checkpoints",
            f"{len(damaged)} of {len(checkpoints)}: {format_names(damaged.values())}",
            f"delete {folder / 'checkpoints'}/{next(iter(damaged))}; training continues from the newest sound one"
            if valid
            else "restore a copy: without a sound one training starts from the beginning",
            {"damaged": damaged},
        )
    else:
        yield Finding("ok", "checkpoints are sound", size, details={"bytes": total})
    if len(settings := next((state.settings for state in checkpoints if not state.damage), ())) > 1:
        changes = format_names(f"at {one['images']:,} images" for one in settings[1:])
        yield Finding(
            "note",
            "trained with more than one setting",
            f"other threads, norms, device or torch {changes}: not bit for bit what one machine would have made",
            "train it on one machine to have exactly that",
            {"settings": [dict(one) for one in settings]},
        )
    if total > 10 * 2**30:
        yield Finding(
            "note",
            "disk taken by checkpoints",
            size,
            "lower keep_checkpoints, or delete old ones once training is done: sampling needs none",
            {"bytes": total},
        )
