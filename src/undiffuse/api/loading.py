"""Find a model by a run folder, a model folder, or the name of a bundled model."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from undiffuse.checksums import read_json
from undiffuse.cores import limit_threads
from undiffuse.errors import UsageError
from undiffuse.models.rules import GUIDING_ONLY
from undiffuse.registry import known_keywords, nearest
from undiffuse.wording import command
from undiffuse.zoo import bundled_models

if TYPE_CHECKING:
    from undiffuse.core.denoiser import Denoiser
    from undiffuse.models.saved import Model


@known_keywords
def load(model: str | Path, device: str = "auto", weights: str = "ema", denoiser: Denoiser | None = None) -> Model:
    """Load a trained model.

    Args:
        model: the folder of a run or of an exported model, or the name of a bundled one.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where there is one.
        weights: ``ema``, the averaged weights, or ``raw``, those of the last step.
        denoiser: for a saved wrapper of an external denoiser, whose code is not in the folder; see
            ``WrappedModel``.
    Raises:
        UsageError: no such model, or one that is corrupt or from a newer version.
    """
    check_device(device)
    folder = find_model(model)
    limit_threads()
    from undiffuse.models import saved  # seconds of importing, for what names a model

    return replace(saved.load(folder, pick_device(device), weights, denoiser), find=find_model)


def opened(model: str | Path | Model, device: str = "auto", weights: str = "ema") -> Model:
    """Return ``model`` if it is loaded, else load it.

    Args:
        model: a ``Model``, or what ``load`` takes.
        device: see ``load``.
        weights: see ``load``.
    """
    return load(model, device, weights) if isinstance(model, str | PathLike) else model


def find_model(model: str | Path) -> Path:
    """Folder of a model: a run or a model folder first, then the bundled model of that name."""
    if not isinstance(model, str | PathLike):
        raise UsageError(f"a model is named by a folder or a bundled name, got {model!r}")
    folder, bundled = Path(model).expanduser(), bundled_models()
    if str(model) in bundled and not (folder / "config.json").is_file():
        return bundled[str(model)]
    if folder.is_dir():
        return folder
    names = f", or a bundled model ({nearest(str(model), bundled)})" if bundled else ""
    raise UsageError(f"no model {str(model)!r}: neither a folder nor a bundled name; give the folder of a run{names}")


def names_run(subject: str) -> bool:
    """Whether ``subject`` is a run or a model rather than data."""
    folder = Path(subject).expanduser()
    return (folder / "config.json").is_file() or (not folder.exists() and subject in bundled_models())


def results_folder(model: Path) -> Path:
    """Folder of a model's results: its own folder, or ``results/NAME`` for a bundled model.

    Args:
        model: the folder that the model was loaded from.
    """
    return Path("results") / model.name if model in bundled_models().values() else model


def display_name(model: Path) -> str:
    """Name of a loaded model on a command line: its bundled name, else its folder."""
    return model.name if model in bundled_models().values() else str(model)


def next_command(model: Path) -> str:
    """The command to continue with: sampling, or evaluation of a model that generates no samples.

    Args:
        model: folder of a model or a run.
    """
    system = read_json(model / "config.json")["config"]["system"]
    guides = system.get("name") in GUIDING_ONLY
    return command("evaluate", model) if guides else command("sample", model, "-n", 64)


def pick_device(device: str) -> str:
    """Resolve ``auto`` to ``cuda`` or ``cpu``, and check any other name."""
    check_device(device)
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"device {device!r} was requested, but this torch sees no CUDA device; use --device cpu")
    return device


def check_device(device: str) -> None:
    """Check the name of a device, not whether it is available."""
    if device != "auto" and device.split(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device must be auto, cpu or cuda, got {device!r}")
