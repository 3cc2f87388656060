"""Sampler x steps for one trained model: Fréchet distance and wall time, written as JSON and as a table.

    python benchmarks/samplers.py runs/ddpm-mnist --num 1000 --out benchmarks/samplers-ddpm-mnist
    python benchmarks/samplers.py runs/ddpm-mnist --out benchmarks/samplers-ddpm-mnist --time

Every cell draws the same seeds. Cells that are in the JSON file already are not drawn again, so an interrupted run goes
on where it was. ``--time`` then measures wall time alone: few images, the cells in turn, three rounds, the median of
each; do so on a machine that does nothing else. A ratio to the first row of the table is given with the seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from undiffuse.api.datasets.reference_data import real_data
from undiffuse.evaluation import evenly_spaced_subset, hardware
from undiffuse.files import write_json
from undiffuse.metrics import ClassAccumulator, FeatureExtractor, GroupedStatistics, frechet_estimate
from undiffuse.metrics.features import pick_features
from undiffuse.models.base import to_uint8
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model, load
from undiffuse.version import __version__

#: Samplers and the numbers of steps to try each with; a Langevin sampler spends several evaluations on a step.
FEW = (5, 10, 20, 50)
SAMPLERS: dict[str, tuple[int, ...]] = {
    "ddim": FEW,
    "heun": (3, 5, 10, 25),
    "dpmpp_2m": FEW,
    "unipc": (5, 10, 20),
    "rk45:rtol=0.1": (10,),
    "rk45:rtol=0.01": (10,),
    "ancestral": (10, 20, 50, 100),
    "euler_maruyama": (20, 50),
    "reverse_diffusion": (20, 50),
    "dpmpp_2m_sde": FEW,
    "edm:s_churn=3": (5, 10, 25),
    "pc": (10, 25),
    "annealed_langevin:corrections=2": (25,),
}
_ROUNDS, _TIMED_IMAGES = 3, 32


class Cell(NamedTuple):
    """One way to sample."""

    sampler: str
    grid: str
    steps: int

    @property
    def name(self) -> str:
        return f"{self.sampler} {self.grid} {self.steps}"


def cells(grids: list[str]) -> Iterator[Cell]:
    for grid in grids:
        for sampler, steps in SAMPLERS.items():
            yield from (Cell(sampler, grid, count) for count in steps)


def draw(model: Model, cell: Cell, num: int) -> tuple[torch.Tensor, int, float]:
    """Images, evaluations and seconds."""
    started = time.perf_counter()
    request = SampleRequest.of(seeds=range(num), sampler=cell.sampler, steps=cell.steps, grid=cell.grid, batch_size=256)
    sampled = model.module.sample(request)
    return to_uint8(sampled.x).cpu(), sampled.nfe, time.perf_counter() - started


def measure(model: Model, cell: Cell, num: int, extractor: FeatureExtractor, real: GroupedStatistics) -> dict[str, Any]:
    try:
        images, nfe, _ = draw(model, cell, num)
    except Exception as error:  # a cell that cannot be drawn is a result of its own
        return {**cell._asdict(), "error": " ".join(str(error).split())}
    estimate = frechet_estimate(GroupedStatistics.of(extractor.features(images)), real)
    tally = ClassAccumulator()
    if extractor.name != "pixels":
        tally.update(extractor.classify(images))
    return {
        **cell._asdict(),
        "nfe": nfe,
        "frechet": estimate.value,
        "standard_error": estimate.standard_error,
        "confident_share": tally.confident_share if extractor.name != "pixels" else None,
    }


def time_all(model: Model, rows: list[dict[str, Any]]) -> None:
    """Median seconds of ``_TIMED_IMAGES`` images, the cells in turn in each round."""
    seconds: dict[str, list[float]] = {}
    for _ in range(_ROUNDS):
        for row in rows:
            cell = Cell(row["sampler"], row["grid"], row["steps"])
            seconds.setdefault(cell.name, []).append(draw(model, cell, _TIMED_IMAGES)[2])
    for row in rows:
        taken = seconds[Cell(row["sampler"], row["grid"], row["steps"]).name]
        row["seconds_of_32"], row["seconds_of_each_round"] = statistics.median(taken), taken


def table(record: dict[str, Any]) -> str:
    rows = sorted(record["cells"], key=lambda row: (list(SAMPLERS).index(row["sampler"]), row["grid"], row["steps"]))
    first = rows[0].get("seconds_of_32")
    lines = [
        f"# Samplers of `{record['recipe']}`, {record['date']}",
        "",
        f"`python benchmarks/samplers.py RUN --num {record['num']}`, then `--time`. {record['hardware']}, undiffuse "
        f"{record['undiffuse']}, weights {record['weights_sha256'][:12]}. Fréchet distance over {record['features']} "
        f"features of {record['num']} samples (seeds 0 to {record['num'] - 1}) against {record['reference_images']} "
        "training images, ± its jackknife's standard error; it is not FID. Rows share their seeds, so "
        "differences are surer than the ± says. Seconds are the median of three rounds for 32 images.",
        "",
        "| sampler | grid | steps | evaluations | Fréchet | named ≥ 0.9 | seconds | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        start = f"| `{row['sampler']}` | {row['grid']} | {row['steps']} |"
        if "error" in row:
            lines.append(f"{start} failed: {row['error']} | | | | |")
            continue
        share = "" if row["confident_share"] is None else f"{100 * row['confident_share']:.1f} %"
        seconds = row.get("seconds_of_32")
        timing = "| |" if seconds is None or first is None else f"{seconds:.2f} | {seconds / first:.2f} |"
        lines.append(f"{start} {row['nfe']} | {row['frechet']:.2f} ± {row['standard_error']:.2f} | {share} | {timing}")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--grids", default="uniform", help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="without ending: .json and .md are written")
    parser.add_argument("--time", action="store_true", help="measure seconds of the cells in the JSON file")
    arguments = parser.parse_args()
    model = load(arguments.model)
    path = arguments.out.with_suffix(".json")
    record = json.loads(path.read_text()) if path.is_file() else fresh_record(model, arguments.num)
    if arguments.time:
        time_all(model, [row for row in record["cells"] if "error" not in row])
        record["hardware"] = hardware()
    else:
        fill(model, record, list(cells(arguments.grids.split(","))), path)
    write_json(path, record)
    arguments.out.with_suffix(".md").write_text(table(record), encoding="utf-8")


def fresh_record(model: Model, num: int) -> dict[str, Any]:
    return {
        "recipe": model.config["config"]["recipe"],
        "date": time.strftime("%Y-%m-%d"),
        "num": num,
        "undiffuse": __version__,
        "hardware": hardware(),
        "weights_sha256": model.weights_sha256,
        "cells": [],
    }


def fill(model: Model, record: dict[str, Any], wanted: list[Cell], path: Path) -> None:
    """Draw the cells that are not there yet; the file is written after each."""
    if record["weights_sha256"] != model.weights_sha256:
        raise SystemExit(f"{path} is about other weights; name another --out")
    done = {Cell(row["sampler"], row["grid"], row["steps"]).name for row in record["cells"]}
    extractor = pick_features("auto", model.module.shape, model.origin)
    train = real_data(model, None)[0]()
    images = evenly_spaced_subset(train, 5000)
    real = GroupedStatistics.of(extractor.features(images))
    record |= {"features": extractor.name, "reference_images": len(images)}
    for cell in wanted:
        if cell.name not in done:
            record["cells"].append(measure(model, cell, record["num"], extractor, real))
            write_json(path, record)
            print(cell.name, {key: record["cells"][-1].get(key) for key in ("nfe", "frechet", "error")}, flush=True)


if __name__ == "__main__":
    main()
