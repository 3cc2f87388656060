"""A GAN and a diffusion model of equal size on the same images, at equal processor seconds.

    python benchmarks/pair.py data/flowers.zip --seconds 1200 --looks 4

``dcgan-bedroom64`` (15.4 M parameters in the generator and the discriminator's 2.8 M in addition) and
``ddpm-bedroom64`` (15.0 M) are trained alternately in slices of ``--slice`` CPU seconds, so that both see the same
machine load. At each evaluation the averaged weights draw the same seeds: the generator in one evaluation, the
diffusion model by ``unipc`` in ten; the kernel distance is to the training images. Evaluation time is not counted. At
the end the sampling of 64 images is timed: of the generator, of the diffusion model in ten evaluations, and in two of
the thousand ancestral steps of its chain. Figures next to the page: the curves, and the first seeds of both.

The recipes are unchanged except for ``--overrides`` and, for such short runs, the warm-up of the diffusion model.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from interleaved import common_options, grid, head, new_record, parse, write
from quality import QualityMeasure

from undiffuse.api.configuration.runs import configure
from undiffuse.api.training import split_data
from undiffuse.images import image_of, save_png
from undiffuse.models.base import to_uint8
from undiffuse.models.request import SampleRequest
from undiffuse.training.trainer import Trainer

#: Name -> (overrides of the recipe, sampling options).
PAIR: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "dcgan-bedroom64": ((), {}),
    "ddpm-bedroom64": (("optimizer.warmup_images=4000",), {"sampler": "unipc", "steps": 10}),
}
_OFF = ("validate_every_images=0", "preview_every_images=0", "quality_every_images=0")
_SHOWN, _TIMED = 16, 64


class Run(NamedTuple):
    """One of the two trainings, and its time spent."""

    name: str
    trainer: Trainer
    spent: dict[str, float]

    def train(self, seconds: float) -> None:
        """Train for at least ``seconds`` CPU seconds."""
        begun, clock = time.process_time(), time.monotonic()
        while time.process_time() - begun < seconds:
            self.trainer._one_step()
        self.spent["processor"] += time.process_time() - begun
        self.spent["clock"] += time.monotonic() - clock

    def drawn(self, count: int, **how: Any) -> torch.Tensor:
        """Samples of seeds 0, 1, ... (N, C, H, W) uint8."""
        wanted = PAIR[self.name][1] | how
        return to_uint8(self.trainer.ema.average.sample(SampleRequest.of(seeds=range(count), **wanted)).x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, rounds=1)
    parser.add_argument("data", type=Path, help="images of at least 64 pixels")
    parser.add_argument("--seconds", type=float, default=1200, help="of the processor, of training, for each")
    parser.add_argument("--slice", type=float, default=60, help="of the processor, in turn")
    parser.add_argument("--looks", type=int, default=4)
    parser.add_argument("--num", type=int, default=200, help="samples of a look")
    parser.add_argument("--reference", type=int, default=2000, help="training images that samples are compared with")
    parser.add_argument("--features", default="efficientnet")
    parser.add_argument("--overrides", nargs="*", default=[], help="of both recipes")
    arguments = parse(parser)
    if arguments.smoke:
        arguments.seconds, arguments.slice, arguments.looks, arguments.num = 0.1, 0.1, 1, 12
        arguments.reference = 24
        arguments.overrides += ["batch_images=4"]
    record = new_record("pair", arguments, seconds=arguments.seconds, rows=[], sampling=[])
    with tempfile.TemporaryDirectory() as folder:
        runs = [begun(name, arguments, Path(folder) / name) for name in PAIR]
        measure = QualityMeasure(runs[0].trainer.loader.dataset, arguments.features, arguments.reference, "kernel")
        for look in range(1, arguments.looks + 1):
            for run in runs:
                record["rows"].append(seen(run, measure, arguments, look))
        record["sampling"] = [row for run in runs for row in timed(run)]
        record["parameters"] = {
            run.name: sum(p.numel() for p in run.trainer.objective.model.parameters()) for run in runs
        }
        out = write(record, page(record), arguments.out)
        shown = torch.cat([run.drawn(_SHOWN) for run in runs]).numpy()
    save_png(out.with_name(out.name + "_samples.png"), image_of(shown, _SHOWN))
    draw(record, out.with_name(out.name + ".png"))


def begun(name: str, arguments: argparse.Namespace, folder: Path) -> Run:
    overrides = [*_OFF, f"seed={arguments.seed}", "data.labels=none", *PAIR[name][0], *arguments.overrides]
    config = configure(name, overrides, str(arguments.data), None, False)
    return Run(name, Trainer(config, *split_data(config), folder, "cpu"), {"processor": 0.0, "clock": 0.0})


def seen(run: Run, measure: QualityMeasure, arguments: argparse.Namespace, look: int) -> dict[str, Any]:
    """Train up to this evaluation, in slices, and measure."""
    target_seconds = arguments.seconds * look / arguments.looks
    while (left := target_seconds - run.spent["processor"]) > 0:
        run.train(min(left, arguments.slice))
    found = measure(run.drawn(arguments.num))
    row = {"model": run.name, "look": look, "images": run.trainer.images, **run.spent, **found}
    row.pop("histogram", None)
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def timed(run: Run) -> list[dict[str, Any]]:
    """Seconds for 64 samples, each timed twice; for the diffusion model also two steps of its ancestral chain."""
    ways: dict[str, dict[str, Any]] = {"as above": {}}
    if run.name.startswith("ddpm"):
        ways["ancestral, 2 of its 1,000 steps"] = {"sampler": "ancestral", "steps": 2}
    rows = []
    for way, how in ways.items():
        for _ in range(2):
            clock = time.monotonic()
            run.drawn(_TIMED, **how)
        rows.append({"model": run.name, "way": way, "seconds": round(time.monotonic() - clock, 3)})
    return rows


def draw(record: dict[str, Any], path: Path) -> None:
    """Plot the kernel distance against CPU seconds, one line per model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panel = plt.subplots(figsize=(5.5, 3.6), layout="constrained")
    for name in PAIR:
        rows = [row for row in record["rows"] if row["model"] == name]
        seconds, values, errors = ([row[key] for row in rows] for key in ("processor", "kernel", "standard_error"))
        panel.errorbar(seconds, values, errors, marker="o", capsize=3, label=name)
    panel.set(xlabel="processor seconds of training", ylabel="kernel distance to the training images", ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def page(record: dict[str, Any]) -> str:
    lines = head(record, "A GAN and a diffusion model of equal size, at equal processor seconds")
    sizes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in record["parameters"].items())
    lines += [f"Parameters trained: {sizes}. Kernel distances to the training images, with standard errors.", ""]
    columns = ["model", "processor s of training", "clock s", "images seen", "kernel distance"]
    lines += grid(columns, [_row(row) for row in record["rows"]])
    lines += ["", f"Seconds for {_TIMED} samples, on the clock:", ""]
    lines += grid(["model", "way", "seconds"], [list(row.values()) for row in record["sampling"]])
    chain = next((row["seconds"] / 2 * 1000 for row in record["sampling"] if "ancestral" in row["way"]), None)
    lines += ["", f"The whole chain of 1,000 steps would take {chain:,.0f} s by that."] if chain else []
    return "\n".join([*lines, "", f"The first {_SHOWN} seeds of both, unselected, are next to this page.", ""])


def _row(row: dict[str, Any]) -> list[str]:
    seconds = [f"{row[key]:.0f}" for key in ("processor", "clock")]
    return [row["model"], *seconds, f"{row['images']:,}", f"{row['kernel']:.4f} ± {row['standard_error']:.4f}"]


if __name__ == "__main__":
    main()
