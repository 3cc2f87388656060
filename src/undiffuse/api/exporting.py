"""``undiffuse export``: a model folder to distribute, with optional tuning of the sampling and smaller weights."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.api.arguments import check_tuning
from undiffuse.api.loading import next_command, opened
from undiffuse.api.outputs import check_export
from undiffuse.cancellation import Cancel
from undiffuse.conditioning.text.frozen_folder import PACKAGES
from undiffuse.core.limits import check_temperature
from undiffuse.errors import UsageError
from undiffuse.files import replacing
from undiffuse.locking import locked
from undiffuse.models.base import DenoisingModel, GenerativeModel, denoising
from undiffuse.models.files.components import text_folder, with_sampling, with_text_folder
from undiffuse.models.files.int8 import Int8Tensor, as_int8, dequantised
from undiffuse.models.files.parts import copy_parts, save_parts
from undiffuse.models.files.record import REPLACES, write_record
from undiffuse.models.files.weights import WEIGHTS, save_weights
from undiffuse.models.parts import load_model_state, model_state
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, announce, note, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import Sampler
from undiffuse.samplers.tuned_grids import Trial, TunedGrid, check_tunable, tune_grid
from undiffuse.seen import images_seen
from undiffuse.training.metrics_log import read_metrics
from undiffuse.wording import count_noun

#: Number of seeds for tuning a grid, and as many others for measuring its error; both far from usual seeds.
NUM_SEEDS = 64
_TUNING_SEED, _CHECKING_SEED = 10**9, 2 * 10**9
_SECTION = "## Sampling"
#: Lines of a bundled model's card that do not apply to a copy.
_STALE = re.compile(r"^(!\[samples.*\n|\| (parameters|samples by|SHA-256 of the weights) \|.*)\n", re.MULTILINE)


@known_keywords
def export(
    model: str | Path | Model,
    out: str | Path,
    *,
    tune_steps: Sequence[int] = (),
    sampler: str = "unipc",
    tolerance: float = 0.1,
    seeds: int = NUM_SEEDS,
    temperature: float | None = None,
    bf16: bool = False,
    int8: bool = False,
    embed_parts: bool = False,
    overwrite: bool = False,
    weights: str = "ema",
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> Path:
    """Write a model as a folder to distribute: configuration, weights, card; optionally with tuned sampling steps.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``.
        out: the folder.
        tune_steps: tune a time grid with the first of these numbers of steps that is within ``tolerance`` of the fine
            solution, or else the last; a named grid is used if it has a smaller error. None keeps the model's
            defaults.
        sampler: to tune the grid for.
        tolerance: root-mean-square error of a value in [-1, 1].
        seeds: number of seeds for tuning, and as many others for measuring the error.
        temperature: sampling temperature of the exported model; the model's default if not given.
        bf16: store parameters in bfloat16, half as large; a loaded ``Model`` is rounded as well.
        int8: store large weights as 8-bit integers with a scale per output channel, other parameters in bfloat16: a
            quarter as large; a loaded ``Model`` is rounded as well.
        embed_parts: copy parts from elsewhere into the folder, such as a frozen text encoder, which is referred to by
            its place and SHA-256 otherwise.
        overwrite: replace an existing exported model.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Returns:
        The folder.
    Raises:
        UsageError: a folder with other content, a sampler or number of steps that cannot be tuned, a
            temperature that is invalid or not supported by the model; with ``int8`` a weight that is not finite.
        CancelledError: it was cancelled.
    """
    where = Path(out).expanduser()
    with observing(observer, cancel), locked(where):
        loaded = opened(model, device, weights)
        check_export(where, loaded.path, overwrite)
        tensors = _weights(loaded.module, bf16, int8)
        kept = _exported_temperature(loaded, temperature)
        tuned = _tuned(loaded, tune_steps, sampler, tolerance, seeds, kept) if tune_steps else None
        record = copy.deepcopy(dict(loaded.config))
        if images := images_seen(record, read_metrics(loaded.path)):
            record["trained_images"] = images
        record.pop("card", None)  # of a bundled model: its checksum and its numbers are of another file
        record.pop(REPLACES, None)
        if tuned is not None:
            chosen = {"sampler": sampler, "num_steps": tuned.num_steps, "grid": tuned.grid}
            record = with_sampling(record, chosen)
            record["tuning"] = _tuning_record(tuned, seeds, kept)
        if temperature is not None:
            record = with_sampling(record, {"temperature": kept})
        with replacing(where) as folder:
            folder.mkdir()
            if parts := save_parts(folder, loaded.module, torch.bfloat16 if bf16 else None, int8):
                record["components"] = {**record["components"], **parts}
            record = _with_embedded_parts(record, folder, loaded, embed_parts)
            save_weights(folder / WEIGHTS["ema"], tensors, write_record(folder, record))
            (folder / "model_card.md").write_text(
                _card(loaded, tuned, seeds, _storage_description(bf16, int8), kept), encoding="utf-8"
            )
        announce(f"exported: {where}; next: {next_command(where)}")
        return where


def _with_embedded_parts(record: dict[str, Any], folder: Path, model: Model, requested: bool) -> dict[str, Any]:
    """Copy the frozen text encoder if that is requested, or if the model's own folder contains it.

    Args:
        record: content of the exported ``config.json``.
        folder: of the exported model.
        model: the exported model.
        requested: whether parts are embedded.
    Returns:
        The record with the place of the copy.
    """
    place = text_folder(record)
    if place is None:
        if requested:
            note("this model has no parts from elsewhere; --embed-parts has no effect")
        return record
    if not requested and (place in PACKAGES or Path(place).is_absolute()):
        return record
    (name,) = copy_parts(folder, model.module)
    return with_text_folder(record, name)


def _weights(model: GenerativeModel, bf16: bool, int8: bool) -> dict[str, Tensor | Int8Tensor]:
    """Tensors to save; the model's parameters are rounded as well, so that tuning uses them."""
    tensors = model_state(model)
    kept: dict[str, Tensor | Int8Tensor] = dict(tensors)
    if int8:
        kept = as_int8(model, tensors)
    elif bf16:
        parameters = {name for name, _ in model.named_parameters()}
        kept = {name: value.to(torch.bfloat16) if name in parameters else value for name, value in tensors.items()}
    if int8 or bf16:
        load_model_state(model, dequantised(kept))
    return kept


def _storage_description(bf16: bool, int8: bool) -> str:
    """Describe how parameters are stored; empty if unchanged."""
    if int8:
        return "Large weights are kept in int8 with a scale per output channel, others in bfloat16"
    return "Weights are kept in bfloat16" if bf16 else ""


def _default_temperature(model: Model) -> float:
    own: float = model.module.sampling_record().get("temperature", 1.0)
    return own


def _exported_temperature(model: Model, requested: float | None) -> float:
    """Sampling temperature of the exported model."""
    if requested is None:
        return _default_temperature(model)
    denoising(model.module, "a temperature")
    return check_temperature(requested)


def _tuned(
    model: Model, tune_steps: Sequence[int], spec: str, tolerance: float, seeds: int, temperature: float
) -> TunedGrid:
    """Tune a grid with the smallest sufficient number of steps."""
    system, sampler = denoising(model.module, "tuning a time grid"), make_sampler(spec)
    own = model.module.sampling_record().get("sampler")
    if own is not None and make_sampler(own).for_consistency_models:
        raise UsageError(f"this model samples by {own!r} in few steps already; leave --tune-steps out")
    for steps in tune_steps:
        check_tunable(sampler, steps)
    check_tuning(tolerance, seeds)
    with stage("solving finely") as observer:
        observer.progress(0, 2)
        trial = _trial(model, system, _TUNING_SEED, seeds, temperature).solved()
        observer.progress(1, 2)
        check = _trial(model, system, _CHECKING_SEED, seeds, temperature).solved()
        observer.progress(2, 2)
    return _first_sufficient(trial, check, sampler, tune_steps, tolerance)


def _first_sufficient(
    trial: Trial, check: Trial, sampler: Sampler, tune_steps: Sequence[int], tolerance: float
) -> TunedGrid:
    for steps in tune_steps:
        with stage(f"tuning {steps} steps") as observer:
            tuned = tune_grid(trial, check, sampler, steps, observer.progress)
        announce(
            f"{sampler.name}, {count_noun(steps, 'step')}, {tuned.nfe} NFE: "
            f"error {tuned.tuned_error:.4f} on the tuned grid, "
            f"{tuned.named[tuned.best_named_grid]:.4f} on the best named one ({tuned.best_named_grid}"
            f"{'' if tuned.helps else ', which is kept'})"
        )
        if tuned.error <= tolerance:
            return tuned
    if len(tune_steps) > 1:
        note(f"none of {', '.join(map(str, tune_steps))} steps comes within {tolerance:g}; took {tune_steps[-1]}")
    return tuned


def _trial(model: Model, system: DenoisingModel, seed: int, count: int, temperature: float) -> Trial:
    cond = model.default_condition(count)
    denoiser = system.sampling_denoiser().eval()
    seeds = range(seed, seed + count)
    return Trial(denoiser, tuple(system.shape), seeds, cond, system.device, temperature=temperature)


def _tuning_record(tuned: TunedGrid, seeds: int, temperature: float) -> dict[str, Any]:
    return {
        "sampler": tuned.sampler,
        "steps": tuned.num_steps,
        "nfe": tuned.nfe,
        "grid": tuned.grid,
        "temperature": temperature,
        "rms_error": tuned.error,
        "log_snrs": [round(knot, 3) for knot in tuned.log_snrs],
        "rms_error_of_tuned_grid": tuned.tuned_error,
        "rms_error_of_named_grids": tuned.named,
        "seeds": seeds,
    }


def _card(model: Model, tuned: TunedGrid | None, seeds: int, stored: str, temperature: float) -> str:
    """The model's card, extended by what was exported."""
    path = model.path / "model_card.md"
    before = path.read_text(encoding="utf-8") if path.is_file() else f"# {model.config['config']['recipe']}\n"
    lines = [_STALE.sub("", before.split(f"\n{_SECTION}\n")[0]).rstrip(), "", _SECTION, ""]
    lines += [f"{stored} and computed with in float32 or as configured.", ""] if stored else []
    cooled = _temperature_lines(_default_temperature(model), temperature)
    own = ["Otherwise by the model's own defaults." if cooled else "By the model's own defaults."]
    lines += cooled + (_tuning_lines(tuned, seeds) if tuned is not None else own)
    return "\n".join(lines) + "\n"


def _temperature_lines(own: float, kept: float) -> list[str]:
    if own == kept:
        return [f"At temperature {kept:g}.", ""] if kept != 1 else []
    return [f"At temperature {kept:g}; numbers above, if there are any, are of {own:g}.", ""]


def _tuning_lines(tuned: TunedGrid, seeds: int) -> list[str]:
    rows = [(f"{name}, as named", error) for name, error in sorted(tuned.named.items(), key=lambda row: row[1])]
    grid = "a time grid tuned for this model" if tuned.helps else f"the grid `{tuned.grid}`, which no tuning bettered"
    return [
        f"By {tuned.sampler} in {count_noun(tuned.num_steps, 'step')}, {tuned.nfe} NFE, on {grid}.",
        f"Root-mean-square distance of a value in [-1, 1] from a fine solution, over {seeds} seeds that",
        "tuning did not see:",
        "",
        "| grid | error |",
        "|---|---|",
        *(f"| {name} | {error:.4f} |" for name, error in [("tuned", tuned.tuned_error), *rows]),
    ]
