"""``undiffuse sample``: numbered pictures, a grid, and a record of how each was made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.app.show import counting, say, warn
from undiffuse.claims import writes_to
from undiffuse.files import check_own_folder, json_text, replacing
from undiffuse.images import fill_png, picture_of
from undiffuse.samplers.base import Progress, Sampled
from undiffuse.sealed import sealed
from undiffuse.systems.base import SampleRequest
from undiffuse.systems.sampling import written_interval
from undiffuse.systems.saved import Model, check_seeds

#: Pictures and moments that ``progressive.png`` shows; ``progressive.npz`` holds every step of all pictures.
_SHOWN_ROWS, _SHOWN_MOMENTS = 8, 10

#: The files that sampling writes; --overwrite deletes no other.
_OWN = re.compile(r"\d{6,}\.png|(grid|progressive)\.png|samples\.(json|npy)|progressive\.npz")


@writes_to("out")
def sample_to_folder(
    model: Model,
    out: Path,
    *,
    num: int,
    sampler: str | None,
    steps: int | None,
    grid: str | None,
    process: str | None,
    temperature: float | None = None,
    seed: int,
    batch_size: int,
    class_names: Sequence[str | None],
    progressive: bool,
    guidance: float | None = None,
    guidance_interval: tuple[float, float] | None = None,
    autoguidance: float | None = None,
    autoguidance_interval: tuple[float, float] | None = None,
    reuse: int = 1,
    overwrite: bool = False,
) -> Path:
    """Sample ``num`` pictures and write them to ``out`` in one piece.

    Returns:
        ``out``, holding ``000000.png`` ..., ``grid.png``, ``samples.json``, and what ``progressive`` adds.
    Raises:
        UsageError: ``out`` holds something already, or a request that the model cannot serve.
    """
    check_own_folder(out, "samples", "samples.json", _OWN, overwrite=overwrite)
    seeds = check_seeds(seed, num)
    names = model.classes_of(class_names or None, num)
    history: dict[int, dict[int, torch.Tensor]] = {}
    with counting("sampling") as tell:

        def callback(first: int, progress: Progress) -> None:
            tell(first * progress.count + len(progress.x) * (progress.index + 1), num * progress.count)
            if progressive:
                history.setdefault(progress.index, {})[first] = model.finish(progress.x_0)

        request = SampleRequest(
            seeds=seeds,
            sampler=sampler,
            num_steps=steps,
            grid=grid,
            process=process,
            temperature=temperature,
            cond=model.condition(names),
            batch_size=batch_size,
            callback=callback,
            guidance=guidance,
            guidance_interval=guidance_interval,
            autoguidance=autoguidance,
            autoguidance_interval=autoguidance_interval,
            reuse=reuse,
        )
        sampled = model.system.sample(request)
    samples = model.finish(sampled.x).numpy()
    with replacing(out) as folder:
        folder.mkdir()
        _write(folder, samples, _record(model, request, names, sampled))
        if progressive:
            _write_progress(folder, history)
    if sampled.note:
        warn(sampled.note)
    say(f"{num} samples in {out} ({_cost(sampled)} each)")
    return out


def _record(model: Model, request: SampleRequest, names: Sequence[str | None], sampled: Sampled) -> dict[str, Any]:
    defaults = model.system.sampling_facts()
    shared = {
        "model": model.path.resolve().name,
        "model_sha256": model.weights_sha256,
        "recipe": model.config["config"]["recipe"],
        "sampler": request.sampler or defaults.get("sampler"),
        "steps": request.num_steps or defaults.get("steps"),
        "grid": request.grid or defaults.get("grid"),
        "process": request.process or "the model's own",
        "temperature": request.temperature if request.temperature is not None else defaults.get("temperature", 1.0),
        "guidance": request.guidance if request.guidance is not None else defaults.get("guidance", 1.0),
        "guidance_interval": _written(request.guidance_interval) or defaults.get("guidance_interval"),
        **_autoguidance(request, defaults),
        "reuse": request.reuse,
        "nfe": sampled.nfe,
        "partial_nfe": sampled.partial_nfe,
    }
    images = [
        {"file": f"{index:06d}.png", "seed": seed, "class": names[index] if names else None, **shared}
        for index, seed in enumerate(request.seeds)
    ]
    return {**shared, "images": images}


def _cost(sampled: Sampled) -> str:
    partial = f" and {sampled.partial_nfe} of its finest level" if sampled.partial_nfe else ""
    return f"{sampled.nfe} network evaluations{partial}"


def _autoguidance(request: SampleRequest, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Its weight, and where it was at work."""
    scale = request.autoguidance if request.autoguidance is not None else defaults.get("autoguidance", 1.0)
    interval = _written(request.autoguidance_interval) or defaults.get("autoguidance_interval")
    return {"autoguidance": scale, "autoguidance_interval": interval if scale != 1 else None}


def _written(interval: tuple[float, float] | None) -> str | None:
    return None if interval is None else written_interval(interval)


def _write(folder: Path, samples: np.ndarray[Any, Any], record: dict[str, Any]) -> None:
    if samples.ndim == 4:
        for index, image in enumerate(samples):
            fill_png(folder / f"{index:06d}.png", image)
    else:
        record = {
            **record,
            "images": [{**row, "file": "samples.npy", "row": i} for i, row in enumerate(record["images"])],
        }
        np.save(folder / "samples.npy", samples)
    fill_png(folder / "grid.png", picture_of(samples))
    (folder / "samples.json").write_text(json_text(sealed(record)), encoding="utf-8")


def _write_progress(folder: Path, history: dict[int, dict[int, torch.Tensor]]) -> None:
    """x_0-hat over time: all of it as an array, a selection as a picture (a row a sample, time to the right)."""
    frames = np.stack(
        [np.concatenate([part.numpy() for _, part in sorted(step.items())]) for _, step in sorted(history.items())]
    )
    np.savez_compressed(folder / "progressive.npz", x_0=frames)
    moments = np.unique(np.linspace(0, len(frames) - 1, _SHOWN_MOMENTS).round().astype(int))
    if frames.ndim == 5:
        shown = frames[moments][:, :_SHOWN_ROWS].swapaxes(0, 1)
        fill_png(folder / "progressive.png", picture_of(shown.reshape(-1, *frames.shape[2:]), len(moments)))
    else:
        clouds = np.stack([picture_of(frames[moment]) for moment in moments])
        fill_png(folder / "progressive.png", picture_of(clouds, len(moments)))
