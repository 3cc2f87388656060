"""Quality against NFE of one or more trained models, from a small NFE to a thousand ancestral steps.

    python benchmarks/evaluations.py runs/flow-mnist runs/flow-fashion --out benchmarks/evaluations
    python benchmarks/evaluations.py mnist --ways default heun:5 ancestral:1000 --num 2000 --sampling-seeds 0 1 2
    python benchmarks/evaluations.py mnist mnist-2step mnist-1step --ways default --teacher mnist

Each way draws the same number of images, compared with the same reference; the seeds are disjoint for each sampling
seed and the same for all ways. A way is a sampler and its number of steps, on the model's time grid; ``default`` is the
model's default sampling. A temperature may follow an @, as in ``default@0.9``; by default the model's. Each distance is
given with its ratio to the ancestral way with the most steps of the same sampling seed, or to the ``default`` way of
``--teacher``, and the mean ratio with its 95 % interval by Student's t over the sampling seeds: the ways share their
seeds and reference, so the ratio is more precise than the distances. Images are saved in ``--work`` in chunks, so an
interrupted command, or one with ``--stop-after``, is resumed by running it again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import interleaved
import numpy as np
import torch
from quality import QualityMeasure, two_parts
from scipy.stats import t as student
from torch import Tensor

from undiffuse.api.datasets.reference_data import real_data
from undiffuse.api.loading import load
from undiffuse.core.limits import check_temperature
from undiffuse.errors import UsageError
from undiffuse.files import write_json
from undiffuse.models.base import to_uint8
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model

WAYS = ("default", "heun:3", "heun:5", "dpmpp_2m:5", "dpmpp_2m:10", "dpmpp_2m:20", "ancestral:50", "ancestral:1000")
PIECE = 250
#: Offset between the seed ranges of sampling seeds, which are disjoint.
_APART = 1_000_000_000


@dataclass(frozen=True)
class Cell:
    """One model, way of sampling and sampling seed."""

    model: str
    way: str
    sampling_seed: int

    @property
    def folder(self) -> str:
        """Folder of its images."""
        parts = (str(part) for part in vars(self).values())
        return "-".join("".join(c if c.isalnum() or c == "+" else "_" for c in part) for part in parts)


def request_of(way: str, seeds: range) -> SampleRequest:
    """Parse ``sampler:steps``, or ``default``; sampler options precede the steps, a temperature follows an @."""
    path, marked, degree = way.partition("@")
    try:
        temperature = check_temperature(float(degree)) if marked else None
    except (ValueError, UsageError):
        raise SystemExit(f"after the @ of a way comes a temperature such as 0.9, got {way!r}") from None
    if path == "default":
        return SampleRequest.of(seeds=seeds, temperature=temperature)
    sampler, _, steps = path.rpartition(":")
    if not sampler or not steps.isdigit():
        raise SystemExit(f"a way is default or SAMPLER:STEPS such as heun:5, got {way!r}")
    return SampleRequest.of(seeds=seeds, sampler=sampler, steps=int(steps), temperature=temperature)


def identity_of(model: Model) -> dict[str, Any]:
    """What an image depends on besides its cell: the weights and the model's sampling configuration."""
    own = model.module.config.sampling
    # records of earlier versions have no temperature, which was 1
    sampling = own.model_dump_json(exclude={"temperature"} if own.temperature == 1 else None)
    both = hashlib.sha256(f"{model.weights_sha256} {sampling}".encode()).hexdigest()
    return {"weights_sha256": model.weights_sha256, "model_sha256": both, "grid": own.grid}


def pieces(model: Model, cell: Cell, num: int, work: Path, deadline: float) -> tuple[Tensor, int] | None:
    """All images of a cell and their NFE; missing images are drawn; ``None`` if time ran out."""
    parts, nfe, folder = [], 0, work / cell.folder / identity_of(model)["model_sha256"][:12]
    folder.mkdir(parents=True, exist_ok=True)
    first = cell.sampling_seed * _APART
    for start in range(0, num, PIECE):
        seeds = range(first + start, first + min(start + PIECE, num))
        path = folder / f"{start:06d}-{len(seeds)}.npz"
        if not path.is_file():
            if time.monotonic() >= deadline:
                return None
            sampled = model.module.sample(condition(model, request_of(cell.way, seeds)))
            partial = path.with_suffix(".tmp.npz")
            np.savez(partial, pictures=to_uint8(sampled.x).cpu().numpy(), nfe=sampled.nfe)  # data
            partial.replace(path)
        with np.load(path) as kept:
            parts.append(torch.from_numpy(kept["pictures"]))  # data
            nfe = int(kept["nfe"])
    return torch.cat(parts), nfe


def condition(model: Model, request: SampleRequest) -> SampleRequest:
    """The request cycling through all classes, for a model with classes."""
    names = model.classes_of(None, len(request.seeds))
    return replace(request, cond=model.condition(names))


def measure_of(model: Model, arguments: argparse.Namespace) -> QualityMeasure:
    """Quality measure with the model's training data, or the training split of ``--data``."""
    data = arguments.data
    train = two_parts(data)[0] if data is not None else real_data(model, None)[0]()
    return QualityMeasure(train, arguments.features, arguments.reference, arguments.metric)


def fill(arguments: argparse.Namespace, record: dict[str, Any], path: Path) -> bool:
    """Measure the missing cells; return False if time ran out."""
    deadline = time.monotonic() + (arguments.stop_after or math.inf)
    for name in arguments.models:
        model = load(name, arguments.device)
        label = Path(name).name
        wanted = [Cell(label, way, seed) for seed in arguments.sampling_seeds for way in arguments.ways]
        missing = [cell for cell in wanted if not any(same(cell, row, model) for row in record["rows"])]
        measure = measure_of(model, arguments) if missing else None
        for cell in missing:
            drawn = pieces(model, cell, arguments.num, arguments.work, deadline)
            if drawn is None:
                print("interrupted; run the same command again to resume")
                return False
            assert measure is not None
            identity = {**identity_of(model), "features": measure.protocol["extractor"], "cpu": interleaved.cpu_name()}
            record["rows"].append({**vars(cell), "nfe": drawn[1], **measure(drawn[0]), **identity})
            write_json(path, record)
            print(json.dumps(record["rows"][-1]), flush=True)
    return True


def same(cell: Cell, row: dict[str, Any], model: Model) -> bool:
    """Whether a row belongs to a cell; all rows of a model must have the same weights and sampling configuration."""
    if row["model"] != cell.model:
        return False
    for key, value in identity_of(model).items():
        if row.get(key) != value:
            raise SystemExit(f"{cell.model} has {key} {value} now, its rows {row.get(key)}; name another --out")
    return all(row[key] == value for key, value in vars(cell).items())


def page(record: dict[str, Any]) -> str:
    """The record as one table per model."""
    lines = interleaved.head(record, "Quality against evaluations")
    distance, teacher = "Fréchet" if metric_of(record) == "frechet" else "Kernel", record.get("teacher")
    lines += [
        f"{record['num']} images a cell. {distance} distances are over the features that the rows of the record name "
        "and, unless those are inception, neither FID nor KID; mean and range over the sampling seeds. The ratio is to "
        f"{'the row that says 1' if teacher is None else f'`default` of `{teacher}`'}, of the same sampling seed, with "
        "its interval of 95 % by Student's t over them (none with one).",
    ]
    for model in dict.fromkeys(row["model"] for row in record["rows"]):
        lines += ["", f"## {model}", ""]
        columns = ["way", "NFE", "seeds", distance, "± standard error", "named ≥ 0.9", "ratio"]
        lines += interleaved.grid(columns, list(lines_of(record, model)))
    lines += ["", *interleaved.elsewhere(record, lambda row: f"{row['model']}, sampling seed {row['sampling_seed']}")]
    return "\n".join(lines) + "\n"


def protocol(arguments: argparse.Namespace) -> dict[str, Any]:
    """Settings common to all rows of a record."""
    return {key: getattr(arguments, key) for key in ("num", "metric", "features", "reference")}


def check_same(record: dict[str, Any], arguments: argparse.Namespace, path: Path) -> None:
    """Check that a record was measured with the same settings; settings that it lacks are not checked."""
    for key, value in protocol(arguments).items():
        if record.get(key, value) != value:
            raise SystemExit(f"the rows of {path} have {key} {record[key]}, not {value}; name another --out")


def metric_of(record: dict[str, Any]) -> str:
    """Name of the distance of its rows."""
    return str(record.get("metric", "frechet"))


def lines_of(record: dict[str, Any], model: str) -> Iterator[list[str]]:
    """One line per way, smallest NFE first."""
    metric = metric_of(record)
    digits = ".3f" if metric == "frechet" else ".5f"
    rows = [row for row in record["rows"] if row["model"] == model]
    ways = sorted({row["way"]: row["nfe"] for row in rows}.items(), key=lambda item: item[1])
    base = next((way for way, _ in reversed(ways) if way.startswith("ancestral")), ways[-1][0])
    reference = (model, base) if record.get("teacher") is None else (record["teacher"], "default")
    distances = {(row["model"], row["way"], row["sampling_seed"]): row[metric] for row in record["rows"]}
    for way, nfe in ways:
        own = [row for row in rows if row["way"] == way]
        values = [row[metric] for row in own]
        seeds = [row["sampling_seed"] for row in own if (*reference, row["sampling_seed"]) in distances]
        shares = [row["confident_share"] for row in own if "confident_share" in row]
        yield [
            f"`{way}`",
            str(nfe),
            str(len(own)),
            f"{statistics.mean(values):{digits}} ({min(values):{digits}} to {max(values):{digits}})",
            f"{statistics.mean(row['standard_error'] for row in own):{digits}}",
            f"{100 * statistics.mean(shares):.1f} %" if shares else "",
            interval([distances[model, way, seed] / distances[*reference, seed] for seed in seeds]),
        ]


def interval(ratios: list[float]) -> str:
    """Mean and its 95 % interval over n values."""
    if len(ratios) < 2:
        return f"{ratios[0]:.3f}" if ratios else ""
    half = float(student.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / math.sqrt(len(ratios))
    return f"{statistics.mean(ratios):.3f} ± {half:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="runs, model folders or bundled models")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="default or SAMPLER:STEPS, then perhaps @0.9")
    parser.add_argument("--teacher", help="of the models, whose default way all ratios are to")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--sampling-seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, help="MNIST-format files, where the model's own are not at hand")
    parser.add_argument("--features", default="auto", help="as of undiffuse evaluate")
    parser.add_argument(
        "--metric", choices=("frechet", "kernel"), default="frechet", help="kernel for fewer images than features"
    )
    parser.add_argument("--reference", type=int, default=10_000, help="training images of the distance")
    parser.add_argument("--stop-after", type=float, help="seconds, then go on with the same command")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-evaluations"), help="where images are kept")
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser)
    arguments = interleaved.parse(parser)
    if arguments.smoke:
        arguments.ways, arguments.num, arguments.sampling_seeds = ["dpmpp_2m:2", "ancestral:3"], 250, [0]
        arguments.reference, arguments.teacher = 250, None
    for way in arguments.ways:
        request_of(way, range(0))
    out = arguments.out or interleaved.default_out("evaluations")
    path = out.with_name(out.name + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    teacher = Path(arguments.teacher).name if arguments.teacher is not None else None
    if teacher is not None and ("default" not in arguments.ways or arguments.teacher not in arguments.models):
        raise SystemExit(f"--teacher {arguments.teacher} must be one of the models, and default one of the ways")
    new_record = interleaved.new_record("evaluations", arguments, **protocol(arguments), rows=[])
    record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else new_record
    check_same(record, arguments, path)
    if teacher is not None:
        record["teacher"] = teacher
    if fill(arguments, record, path):
        interleaved.write(record, page(record), out)


if __name__ == "__main__":
    main()
