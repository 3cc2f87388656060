"""Seconds for 64 images of 48x48 by the network of the LSUN church report: 86.8 million weights, bf16, any values.

    python benchmarks/church48.py --evaluations 10

The report took 480 s for 64 samples on an RTX 3070 laptop. How long an evaluation takes does not depend on what the
weights are, so initial weights are used, or those of ``--model``; ``evaluations.py`` measures the quality of trained
models with so few evaluations. The fraction is relative to the machine's bf16 convolution, measured alternately with
the sampling.
"""

from __future__ import annotations

import argparse
from typing import Any

import interleaved
import torch
from cost import BF16_CEILING, ceilings, forward_flops
from interleaved import Candidate, Summary
from peers import num_parameters

from undiffuse.models.base import DenoisingModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.base import ObjectiveConfig
from undiffuse.recipes import get_recipe

SHAPE = (3, 48, 48)
REPORT_SECONDS = 480
SAMPLING = "sampling"


def untrained_system(smoke: bool, seed: int) -> DenoisingModel:
    """The recipe's system with untrained weights."""
    config = get_recipe("ddpm-church48").system
    if smoke:
        config = config.model_copy(update={"network": UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1)})
    assert isinstance(config, ObjectiveConfig)
    torch.manual_seed(seed)
    system = config.build(SHAPE, ()).model
    assert isinstance(system, DenoisingModel)
    return system.eval()


def measure(system: DenoisingModel, arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each round, and the number of operations."""
    device = system.device
    denoiser = system.denoiser()
    x, t = torch.zeros(1, *system.shape, device=device), torch.full((1,), 0.5, dtype=torch.float64, device=device)
    request = SampleRequest.of(
        seeds=range(arguments.seed, arguments.seed + arguments.images),
        sampler=arguments.sampler,
        steps=arguments.evaluations,
    )
    evaluations = set[int]()

    def once() -> float:
        return interleaved.seconds_of(lambda: evaluations.add(system.sample(request).nfe), device)

    candidates = [Candidate(SAMPLING, once), *ceilings(device, arguments.smoke)]
    seconds = interleaved.take_turns(candidates, arguments.rounds, warm_up=0 if arguments.smoke else 1)
    return {
        "parameters": num_parameters(system),
        "forward_flops": forward_flops(lambda: denoiser(x, t)),
        "evaluations": evaluations.pop(),
        "seconds": seconds,
    }


def page(record: dict[str, Any]) -> str:
    """The record as a table."""
    taken, seconds = record["seconds"], Summary.of(record["seconds"][SAMPLING])
    work = record["forward_flops"] * record["images"] * record["evaluations"]
    ceiling = 1e12 / Summary.of(taken[BF16_CEILING]).median
    lines = interleaved.head(record, f"{record['images']} images of 48x48 by the church network")
    rows = [
        ["weights", f"{record['parameters'] / 1e6:.1f}M"],
        ["sampler", f"`{record['sampler']}`, {record['evaluations']} evaluations"],
        ["GFLOP an evaluation", f"{record['forward_flops'] / 1e9:.1f}"],
        ["seconds", seconds.text(".3g")],
        [
            "against the report's 480 s for 64",
            f"{REPORT_SECONDS * record['images'] / 64 / seconds.median:.2f} times faster",
        ],
        ["TFLOP/s", f"{work / seconds.median / 1e12:.3f}"],
        ["of the bf16 convolution's", f"{100 * work / seconds.median / ceiling:.0f} %"],
    ]
    return "\n".join([*lines, *interleaved.grid(["", ""], rows)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--evaluations", type=int, default=10, help="steps of the sampler; their NFE is counted")
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--model", help="a trained run of this network, instead of initial weights")
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser, rounds=5)
    arguments = interleaved.parse(parser)
    if arguments.smoke:
        arguments.images, arguments.evaluations = 2, 1
    if arguments.model:
        system = load(arguments.model, arguments.device).module
        assert isinstance(system, DenoisingModel)
    else:
        system = untrained_system(arguments.smoke, arguments.seed).to(arguments.device)
    properties = {"images": arguments.images, "sampler": arguments.sampler}
    record = interleaved.new_record("church48", arguments, **properties, **measure(system, arguments))
    interleaved.write(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
