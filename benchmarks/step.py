"""A training step and a sampling evaluation against diffusers and denoising-diffusion-pytorch, at equal networks.

    make bench-setup
    .venv-bench/bin/python benchmarks/step.py --case small --case ho
    .venv-bench/bin/python benchmarks/step.py --case small --compile

``small`` is a U-Net of 1.6 million parameters on 28x28 grey images, ``ho`` the 35.7 million of Ho et al. 2020 on
32x32 colour. diffusers' ``UNet2DModel`` has the same layers and the same number of weights, and multiplies as often;
denoising-diffusion-pytorch has only its own architecture, at the nearest number of parameters. A training step is all
that each one's own trainer does for a batch: draw, forward, backward, gradient norm, optimizer, average. Sampling is
DDIM through each one's own loop, divided by evaluations. Each has a process of its own. This project's own network of
the recipe, another one, has a row of its own; so has what the machine can do at best, measured in the same rounds.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import interleaved
import numpy as np
import torch
from apart import Apart
from cost import BF16_CEILING, FP32_CEILING, TRAINING, ceilings, forward_flops
from interleaved import Candidate, Summary
from learners import DDP, Diffusers, Learner, Ours, Setting, matching_parameters
from peers import DDP as DDP_NAME
from peers import DIFFUSERS, num_parameters, wanted

from undiffuse.data.dataset import ArrayDataset
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes import get_recipe
from undiffuse.training.config import OptimizerConfig, RunConfig

BASE, COMPILED = f"{DIFFUSERS}, fp32", ", compiled"


@dataclass(frozen=True)
class Case:
    """One size of network and images.

    Args:
        shape: of an image.
        network: that all but denoising-diffusion-pytorch have.
        batch_images: of a training step.
        recipe: whose own network and optimizer are measured too.
    """

    shape: tuple[int, int, int]
    network: UNetConfig
    batch_images: int
    recipe: str | None = None


def _small(channels: int) -> UNetConfig:
    return UNetConfig(
        channels=channels, multipliers=(1, 2, 2), num_blocks=2, time_injection="add", norm_groups=channels // 4
    )


CASES = {
    "small": Case((1, 28, 28), _small(32), 64, "flow-mnist"),
    "ho": Case((3, 32, 32), UNetConfig.ho_cifar10(), 16),
    "smoke": Case((1, 8, 8), _small(8), 2),
}
Make = Callable[[Setting, Path], Learner]


def our_config(case: Case, precision: str, *, own: bool = False) -> RunConfig:
    """Flow matching with the case's network and Adam, or the recipe's own network and optimizer."""
    config = get_recipe(case.recipe if own and case.recipe else "flow-mnist")
    if own:
        return config.model_copy(update={"batch_images": case.batch_images, "micro_batch_images": None})
    system = config.system.model_copy(update={"network": case.network, "precision": precision})
    optimizer = OptimizerConfig(name="adam", learning_rate=1e-4)
    update = {"system": system, "optimizer": optimizer, "batch_images": case.batch_images}
    return config.model_copy(update=update)


def makers(case: Case, peers: set[str], compiled: bool) -> dict[str, Make]:
    """What is compared, by name; none is built before it is asked for."""
    batch, found = case.batch_images, dict[str, Make]()
    size = matching_parameters(case.network, case.shape)

    def diffusers(setting: Setting, folder: Path) -> Learner:
        return Diffusers(setting, case.network, batch_images=batch)

    def ddp(setting: Setting, folder: Path) -> Learner:
        return DDP(setting, size, batch_images=batch)

    def ours(setting: Setting, folder: Path, precision: str = "bf16", own: bool = False) -> Learner:
        return Ours(our_config(case, precision, own=own), setting, folder)

    if DIFFUSERS in peers:
        found[BASE] = diffusers
        found[f"{DIFFUSERS}, bf16 autocast"] = autocast(diffusers)
        if compiled:
            found[f"{DIFFUSERS}, fp32{COMPILED}"] = compiling(diffusers)
            found[f"{DIFFUSERS}, bf16 autocast{COMPILED}"] = compiling(autocast(diffusers))
    if DDP_NAME in peers:
        found[f"{DDP_NAME}, fp32"] = ddp
    found["undiffuse, fp32"] = partial(ours, precision="fp32")
    found["undiffuse, bf16"] = ours
    if compiled:
        found[f"undiffuse, bf16{COMPILED}"] = compiling(ours)
    if case.recipe is not None:
        found[f"undiffuse, recipe {case.recipe}"] = partial(ours, own=True)
    return found


def chosen(case: Case, peers: set[str], arguments: argparse.Namespace) -> list[str]:
    """Names of the rows to measure: all, or those asked for and what a compiled one is a compiled copy of."""
    there = list(makers(case, peers, arguments.compile))
    if unknown := sorted(set(arguments.rows or ()) - set(there)):
        raise SystemExit(f"no row {', '.join(map(repr, unknown))}; here are: {'; '.join(there)}")
    args = {*arguments.rows, *map(eager, arguments.rows)} if arguments.rows else set(there)
    return [name for name in there if name in args]


def eager(name: str) -> str:
    """The row of the same network before it was compiled, whose work can be counted."""
    return name.removesuffix(COMPILED)


def autocast(make: Make) -> Make:
    """The same in bfloat16."""
    return lambda setting, folder: make(replace(setting, autocast=True), folder)


def compiling(make: Make) -> Make:
    """The same, compiled."""
    return lambda setting, folder: make(replace(setting, compile=True), folder)


def noise_images(shape: tuple[int, ...], count: int = 512) -> ArrayDataset:
    """Random images: what is learned does not matter here."""
    return ArrayDataset("noise", np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8))


def built(case: Case, peers: set[str], compiled: bool, name: str, setting: Setting, folder: Path) -> Learner:
    """One of ``makers``, in the process that it is measured in."""
    return makers(case, peers, compiled)[name](setting, folder)


@torch.no_grad()
def facts_of(learner: Learner) -> dict[str, Any]:
    """Size and work of the network."""
    denoiser = learner.denoiser()
    x = torch.zeros(1, *learner.data.shape, device=next(learner.network().parameters()).device)
    t = torch.full((1,), 0.5, dtype=torch.float64, device=x.device)
    flops = forward_flops(lambda: denoiser(x, t))
    size = num_parameters(learner.network())
    return {"parameters": size, "forward_flops": flops, "flops": flops, "images": learner.batch_images}


def step_properties(properties: dict[str, Any]) -> dict[str, Any]:
    """Of a training step, by those of an evaluation."""
    return properties | {"flops": TRAINING * properties["forward_flops"]}


def train(learner: Learner, steps: int, device: str) -> float:
    """Seconds a step."""

    def work() -> None:
        for _ in range(steps):
            learner.step()

    return interleaved.seconds_of(work, device) / steps


def draw(learner: Learner, images: int, evaluations: int, device: str) -> float:
    """Seconds an evaluation of all these images."""
    return interleaved.seconds_of(lambda: learner.sample_own_way(images, 0, evaluations), device) / evaluations


def measure(case: Case, arguments: argparse.Namespace) -> dict[str, Any]:
    """All of one case, training in turns and then sampling in turns, each candidate in a process of its own."""
    device, peers = arguments.device, wanted(arguments.no_peers)
    steps, images, evaluations = arguments.steps, arguments.images, arguments.evaluations
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_ones:
        setting = Setting(noise_images(case.shape), arguments.seed, device=device)
        learners = {
            name: open_ones.enter_context(Apart(built, case, peers, arguments.compile, name, setting, Path(scratch)))
            for name in chosen(case, peers, arguments)
        }
        found = {name: learner(facts_of) for name, learner in learners.items() if name == eager(name)}
        trained = [
            Candidate(name, partial(learner, train, steps, device), step_properties(found[eager(name)]))
            for name, learner in learners.items()
        ]
        drawn = [
            Candidate(
                name, partial(learner, draw, images, evaluations, device), found[eager(name)] | {"images": images}
            )
            for name, learner in learners.items()
        ]
        warm_up = 0 if arguments.smoke else 2 if arguments.compile else 1
        top = ceilings(device, arguments.smoke)
        return {
            kind: {
                "facts": {c.name: c.properties for c in group},
                "seconds": interleaved.take_turns([*group, *top], arguments.rounds, warm_up=warm_up),
            }
            for kind, group in (("training step", trained), ("sampling evaluation", drawn))
        }


def rows_of(found: dict[str, Any]) -> list[list[str]]:
    """One line a candidate: size, seconds, rate, ratio, share of the ceiling."""
    seconds, rows = found["seconds"], []
    ceiling = 1e12 / Summary.of(seconds[BF16_CEILING]).median
    for name, properties in found["facts"].items():
        taken = Summary.of(seconds[name])
        rate = properties["images"] / taken.median
        ratio = interleaved.times_faster(seconds, name, BASE).text(".2f") if BASE in seconds else ""
        rows.append(
            [
                name,
                f"{properties['parameters'] / 1e6:.2f}M, {properties['forward_flops'] / 1e9:.2f}",
                Summary.of([1000 * value for value in seconds[name]]).text(".4g"),
                f"{rate:.4g}",
                ratio,
                f"{100 * rate * properties['flops'] / ceiling:.0f} %",
            ]
        )
    return rows


def page(record: dict[str, Any]) -> str:
    """The record as tables."""
    lines = interleaved.head(record, "Training step and sampling evaluation")
    lines += [
        f"Median of {record['rounds']} rounds in which all took turns, each in a process of its own, lower to upper "
        f"quartile in brackets; a ratio is to `{BASE}` of the same round. GFLOP are of one forward pass of an image, "
        "a training step counts three times as much. The share is of the best bf16 convolution measured in the same "
        "rounds. With a recipe's name: another network and optimizer, so no equal comparison.",
    ]
    columns = ["", "weights, GFLOP", "ms", "images/s", f"times {DIFFUSERS}", "of bf16 ceiling"]
    for name, case in record["cases"].items():
        for kind, found in case.items():
            count = next(iter(found["facts"].values()))["images"]
            tops = (
                f"{1 / Summary.of(found['seconds'][top]).median:.3g} TFLOP/s, {top}"
                for top in (BF16_CEILING, FP32_CEILING)
            )
            lines += ["", f"## `{name}`: {kind}, {count} images", "", "; ".join(tops) + ".", ""]
            lines += interleaved.grid(columns, rows_of(found))
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, action="append", help="may be given again; default: small")
    parser.add_argument("--batch", type=int, help="images a training step, instead of the case's")
    parser.add_argument("--steps", type=int, default=2, help="training steps a round")
    parser.add_argument("--images", type=int, default=64, help="drawn at a time")
    parser.add_argument("--evaluations", type=int, default=5, help="of each image drawn")
    parser.add_argument("--compile", action="store_true", help="compiled rows as well, ours and diffusers'")
    parser.add_argument("--rows", nargs="+", help="measure these rows alone, by their names in the table")
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser)
    arguments = interleaved.parse(parser)
    if arguments.smoke:
        arguments.case, arguments.images, arguments.evaluations, arguments.steps = ["smoke"], 2, 2, 1
    record = interleaved.new_record("step", arguments, cases={})
    cases = {name: CASES[name] for name in arguments.case or ["small"]}
    for case in cases.values():
        chosen(case, wanted(arguments.no_peers), arguments)  # what is asked for is there, before hours of measuring
    for name, case in cases.items():
        sized = replace(case, batch_images=arguments.batch) if arguments.batch else case
        record["cases"][name] = measure(sized, arguments)
    interleaved.write(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
