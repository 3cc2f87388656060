"""Choose the guidance of a bundled model: quality and coverage by weight, everywhere or in an interval of log-SNR.

    python benchmarks/guidance.py flowers --data data/flower_photos_96_center_q92.zip --features efficientnet
    python benchmarks/guidance.py emoji --weights 1 2 3 --intervals all -2,inf --sampler unipc --steps 10

Every way draws the same seeds, all classes in turn, against the same training images. The way to ship is the one of the
smallest kernel distance among those whose coverage is not below that of guidance 1 by more than two standard errors
of their difference; where several distances lie within one standard error of the best, the smallest weight among them.
Images are saved in ``--work`` in chunks, so an interrupted command is resumed by running it again.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import interleaved
import numpy as np
import torch
from torch import Tensor

from undiffuse.api.configuration.parsing import parse_interval
from undiffuse.api.loading import load
from undiffuse.config import validate
from undiffuse.data import load_dataset, split_by_content
from undiffuse.data.dataset import Dataset
from undiffuse.evaluation import evenly_spaced_subset
from undiffuse.files import write_json
from undiffuse.metrics import GroupedStatistics, frechet_estimate, kernel_distance
from undiffuse.metrics.coverage import coverage
from undiffuse.metrics.extractor import FeatureExtractor
from undiffuse.metrics.features import pick_features
from undiffuse.models.base import to_uint8
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.training.config import RunConfig

PIECE = 100


@dataclass(frozen=True)
class Way:
    """A guidance weight, and its interval: ``all``, or ``LO,HI`` in log-SNR."""

    weight: float
    interval: str = "all"

    def request(self, seeds: range, arguments: argparse.Namespace) -> SampleRequest:
        """The request for sampling, without classes."""
        within = None if self.interval == "all" else parse_interval("--intervals", self.interval)
        return SampleRequest.of(
            seeds=seeds,
            guidance=self.weight,
            guidance_interval=within,
            sampler=arguments.sampler,
            steps=arguments.steps,
            grid=arguments.grid,
        )

    @property
    def folder(self) -> str:
        """Folder of its images."""
        return f"{self.weight:g}-{self.interval.replace(',', 'to')}"


def ways(arguments: argparse.Namespace) -> list[Way]:
    """All ways, with guidance 1 once and first."""
    guided = [weight for weight in arguments.weights if weight != 1]
    return [Way(1.0), *(Way(weight, interval) for interval in arguments.intervals for weight in guided)]


def training_part(model: Model, data: str | None) -> Dataset:
    """The model's training data, at ``data`` if they were moved."""
    config = validate(RunConfig, model.config["config"]).data
    moved = config.model_copy(update={"path": data}) if data is not None else config
    return split_by_content(load_dataset(moved), moved.validation_fraction)[0]  # type: ignore[arg-type,attr-defined]


def drawn(model: Model, way: Way, arguments: argparse.Namespace) -> tuple[Tensor, int]:
    """All images of a way (N, C, H, W) uint8 and their NFE; missing images are drawn."""
    setting = f"{arguments.sampler or 'own'}-{arguments.steps or 'own'}-{arguments.grid or 'own'}"
    folder = arguments.work / f"{model.weights_sha256[:12]}-{setting}".replace(":", "_") / way.folder
    folder.mkdir(parents=True, exist_ok=True)
    parts, nfe = [], 0
    for start in range(0, arguments.num, PIECE):
        seeds = range(start, min(start + PIECE, arguments.num))
        path = folder / f"{start:06d}-{len(seeds)}.npz"
        if not path.is_file():
            names = model.classes_of(None, len(seeds))
            request = way.request(seeds, arguments)
            sampled = model.module.sample(replace(request, cond=model.condition(names)))
            partial = path.with_suffix(".tmp.npz")
            np.savez(partial, images=to_uint8(sampled.x).cpu().numpy(), nfe=sampled.nfe)
            partial.replace(path)
        with np.load(path) as kept:
            parts.append(torch.from_numpy(kept["images"]))
            nfe = int(kept["nfe"])
    return torch.cat(parts), nfe


def measured(images: Tensor, extractor: FeatureExtractor, real: Tensor) -> dict[str, float]:
    """Distances to all real images (Fréchet if there are enough), precision and recall with as many as samples."""
    features = extractor.features(images)
    kernel = kernel_distance(features, real)
    as_many = real[torch.linspace(0, len(real) - 1, min(len(real), len(features))).round().long()]
    shares = coverage(as_many, features)
    found = {"kernel": kernel.value, "kernel_error": kernel.standard_error}
    if min(len(features), len(real)) > features.shape[1]:
        frechet = frechet_estimate(GroupedStatistics.of(features), GroupedStatistics.of(real))
        found |= {"frechet": frechet.value, "frechet_error": frechet.standard_error}
    for name in ("precision", "recall", "density", "coverage"):
        found[name], found[f"{name}_error"] = getattr(shares, name), getattr(shares, f"{name}_error")
    return {key: round(float(value), 6) for key, value in found.items()}


def real_features(train: Dataset, extractor: FeatureExtractor, arguments: argparse.Namespace) -> Tensor:
    """Features (N, D) of the reference images, cached with the samples."""
    count = min(arguments.reference, len(train))
    path = arguments.work / f"real-{train.fingerprint[:12]}-{extractor.name}-{count}.npz"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp.npz")
        np.savez(partial, features=extractor.features(evenly_spaced_subset(train, count)).numpy())
        partial.replace(path)
    with np.load(path) as kept:
        return torch.from_numpy(kept["features"])


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The way to ship, by the rule in the module docstring."""
    plain = next(row for row in rows if row["weight"] == 1)

    def covers(row: dict[str, Any]) -> bool:
        doubt = math.hypot(row["coverage_error"], plain["coverage_error"])
        return bool(row["coverage"] >= plain["coverage"] - 2 * doubt)

    fit = [row for row in rows if covers(row)]
    first = min(fit, key=lambda row: row["kernel"])
    near = [row for row in fit if row["kernel"] <= first["kernel"] + first["kernel_error"]]
    return min(near, key=lambda row: (row["weight"], row["kernel"]))


def fill(model: Model, arguments: argparse.Namespace, record: dict[str, Any], path: Path) -> None:
    """Measure the ways missing in the record."""
    have = {(row["weight"], row["interval"]) for row in record["rows"]}
    missing = [way for way in ways(arguments) if (way.weight, way.interval) not in have]
    if not missing:
        return
    train = training_part(model, arguments.data)
    extractor = pick_features(arguments.features, train.shape, train.name)
    real = real_features(train, extractor, arguments)
    record |= {"features": extractor.protocol(), "real_images": len(real)}
    for way in missing:
        images, nfe = drawn(model, way, arguments)
        record["rows"].append({**vars(way), "nfe": nfe, **measured(images, extractor, real)})
        write_json(path, record)
        print(json.dumps(record["rows"][-1]), flush=True)


def page(record: dict[str, Any]) -> str:
    """The record as a table, with the way to ship in bold."""
    chosen = best(record["rows"])
    rule = (__doc__ or "").split("\n\n")[2].split("\nImages")[0].replace("\n", " ").strip()
    lines = interleaved.head(record, f"Guidance of {record['model']}")
    lines += [f"{record['num']} samples a way, {record['real_images']} training images. {rule}", ""]
    shares = ("precision", "recall", "density", "coverage")
    has_frechet = any("frechet" in row for row in record["rows"])
    rows = []
    for row in record["rows"]:
        mark = "**" if row is chosen else ""
        numbers = [f"{row[key]:.3f} ± {row[f'{key}_error']:.3f}" for key in shares]
        kernel = f"{mark}{row['kernel']:.4f} ± {row['kernel_error']:.4f}{mark}"
        frechet = f"{row['frechet']:.1f} ± {row['frechet_error']:.1f}" if "frechet" in row else ""
        distances = [kernel, frechet] if has_frechet else [kernel]
        rows.append([f"{mark}{row['weight']:g}{mark}", row["interval"], row["nfe"], *distances, *numbers])
    names = ["kernel", "Fréchet"] if has_frechet else ["kernel"]
    lines += interleaved.grid(["guidance", "log-SNR", "evaluations", *names, *shares], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a run, a model folder or a bundled model, with classes")
    parser.add_argument("--data", help="where its data lies, if not where the run found it")
    parser.add_argument("--weights", type=float, nargs="+", default=[1, 1.5, 2, 3, 4])
    parser.add_argument("--intervals", nargs="+", default=["all"], help="all, or LO,HI in log-SNR")
    parser.add_argument("--sampler", help="the model's own by default; so are steps and grid")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--grid")
    parser.add_argument("--num", type=int, default=500)
    parser.add_argument("--features", default="auto", help="as of undiffuse evaluate")
    parser.add_argument("--reference", type=int, default=10_000, help="training images")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-guidance"), help="where images are kept")
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser)
    arguments = interleaved.parse(parser)
    if arguments.smoke:
        arguments.weights, arguments.num, arguments.reference, arguments.steps = [1, 2], 12, 24, 2
    model = load(arguments.model, arguments.device)
    label = Path(arguments.model).name
    out = arguments.out or interleaved.default_out(f"guidance-{label}")
    path = out.with_name(out.name + ".json")
    new_record = interleaved.new_record("guidance", arguments, model=label, num=arguments.num, rows=[])
    new_record |= {"weights_sha256": model.weights_sha256, "sampling": model.module.sampling_record()}
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else new_record
    for key in ("model", "num", "weights_sha256"):
        if record[key] != new_record[key]:
            raise SystemExit(f"the rows of {path} have {key} {record[key]}, not {new_record[key]}; name another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    fill(model, arguments, record, path)
    interleaved.write(record, page(record), out)


if __name__ == "__main__":
    main()
