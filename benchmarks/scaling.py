"""What a training step and an evaluation cost by resolution, width and batch, with slopes on logarithmic axes.

    python benchmarks/scaling.py --out benchmarks/scaling

From one network, on the CPU or a GPU, one thing is changed at a time; all sizes take turns. The slope is that of a
straight line through (log size, log seconds), with the slope of the work next to it: seconds that grow slower than the
work say that the machine was not yet busy. An evaluation is one as samples are made, in blocks of rows.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# oneDNN keeps the code that it made for 1,024 operations, of all networks here together too few; read at its first use
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384")

import interleaved
import numpy as np
import torch
from cost import TRAINING, forward_flops
from interleaved import Candidate, Summary
from learners import Ours, Setting
from step import noise_images

from undiffuse.networks.config import UNetConfig
from undiffuse.recipes import get_recipe
from undiffuse.training.config import OptimizerConfig

AXES: dict[str, tuple[int, ...]] = {
    "resolution": (16, 24, 32, 48, 64),
    "width": (16, 32, 48, 64, 96, 128),
    "batch": (1, 2, 4, 8, 16, 32, 64, 128),
}
MIDDLE = {"resolution": 32, "width": 32, "batch": 16}
SMOKE_AXES: dict[str, tuple[int, ...]] = {"resolution": (8, 16), "width": (8, 16), "batch": (1, 2)}
SMOKE_MIDDLE = {"resolution": 8, "width": 8, "batch": 2}
TRAIN, EVALUATE = "training step", "evaluation"
Size = dict[str, int]


def sizes(axes: dict[str, tuple[int, ...]], middle: Size) -> Iterator[tuple[str, int, Size]]:
    """(axis, value, everything) of each point."""
    for axis, values in axes.items():
        yield from ((axis, value, {**middle, axis: value}) for value in values)


def learner_of(size: Size, seed: int, device: str, scratch: Path) -> Ours:
    """A run with a U-Net of three levels and full resolution, attention at the coarsest."""
    config = get_recipe("flow-mnist")
    system = config.system.model_copy(update={"network": UNetConfig(channels=size["width"], num_blocks=1)})
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-4)
    update = {"system": system, "batch_images": size["batch"], "optimizer": optimizer}
    data = noise_images((3, size["resolution"], size["resolution"]), 128)
    return Ours(config.model_copy(update=update), Setting(data, seed, device=device), scratch)


def work_of(learner: Ours, size: Size, device: str) -> tuple[dict[str, Candidate], dict[str, float]]:
    """The two things that are timed, and their operations."""
    plain = learner.system.denoiser()
    sampled = copy.deepcopy(learner.system).sampling_denoiser().eval()  # weights that stay, as in sampling
    shape = learner.data.shape
    x = torch.zeros(size["batch"], *shape, device=device)
    t = torch.full((size["batch"],), 0.5, dtype=torch.float64, device=device)

    @torch.no_grad()
    def evaluate() -> None:
        sampled(x, t)

    flops = size["batch"] * forward_flops(lambda: plain(x[:1], t[:1]))
    work = {TRAIN: learner.step, EVALUATE: evaluate}
    key = " ".join(f"{axis} {value}" for axis, value in size.items())
    timed = {
        kind: Candidate(f"{kind}, {key}", lambda act=act: interleaved.seconds_of(act, device))
        for kind, act in work.items()
    }
    return timed, {TRAIN: TRAINING * flops, EVALUATE: flops}


def measure(axes: dict[str, tuple[int, ...]], middle: Size, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All points; one that stands on several axes is measured once."""
    points = list(sizes(axes, middle))
    unique = {tuple(sorted(size.items())): size for _, _, size in points}
    with tempfile.TemporaryDirectory() as scratch:
        built = {
            key: work_of(learner_of(size, arguments.seed, arguments.device, Path(scratch)), size, arguments.device)
            for key, size in unique.items()
        }
        every = [candidate for timed, _ in built.values() for candidate in timed.values()]
        taken = interleaved.take_turns(every, arguments.rounds)
    return [
        {
            "axis": axis,
            "value": value,
            "kind": kind,
            "seconds": taken[candidate.name],
            "flops": built[tuple(sorted(size.items()))][1][kind],
        }
        for axis, value, size in points
        for kind, candidate in built[tuple(sorted(size.items()))][0].items()
    ]


def slope(values: list[float], costs: list[float]) -> float:
    """Of the straight line through (log value, log cost)."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def curve(record: dict[str, Any], axis: str, kind: str) -> tuple[list[int], list[float], list[float]]:
    """Values, median seconds and operations along one axis."""
    rows = [row for row in record["rows"] if (row["axis"], row["kind"]) == (axis, kind)]
    seconds = [Summary.of(row["seconds"]).median for row in rows]
    return [row["value"] for row in rows], seconds, [row["flops"] for row in rows]


def page(record: dict[str, Any], image: str) -> str:
    """Slopes and all points."""
    lines = interleaved.head(record, "Cost by size")
    middle = ", ".join(f"{axis} {value}" for axis, value in record["middle"].items())
    lines += [
        f"A U-Net of three levels on colour images in bf16; where nothing else is said: {middle}. Median of "
        f"{record['rounds']} rounds in turn.",
        "",
        f"![seconds by size]({image})",
        "",
    ]
    rows, points = [], []
    for axis in record["axes"]:
        for kind in (TRAIN, EVALUATE):
            values, seconds, flops = curve(record, axis, kind)
            rows.append([axis, kind, f"{slope(values, seconds):.2f}", f"{slope(values, flops):.2f}"])
            points += [
                [axis, value, kind, f"{1000 * taken:.3g}", f"{work / taken / 1e9:.3g}"]
                for value, taken, work in zip(values, seconds, flops, strict=True)
            ]
    lines += interleaved.grid(["axis", "", "slope of seconds", "slope of the work"], rows)
    lines += ["", *interleaved.grid(["axis", "size", "", "ms", "GFLOP/s"], points)]
    return "\n".join(lines) + "\n"


def draw(record: dict[str, Any], path: Path) -> None:
    """Seconds by size, one panel an axis, with the slope in the legend."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    figure, panels = plt.subplots(1, len(record["axes"]), figsize=(11, 3.6), sharey=True, layout="constrained")
    for panel, axis in zip(panels, record["axes"], strict=True):
        for kind, marker in ((TRAIN, "o"), (EVALUATE, "s")):
            values, seconds, _ = curve(record, axis, kind)
            panel.loglog(values, seconds, marker=marker, label=f"{kind}, slope {slope(values, seconds):.2f}")
        panel.set(xlabel=axis, xticks=values, xticklabels=values)
        panel.xaxis.set_minor_locator(NullLocator())
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    panels[0].set_ylabel("seconds")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser, rounds=5)
    arguments = interleaved.parse(parser)
    every, middle = (SMOKE_AXES, SMOKE_MIDDLE) if arguments.smoke else (AXES, MIDDLE)
    axes = {axis: every[axis] for axis in arguments.axes}
    record = interleaved.new_record("scaling", arguments, axes=list(axes), middle=middle)
    record["rows"] = measure(axes, middle, arguments)
    out = arguments.out or interleaved.default_out("scaling")
    image = out.with_name(out.name + ".png")
    image.parent.mkdir(parents=True, exist_ok=True)
    draw(record, image)
    interleaved.write(record, page(record, image.name), out)


if __name__ == "__main__":
    main()
