"""Flip single bits in every file of a run, an exported model, a bundled model and a sample set, and test all readers.

    python tools/flip_bits.py --out benchmarks/flips.json

A flip is *refused* if a reader of the file raises an error with one line about it; *named* if the readers continue,
give the same bits, and report what they skipped; *harmless* if every reader gives the same bits without a message, as
for a letter of a model card; *silent* if a result differs without a message. No flip may be silent, and no reader may
raise an error that is not an ``UndiffuseError``.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import undiffuse
from undiffuse.api.configuration.runs import configure, saved_config
from undiffuse.api.examining import _checkpoints
from undiffuse.api.exporting import export
from undiffuse.api.reporting import _findings, _json, _metrics_log
from undiffuse.api.training import split_data
from undiffuse.checksums import with_checksum
from undiffuse.data import load_dataset
from undiffuse.data.config import FolderConfig
from undiffuse.errors import UndiffuseError
from undiffuse.files import write_json
from undiffuse.models.saved import load
from undiffuse.observer import Silent, observing
from undiffuse.reports.images import previews
from undiffuse.training.posthoc import reconstruct
from undiffuse.training.trainer import Trainer
from undiffuse.zoo import bundled_models
from undiffuse.zoo.card import bundled

#: A run of points: small enough to be resumed for every flip.
RECIPE = (
    *("system.network.width=16", "system.network.num_blocks=1", "data.num_points=200", "batch_images=50"),
    *("num_images=400", "log_every_images=50", "validate_every_images=200", "validation_images=20"),
    *("checkpoint_every_images=100", "preview_every_images=200", 'ema.posthoc={"snapshot_every_images": 100}'),
)
STOPPED_AT = 300
#: Outcomes that are not allowed: changed results, with or without a message, and unexpected exceptions.
BAD = ("silent", "changed", "raw error")

Reader = Callable[[], Any]
Found = tuple[dict[str, Counter[str]], list[str]]  # counts by file pattern, and messages about disallowed outcomes
#: Readers that show the intact rest of a damaged file with a message; all others must give the same bits.
SHOWN = ("report: metrics log", "report: previews")


@dataclasses.dataclass
class Folder:
    """A folder whose files are damaged, and its readers.

    Args:
        name: name in the table.
        path: path of the folder.
        readers: readers by name; each returns plain values, or raises an error.
        flips: number of flips by file pattern.
    """

    name: str
    path: Path
    readers: dict[str, Reader]
    flips: dict[str, int]


class MessageRecorder(Silent, list[str]):
    """Records the messages of readers."""

    def message(self, text: str) -> None:
        self.append(text)


def digest(value: Any) -> str:
    """Digest of a tensor or a plain value, to compare results."""
    if isinstance(value, torch.Tensor):
        value = value.contiguous().cpu().view(torch.uint8).numpy().tobytes() if value.dim() else value.item()
    content = value if isinstance(value, bytes) else repr(value).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def run_until(trainer: Trainer, images: int) -> None:
    """Train up to ``images`` and stop as by a signal."""
    one_step = trainer._one_step

    def step_and_look() -> None:
        one_step()
        if trainer.images >= images:
            trainer.request_stop()

    trainer._one_step = step_and_look  # type: ignore[method-assign]
    trainer.run()


def sampled(path: Path, weights: str = "ema") -> str:
    return digest(load(path, "cpu", weights).sample(2, steps=2, seed=5))


def resumed(path: Path, messages: MessageRecorder) -> list[Any]:
    """Resume a copy of the run in ``path`` for two steps; training to the end would draw a preview each time."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(shutil.copytree(path, Path(scratch) / "run"))
        config = configure(None, [], None, run, True)
        trainer = Trainer(config, *split_data(config), run, observer=messages)
        assert trainer.resume(), "no checkpoint was found"
        run_until(trainer, STOPPED_AT + 50)
        state = [digest(value) for _, value in sorted(trainer.objective.model.state_dict().items())]
        state += [digest(value) for _, value in sorted(trainer.ema.average.state_dict().items())]
        return [*state, *(digest(value) for _, value in sorted(trainer.optimizers.tensors().items()))]


def reaveraged(path: Path) -> list[str]:
    found = reconstruct(path, saved_config(path).ema.posthoc.sigma_rel, 0.1)  # type: ignore[union-attr]
    return [digest(value) for _, value in sorted(found.tensors.items())]


def checked(path: Path, messages: MessageRecorder) -> str:
    """Check checkpoints as the doctor does, and record its findings."""
    for state in _checkpoints(path):
        if state.damage:
            messages.message(state.damage)
    return "checked"


def run_folder(place: Path, messages: MessageRecorder) -> Folder:
    path = place / "run"
    config = configure("ddpm-swissroll", RECIPE, None, None, False)
    trainer = Trainer(config, *split_data(config), path, observer=Silent())
    run_until(trainer, STOPPED_AT)
    write_json(
        path / "evaluation.json", with_checksum({"results": [{"metric": "frechet", "value": 0.3125, "unit": ""}]})
    )
    finding = {"severity": "note", "title": "a", "evidence": "12 of 345", "advice": ""}
    write_json(path / "doctor.json", with_checksum({"findings": [finding]}))
    readers: dict[str, Reader] = {  # fast readers first: the first error ends the check
        "report: results": lambda: [_json(path / "evaluation.json"), _findings(path / "doctor.json")],
        "report: metrics log": lambda: _metrics_log(path),
        "report: previews": lambda: [image.uri for image in previews(path / "previews")],
        "doctor: checkpoints": lambda: checked(path, messages),
        "ema": lambda: reaveraged(path),
        "sample": lambda: sampled(path),
        "sample --weights raw": lambda: sampled(path, "raw"),
        "train --resume": lambda: resumed(path, messages),
    }
    weights = {"model.safetensors": 30, "raw.safetensors": 30, "checkpoints/*/state.safetensors": 60}
    texts = {"config.json": 140, "metrics.jsonl": 50, "checkpoints/*/state.json": 40, "model_card.md": 8}
    results = {"evaluation.json": 30, "doctor.json": 30, "snapshots/*": 30, "previews/*": 30}
    return Folder("run", path, readers, {**texts, **weights, **results})


def exported_folder(run: Path, place: Path) -> Folder:
    path = place / "exported"
    export(load(run, "cpu"), path, temperature=0.9)
    readers: dict[str, Reader] = {"sample": lambda: sampled(path)}
    return Folder("exported model", path, readers, {"config.json": 60, "model.safetensors": 30, "model_card.md": 6})


def bundled_folder(place: Path) -> Folder:
    path = Path(shutil.copytree(bundled_models()["mnist-1step"], place / "mnist-1step"))
    readers: dict[str, Reader] = {
        "sample": lambda: digest(load(path, "cpu").sample(1, seed=3)),
        "models": lambda: repr(bundled("mnist-1step")),
    }
    counts = {"config.json": 60, "model.safetensors": 30, "model_card.md": 6, "samples.png": 6}
    sys.modules["undiffuse.zoo.card"].bundled_models = lambda: {"mnist-1step": path}  # type: ignore[attr-defined]
    return Folder("bundled model", path, readers, counts)


def sample_folder(place: Path) -> Folder:
    """Samples of a bundled model, read as a data set."""
    path = load(bundled_models()["mnist-1step"], "cpu").sample(12, seed=3).save(place / "samples")

    def read() -> str:
        dataset = load_dataset(FolderConfig(path=str(path)))
        return digest(dataset.fetch(range(len(dataset))).items)

    counts = {"samples.json": 60, "0*.png": 30, "grid.png": 6}
    return Folder("sample set", path, {"data": read}, counts)


def bit_of(content: bytes, number: int, rng: random.Random, text: bool) -> int:
    """A bit to flip: in text files two of three are in digits, in weight files one of four is in the header."""
    digits = [place for place, letter in enumerate(content) if text and chr(letter).isdigit()]
    header = 0 if text or content.startswith(b"\x89PNG") else 8 + int.from_bytes(content[:8], "little")
    if digits and number % 3:
        byte = rng.choice(digits)
    else:
        byte = rng.randrange(header if header and number % 4 == 0 else len(content))
    return 8 * byte + rng.randrange(8)


def read_all(readers: dict[str, Reader], messages: MessageRecorder) -> tuple[dict[str, Any], list[str], list[str]]:
    """(results up to the first reader that raises an UndiffuseError, its message, other errors)."""
    results: dict[str, Any] = {}
    refused, raw = [], []
    for name, reader in readers.items():
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results[name] = reader()
            messages.extend(str(one.message) for one in caught if issubclass(one.category, UserWarning))
        except UndiffuseError as error:
            refused.append(f"{name}: {error}")
            break
        except Exception as error:
            raw.append(f"{name}: {type(error).__name__}: {error}")
    return results, refused, raw


def outcome(
    folder: Folder, file: Path, bit: int, valid: dict[str, Any], known: set[str], messages: MessageRecorder
) -> tuple[str, str]:
    """Outcome of one flip, and its message."""
    content = file.read_bytes()
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    messages.clear()
    try:
        file.write_bytes(damaged)
        results, refused, raw = read_all(folder.readers, messages)
    finally:
        file.write_bytes(content)
    if raw:
        return "raw error", raw[0]
    differs = [name for name, value in results.items() if value != valid[name]]
    if refused:
        return "refused", refused[0]
    said = [line for line in messages if line not in known]
    if said:
        changed = [name for name in differs if name not in SHOWN]
        return ("changed", ", ".join(changed)) if changed else ("named", said[0])
    return ("silent", ", ".join(differs)) if differs else ("harmless", "")


def flip_all(
    folder: Folder, messages: MessageRecorder, share: float, rng: random.Random
) -> tuple[dict[str, Counter[str]], list[str]]:
    """Counts by file pattern, and a message for each disallowed outcome."""
    messages.clear()
    valid, refused, raw = read_all(folder.readers, messages)
    assert not refused and not raw, (refused, raw)
    known = set(messages)  # messages about the undamaged folder
    counts: dict[str, Counter[str]] = {}
    bad = []
    for pattern, wanted in folder.flips.items():
        files = sorted(folder.path.glob(pattern))
        assert files, f"{folder.path} has no {pattern}"
        counts[pattern] = Counter()
        for number in range(max(1, round(share * wanted))):
            file = files[number % len(files)]
            bit = bit_of(file.read_bytes(), number, rng, file.suffix in (".json", ".jsonl", ".md"))
            what, line = outcome(folder, file, bit, valid, known, messages)
            counts[pattern][what] += 1
            if what in BAD:
                bad.append(f"{what}: bit {bit} of {folder.name} {file.relative_to(folder.path)}: {line}")
    return counts, bad


def flips(place: Path, share: float = 1.0, seed: int = 0) -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    """Counts by folder and file pattern, and messages about disallowed outcomes.

    Args:
        place: an empty working folder.
        share: fraction of the flips of a full round.
        seed: random seed of the bits.
    """
    torch.set_num_threads(1)
    messages, rng = MessageRecorder(), random.Random(seed)
    with observing(messages):
        return _flips(place, messages, share, rng)


def _flips(
    place: Path, messages: MessageRecorder, share: float, rng: random.Random
) -> tuple[dict[str, dict[str, Counter[str]]], list[str]]:
    run = run_folder(place, messages)
    counts, bad = {}, []
    for folder in (run, exported_folder(run.path, place), bundled_folder(place), sample_folder(place)):
        counts[folder.name], found = flip_all(folder, messages, share, rng)
        bad += found
    return counts, bad


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON with the counts")
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the flips of a full round")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        counts, bad = flips(Path(place), args.share, args.seed)
    total = sum((count for files in counts.values() for count in files.values()), Counter[str]())
    record = {
        "date": time.strftime("%Y-%m-%d"),
        "undiffuse": undiffuse.__version__,
        "seed": args.seed,
        "flips": sum(total.values()),
        "total": {what: total[what] for what in ("refused", "named", "harmless", *BAD)},
        "files": {name: {file: dict(count) for file, count in files.items()} for name, files in counts.items()},
        "seconds": round(time.monotonic() - started),
    }
    text = json.dumps(record, indent=2)
    print(text, *bad, sep="\n")
    if args.out is not None:
        args.out.write_text(text + "\n", encoding="utf-8")
    if bad:
        sys.exit(1)


if __name__ == "__main__":
    main()
