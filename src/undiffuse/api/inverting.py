"""``invert``: encode images to latents with the probability-flow ODE, and decode them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undiffuse.api.arguments import ADAPTIVE, check_items, check_solver, check_solver_steps
from undiffuse.api.datasets.reference_data import held_out_data
from undiffuse.api.loading import opened
from undiffuse.api.outputs import LATENTS, check_results
from undiffuse.cancellation import Cancel
from undiffuse.checksums import with_checksum
from undiffuse.data.audit import evenly_spaced
from undiffuse.files import replacing, write_json
from undiffuse.images import grid_of, image_of, save_png
from undiffuse.locking import locked
from undiffuse.models.base import denoising
from undiffuse.models.saved import Model
from undiffuse.observer import Observing, ProgressCallback, announce, observing, stage
from undiffuse.registry import known_keywords
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.inversion import ATOL, RTOL, generate, ode_range
from undiffuse.samplers.inversion import invert as invert_rows
from undiffuse.wording import count_noun

#: Images per batch, and shown in ``roundtrip.png``.
_ROWS, _SHOWN = 16, 16
_DEFAULT_STEPS = 50


@known_keywords
def invert(
    model: str | Path | Model,
    source: str | Path,
    out: str | Path,
    *,
    num: int = 16,
    sampler: str = "rk45",
    steps: int | None = None,
    overwrite: bool = False,
    options: Sequence[str] = (),
    weights: str = "ema",
    device: str = "auto",
    observer: Observing | None = None,
    cancel: Cancel | None = None,
) -> dict[str, Any]:
    """Encode images to latents with the probability-flow ODE and decode them, to measure the round-trip error.

    ``latents.npy``, ``encode.json`` and ``roundtrip.png`` (originals over reconstructions) are written to ``out``.

    Args:
        model: a run folder, a model folder, a bundled name, or a ``Model``.
        source: any data of the model's shape.
        out: the folder.
        num: number of items, evenly spaced.
        sampler: ``rk45``, which is adaptive, or ``heun`` with ``steps``.
        steps: of ``heun``, uniform in log-SNR; 50 by default.
        overwrite: replace existing latents.
        options: ``key=value`` texts for the source.
        weights: ``ema`` or ``raw``.
        device: ``cpu``, ``cuda`` or ``auto``.
        observer: receives progress.
        cancel: cancels the work; may be requested from any thread.
    Returns:
        Content of ``encode.json``.
    Raises:
        UsageError: data of another shape, an unknown solver, or a folder that is not empty.
        CancelledError: it was cancelled.
    """
    num_steps = _num_steps(sampler, steps)
    check_items(num)
    where = Path(out).expanduser()
    check_results(where, LATENTS, overwrite)
    with observing(observer, cancel), locked(where):
        loaded = opened(model, device, weights)
        dataset = held_out_data(loaded, str(source), options)
        rows = evenly_spaced(len(dataset), num)
        items = dataset.fetch(rows).x_0
        if num_steps is not None:
            announce(f"{count_noun(len(rows), 'item')}, {2 * num_steps} NFE each, and as many for the way back")
        latents, back, nfe = _round_trip(loaded, items, num_steps)
        error = (back - items).double()
        record = {
            "model": loaded.path.resolve().name,
            "model_sha256": loaded.weights_sha256,
            "weights": loaded.weights,
            "recipe": loaded.config["config"]["recipe"],
            "source": str(source),
            "data_fingerprint": dataset.fingerprint,
            "items": rows.tolist(),
            "labels": "none",
            "log_snr_range": list(ode_range(_denoiser(loaded, 1))),
            **_solver_record(sampler, num_steps),
            "nfe": nfe,
            "latent_mean_square": float((latents.double() ** 2).mean()),
            "roundtrip_rms": float((error**2).mean().sqrt()),
            "roundtrip_largest": float(error.abs().max()),
        }
        with replacing(where) as folder:
            folder.mkdir()
            _write(folder, loaded.finish(items).numpy(), loaded.finish(back).numpy(), latents.numpy(), record)
        announce(
            f"{count_noun(len(rows), 'latent')} in {where} ({nfe:g} NFE each); back and forth loses "
            f"{record['roundtrip_rms']:.2g} rms, {record['roundtrip_largest']:.2g} at most"
        )
        return record


def _num_steps(sampler: str, steps: int | None) -> int | None:
    check_solver(sampler)
    check_solver_steps(sampler, steps)
    if sampler == ADAPTIVE:
        return None
    return steps if steps is not None else _DEFAULT_STEPS


def _solver_record(sampler: str, num_steps: int | None) -> dict[str, Any]:
    if num_steps is None:
        return {"solver": sampler, "rtol": RTOL, "atol": ATOL}
    return {"solver": sampler, "steps": num_steps}


def _denoiser(model: Model, rows: int) -> FixedBatchDenoiser:
    return FixedBatchDenoiser(denoising(model.module, "encode").denoiser("fp32"), rows)


def _round_trip(model: Model, items: Tensor, num_steps: int | None) -> tuple[Tensor, Tensor, float]:
    """Latents, their reconstructions, and the mean NFE of the inversion."""
    denoiser = _denoiser(model, min(_ROWS, len(items)))
    latents, back, nfe = [], [], []
    with stage("encoding and decoding") as observer:
        for start in range(0, len(items), _ROWS):
            x_0 = items[start : start + _ROWS].to(model.module.device)
            encoding, decoding = (
                _half_progress(observer.progress, start, len(x_0), len(items), half) for half in (0, 1)
            )
            encoded = invert_rows(denoiser, x_0, num_steps=num_steps, on_progress=encoding)
            latents.append(encoded.x.cpu())
            nfe.append(encoded.nfe.double().cpu())
            back.append(generate(denoiser, encoded.x, num_steps=num_steps, on_progress=decoding).x.cpu())
    return torch.cat(latents), torch.cat(back), round(float(torch.cat(nfe).mean()), 1)


def _half_progress(
    on_progress: ProgressCallback, start: int, count: int, total: int, half: int
) -> Callable[[float], None]:
    """Progress callback of the solver for ``count`` items from ``start`` on: encoding, or (``half`` = 1) decoding."""
    return lambda share: on_progress(start + count * (half + share) / 2, total)


def _write(
    folder: Path,
    originals: np.ndarray[Any, Any],
    back: np.ndarray[Any, Any],
    latents: np.ndarray[Any, Any],
    record: dict[str, Any],
) -> None:
    with replacing(folder / "latents.npy") as path, path.open("wb") as file:
        np.save(file, latents)
    if originals.ndim == 4:
        shown = np.concatenate([originals[:_SHOWN], back[:_SHOWN]])
        save_png(folder / "roundtrip.png", grid_of(shown, columns=min(_SHOWN, len(originals))))
    else:
        clouds = np.stack([image_of(originals), image_of(back)])
        save_png(folder / "roundtrip.png", grid_of(clouds, columns=1))
    write_json(folder / "encode.json", with_checksum(record))
