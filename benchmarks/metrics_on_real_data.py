"""Every metric on sets whose order is known, its bias by the number of images, and what it costs.

    python benchmarks/metrics_on_real_data.py MNIST FASHION-MNIST --out benchmarks/metrics-on-real-data

MNIST and FASHION-MNIST are folders with the published files. MNIST's test digits must come out nearest to its training
digits, Fashion-MNIST's images further away, uniform noise furthest. By count: test digits against as many training
digits, whose distributions differ little, so what a metric says of few images is mostly its bias. The cost is that
of ``undiffuse compare`` without a cache, each run in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse.data import load_dataset, source_config_for
from undiffuse.data.dataset import ArrayDataset, Dataset
from undiffuse.evaluation import Pair, compare_sets, hardware
from undiffuse.files import write_json, write_text
from undiffuse.version import __version__

METRICS = ("frechet", "kernel", "inception_score", "precision_recall", "classes", "copying")
FEATURES = ("handwriting", "pixels")
NUM, SEED = 10_000, 0
COUNTS = (250, 500, 1000, 2500, 5000, 10_000)
TIMED = (2500, 10_000, 60_000)
#: Where a value must lie for the sets in their order; of the others the order of the three is not a matter of course.
RISING = ("frechet", "kernel", "neighbour_ratio")
COMMAND = "OMP_NUM_THREADS=2 python benchmarks/metrics_on_real_data.py MNIST FASHION-MNIST --out OUT"
COSTS_NOTE = (
    "60,000 are the training digits against themselves. Neighbours are looked for of at most 10,000 images. *load* "
    "counts the busy processes of the machine: above 2 its two cores were shared."
)
FALLING = ("precision", "recall", "coverage", "density")


def noise(num: int) -> Dataset:
    """Images of uniform noise."""
    levels = np.random.default_rng(SEED).integers(0, 256, (num, 1, 28, 28), np.uint8)
    return ArrayDataset("uniform noise", levels)


def test_file(folder: Path) -> str:
    return str(next(folder.glob("t10k-images-idx3-ubyte*")))


def orders(mnist: Path, fashion: Path, num: int) -> dict[str, Any]:
    """Results of the three sets against MNIST's training digits, by features and set."""
    real = load_dataset(source_config_for(str(mnist)))
    digits, clothes = (load_dataset(source_config_for(test_file(folder))) for folder in (mnist, fashion))
    sets = {"MNIST test": digits, "Fashion-MNIST test": clothes, "uniform noise": noise(num)}
    found: dict[str, Any] = {}
    for features in FEATURES:
        names = METRICS if features == "handwriting" else ("frechet", "kernel", "precision_recall")
        found[features] = {name: comparison(made, real, num, features, names) for name, made in sets.items()}
    names = ("lpips_diversity",)
    try:
        found["lpips"] = {name: comparison(made, real, 1000, "pixels", names) for name, made in sets.items()}
    except Exception as error:  # its weights are not part of the package
        print(f"no LPIPS: {error}", file=sys.stderr)
    return found


def comparison(made: Dataset, real: Dataset, num: int, features: str, names: tuple[str, ...]) -> dict[str, Any]:
    results = compare_sets(Pair(made, real, num, features), names)["results"]
    print(features, num, {row["metric"]: row["value"] for row in results}, flush=True)
    return {row["metric"]: {key: row[key] for key in ("value", "uncertainty")} for row in results}


def by_count(mnist: Path, num: int) -> dict[str, Any]:
    """Test digits against as many training digits."""
    real, made = (load_dataset(source_config_for(str(place))) for place in (mnist, test_file(mnist)))
    names = ("frechet", "kernel", "inception_score", "precision_recall")
    return {str(count): comparison(made, real, count, "handwriting", names) for count in COUNTS if count <= num}


def costs(mnist: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of a comparison, in a fresh process for each count."""
    rows = []
    for count in TIMED:
        command = [sys.executable, __file__, str(mnist), str(mnist), "--timed", str(count)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    return rows


def timed(mnist: Path, count: int) -> dict[str, Any]:
    """Training digits (at most ``count``) against training digits of the same number; the loading is not counted."""
    real = load_dataset(source_config_for(str(mnist)))
    made = real if count > NUM else load_dataset(source_config_for(test_file(mnist)))
    before = peak_mib()
    started = time.perf_counter()
    cpu = time.process_time()
    compare_sets(Pair(made, real, count, "handwriting"), METRICS)
    return {
        "num": count,
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "peak_mib": peak_mib(),
        "mib_before": before,
        "load": round(os.getloadavg()[0], 1),
    }


def peak_mib() -> int:
    """The most memory that this process has held; a child's ``ru_maxrss`` starts from its parent's, VmHWM does not."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    found = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return round((found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def misplaced(found: dict[str, Any]) -> list[str]:
    """Metrics whose values are not in the order of the sets."""
    wrong = []
    for features, sets in found.items():
        for metric in next(iter(sets.values())):
            values = [results[metric]["value"] for results in sets.values()]
            falling = metric in FALLING and values != sorted(values, reverse=True)
            if falling or (metric.startswith(RISING) and values != sorted(values)):
                wrong.append(f"{metric} over {features}")
    return wrong


def cell(result: dict[str, Any] | None) -> str:
    if result is None or result["value"] is None:
        return ""
    error = result["uncertainty"]
    return f"{result['value']:.4g}" + (f" ± {error:.1g}" if error else "")


def table(columns: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (columns, ["---"] * len(columns), *rows)]


def results_table(columns: dict[str, Any], called: list[str]) -> list[str]:
    """A row a metric, a column a set or a count."""
    metrics = dict.fromkeys(metric for results in columns.values() for metric in results)
    rows = [[f"`{metric}`", *[cell(results.get(metric)) for results in columns.values()]] for metric in metrics]
    return table(["metric", *called], rows)


def page(record: dict[str, Any]) -> str:
    lines = [
        f"# Metrics on real data, {record['date']}",
        "",
        f"`{record['command']}`. {record['hardware']}, undiffuse {record['undiffuse']}, seed {SEED} (noise). Neither",
        "distance is over Inception-v3, so neither is FID or KID. ± is one standard error.",
        "",
        f"## {record['num']:,} images against as many MNIST training digits",
    ]
    for features, sets in record["orders"].items():
        what = "1,000 images, 500 pairs" if features == "lpips" else f"Over {features} features"
        lines += ["", f"{what}:", "", *results_table(sets, list(sets))]
    wrong = record["misplaced"]
    right = "From left to right every distance rises, and precision, recall, density and coverage fall."
    lines += ["", f"Out of order: {', '.join(wrong)}." if wrong else right]
    lines += ["", "## By count: test digits against training digits, handwriting features", ""]
    lines += results_table(record["by_count"], [f"{int(count):,}" for count in record["by_count"]])
    lines += ["", "## Cost", "", f"{', '.join(METRICS)}, all of them; handwriting features, no cache, data in memory."]
    return "\n".join([*lines, "", *costs_table(record["costs"]), "", COSTS_NOTE]) + "\n"


def costs_table(rows: list[dict[str, Any]]) -> list[str]:
    keys = ("num", "seconds", "cpu_seconds", "peak_mib", "mib_before", "load")
    called = ["images a side", "seconds", "processor seconds", "peak MiB", "MiB before", "load"]
    return table(called, [[f"{row[key]:,}" for key in keys] for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mnist", type=Path)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("--out", type=Path, help="without ending: .json and .md are written")
    parser.add_argument("--num", type=int, default=NUM, help="images of each set")
    parser.add_argument("--timed", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--costs-only", action="store_true", help="measure the cost anew, keep the rest of the file")
    arguments = parser.parse_args()
    if arguments.timed is not None:
        print(json.dumps(timed(arguments.mnist, arguments.timed)))
        return
    path = arguments.out.with_suffix(".json")
    record = json.loads(path.read_text()) if arguments.costs_only else fresh(arguments)
    write_json(path, record)
    record["costs"] = costs(arguments.mnist)
    write_json(path, record)
    write_text(arguments.out.with_suffix(".md"), page(record))


def fresh(arguments: argparse.Namespace) -> dict[str, Any]:
    found = orders(arguments.mnist, arguments.fashion, arguments.num)
    return {
        "command": f"{COMMAND} --num {arguments.num}",
        "date": time.strftime("%Y-%m-%d"),
        "undiffuse": __version__,
        "torch": torch.__version__,
        "hardware": hardware(),
        "seed": SEED,
        "num": arguments.num,
        "orders": found,
        "misplaced": misplaced(found),
        "by_count": by_count(arguments.mnist, arguments.num),
    }


if __name__ == "__main__":
    main()
