"""Speed-up and cost of the fused norm: networks of three sizes with it, with torch's norms, and in float32.

    python benchmarks/norms.py --threads 1
    python benchmarks/norms.py --threads 1 --sizes small medium --ways fused layout

A training step is a forward and a backward pass of a threaded batch, an evaluation that of sampling, with weights cast
once. All times are CPU seconds of this process, and ratios are computed within a round, so other load has little
effect. The page also lists the overhead of the operator: the compilation time of a first run, and the time of a call
with very small maps. Whether bfloat16 is faster depends on the processor: without AVX512-BF16 or AMX the backend does
not use it, but these rows force it.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple
from unittest.mock import patch

import interleaved
import torch
from interleaved import Candidate, Summary
from torch import Tensor, nn

from undiffuse.compute import fused_norm
from undiffuse.compute.backend import VARIABLE
from undiffuse.compute.hardware import hardware
from undiffuse.compute.inference import InferenceNetwork
from undiffuse.compute.native import build
from undiffuse.compute.threaded_batch import ThreadedBatch
from undiffuse.core.condition import Condition
from undiffuse.core.operators import group_norm
from undiffuse.networks import UNetConfig, build_network

FUSED, LAYOUT, BF16, FP32 = "fused", "layout", "bf16", "fp32"
WAYS = {
    FUSED: "bf16, fused norm",
    LAYOUT: "bf16, torch's norms, channels last",
    BF16: "bf16, torch's norms",
    FP32: "fp32, torch's norms",
}
_OPTIONS = {FUSED: "bf16=always", LAYOUT: "bf16=always", BF16: "bf16=always,fused=off", FP32: "bf16=never"}
TRAINING, SAMPLING = "training step", "sampling evaluation"


class Size(NamedTuple):
    """A network, the shape of its images and its batch size."""

    network: UNetConfig
    shape: tuple[int, int, int]
    batch: int


def sizes(smoke: bool) -> dict[str, Size]:
    """Networks by name, the smallest first, without dropout, since others use torch's norms."""
    if smoke:
        return {"smoke": Size(_unet(8), (1, 8, 8), 2)}
    return {
        "small": Size(_unet(32), (1, 28, 28), 4),
        "medium": Size(_unet(64), (3, 32, 32), 2),
        "ho": Size(UNetConfig.ho_cifar10(dropout=0.0), (3, 32, 32), 1),
    }


def _unet(channels: int) -> UNetConfig:
    return UNetConfig(channels=channels, multipliers=(1, 2, 2), norm_groups=channels // 4)


def processor_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, including its threads and terminated child processes."""
    before = _spent()
    work()
    return _spent() - before


def _spent() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def candidates(size: Size, ways: Sequence[str]) -> dict[str, list[Candidate]]:
    """The given implementations of a training step and a sampling evaluation of one network."""
    torch.manual_seed(0)
    network = build_network(size.network, size.shape)
    x, c_noise = torch.randn(size.batch, *size.shape), torch.rand(size.batch)
    works = {TRAINING: _training(network, x, c_noise), SAMPLING: _sampling(network, x, c_noise)}
    return {task: [Candidate(WAYS[way], _timed(work, way)) for way in ways] for task, work in works.items()}


def _timed(work: Callable[[], object], way: str) -> Callable[[], float]:
    def once() -> float:
        with ExitStack() as stack:
            stack.enter_context(patch.dict(os.environ, {VARIABLE: _OPTIONS[way]}))
            if way != FP32:
                stack.enter_context(torch.autocast("cpu", dtype=torch.bfloat16))
            if way == LAYOUT:  # the backend sets the memory layout, with torch's norms
                stack.enter_context(patch.object(fused_norm._ChannelsLast, "group_norm", lambda *_: None))
            return processor_seconds(work)

    return once


def _training(network: nn.Module, x: Tensor, c_noise: Tensor) -> Callable[[], object]:
    threaded = ThreadedBatch(network)

    def step() -> None:
        out = threaded(x, c_noise, Condition())
        torch.autograd.grad(out.square().mean(), list(network.parameters()), allow_unused=True)

    return step


def _sampling(network: nn.Module, x: Tensor, c_noise: Tensor) -> Callable[[], object]:
    frozen = InferenceNetwork(network.eval())

    @torch.no_grad()
    def evaluation() -> None:
        frozen(x, c_noise, Condition())

    return evaluation


def alone_candidates() -> list[Candidate]:
    """Seconds of the forward pass of norm and SiLU only, on maps of typical size."""
    first = torch.randn(8, 64, 32, 32).to(torch.bfloat16)
    last = first.contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(64), torch.randn(64)

    def once(work: Callable[[], object]) -> float:
        with torch.no_grad():
            return processor_seconds(lambda: [work() for _ in range(_FEW_CALLS)]) / _FEW_CALLS

    return [
        Candidate("fused", partial(once, lambda: fused_norm.fused_norm(last, 16, weight, bias, 1e-5, silu=True))),
        Candidate(
            "torch's, channels first", partial(once, lambda: group_norm(first, 16, weight, bias, 1e-5, silu=True))
        ),
        Candidate("torch's, channels last", partial(once, lambda: group_norm(last, 16, weight, bias, 1e-5, silu=True))),
    ]


_CALLS, _FEW_CALLS = 300, 20


def call_candidates() -> list[Candidate]:
    """Seconds of one call with very small maps, forward and with gradients."""
    x = torch.randn(4, 32, 4, 4).to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight, bias, shift = torch.randn(32, requires_grad=True), torch.randn(32, requires_grad=True), torch.randn(4, 32)

    def forwards() -> Tensor:
        return fused_norm.fused_norm(x, 8, weight, bias, 1e-5, shift=shift, silu=True)

    def once(work: Callable[[], object], grad: bool) -> float:
        with torch.set_grad_enabled(grad):
            return processor_seconds(lambda: [work() for _ in range(_CALLS)]) / _CALLS

    def both() -> tuple[Tensor, ...]:
        out = forwards()
        return torch.autograd.grad(out, (x, weight, bias), out.detach())

    return [
        Candidate("a call, forwards", lambda: once(forwards, False)),
        Candidate("a call, forwards and backwards", lambda: once(both, True)),
    ]


def chosen(arguments: argparse.Namespace) -> dict[str, Size]:
    """The requested sizes; all by default."""
    known = sizes(arguments.smoke)
    return {name: known[name] for name in arguments.sizes or known if name in known}


def first_run() -> dict[str, float]:
    """Wall-clock and CPU seconds to compile the kernels into an empty folder."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"XDG_CACHE_HOME": folder}):
        started = time.perf_counter()
        processor = processor_seconds(lambda: build._compiled(build._command()))
        return {"clock": time.perf_counter() - started, "processor": processor}


def measured(arguments: argparse.Namespace) -> dict[str, Any]:
    """The record of all rounds."""
    if build.library() is None:
        raise SystemExit("no C++ compiler for the kernels, or not Linux on x86: nothing to measure")
    record = interleaved.new_record(
        "norms", arguments, fast_bf16=hardware("cpu").fast_bf16, first_run=first_run(), rows=[]
    )
    for name, size in chosen(arguments).items():
        count = sum(parameter.numel() for parameter in build_network(size.network, size.shape).parameters())
        for task, ways in candidates(size, arguments.ways).items():
            taken = interleaved.take_turns(ways, arguments.rounds)
            record["rows"].append({"size": name, "weights": count, "batch": size.batch, "task": task, "seconds": taken})
    record["alone"] = interleaved.take_turns(alone_candidates(), arguments.rounds)
    record["calls"] = interleaved.take_turns(call_candidates(), arguments.rounds)
    return record


def page(record: dict[str, Any]) -> str:
    """The record as Markdown."""
    lines = interleaved.head(record, "Networks with the fused norm and without")
    quick = "has" if record["fast_bf16"] else "lacks"
    lines += [
        f"Median of {record['rounds']} rounds in which all took turns, lower to upper quartile in brackets; processor",
        "seconds, ratios within a round: above 1 the first way is the faster. This processor " + quick + " products of",
        "bfloat16 that are summed in float32 by the hardware; where they lack, the backend chooses float32.",
        "",
    ]
    names = list(record["rows"][0]["seconds"])
    table = []
    for row in record["rows"]:
        taken = row["seconds"]
        ratios = [interleaved.times_faster(taken, names[0], other).text(".2f") for other in names[1:]]
        seconds = [Summary.of(taken[way]).text(".3g") for way in names]
        table.append([f"{row['size']}, {row['weights'] / 1e6:.2f} M", row["task"], row["batch"], *seconds, *ratios])
    times = [f"times {other}" for other in names[1:]]
    columns = ["network", "task", "images", *(f"s, {way}" for way in names), *times]
    lines += interleaved.grid(columns, table)
    calls = [
        [name, Summary.of([value * 1e6 for value in taken]).text(".3g")] for name, taken in record["calls"].items()
    ]
    alone = [
        [name, Summary.of([value * 1e3 for value in taken]).text(".3g")] for name, taken in record["alone"].items()
    ]
    lines += ["", *interleaved.grid(["norm and SiLU of maps (8, 64, 32, 32), bf16", "milliseconds"], alone)]
    first = record["first_run"]
    lines += ["", *interleaved.grid(["maps of 4 x 4 pixels", "microseconds"], calls), ""]
    lines += [
        f"First run: {first['processor']:.1f} s of the processor to compile ({first['clock']:.1f} s of the clock).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure and write both files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    interleaved.common_options(parser, rounds=5)
    parser.add_argument("--sizes", nargs="+", choices=[*sizes(False)], help="networks; all by default")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS], default=[*WAYS], help="ways to compute; all by default")
    arguments = interleaved.parse(parser)
    record = measured(arguments)
    interleaved.write(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
