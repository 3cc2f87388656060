"""Shared code of the timed benchmarks: interleaved measurements, comparison of medians, and records.

The speed of a machine varies over minutes. So every candidate is measured once per round, the order is reversed from
one round to the next, and ratios are computed within each round before their median. A record contains every
measurement, the machine, versions, seeds and the command.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from undiffuse.evaluation import hardware
from undiffuse.files import write_json

HERE = Path(__file__).parent
PACKAGES = ("undiffuse", "diffusers", "denoising-diffusion-pytorch", "ema-pytorch", "accelerate", "numpy")
#: Instruction sets that determine the speed of multiplications.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "neon", "sve")


@dataclass(frozen=True)
class Candidate:
    """One of the compared implementations.

    Args:
        name: name in tables.
        once: runs it once and returns the measurement, seconds or a rate.
        properties: further columns of its row.
    """

    name: str
    once: Callable[[], float]
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """Median, quartiles and extremes over the rounds of one candidate."""

    median: float
    quartiles: tuple[float, float]
    extremes: tuple[float, float]

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Summarise at least one value."""
        if len(values) == 1:
            return cls(values[0], (values[0],) * 2, (values[0],) * 2)
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, (low, high), (min(values), max(values)))

    def text(self, digits: str = ".3g") -> str:
        """``median (lower to upper quartile)``."""
        return f"{self.median:{digits}} ({self.quartiles[0]:{digits}} to {self.quartiles[1]:{digits}})"


Taken = dict[str, list[float]]


def take_turns(candidates: Sequence[Candidate], rounds: int, *, warm_up: int = 1) -> Taken:
    """Measure every candidate once per round; the first ``warm_up`` rounds are discarded."""
    taken: Taken = {candidate.name: [] for candidate in candidates}
    assert len(taken) == len(candidates), "two candidates have one name"
    for number in range(warm_up + rounds):
        for candidate in candidates[:: -1 if number % 2 else 1]:
            value = candidate.once()
            if number >= warm_up:
                taken[candidate.name].append(value)
            kind = "warm-up" if number < warm_up else f"round {number - warm_up + 1}"
            print(f"{kind}: {candidate.name}: {value:.4g}", file=sys.stderr, flush=True)
    return taken


def times_faster(taken: Taken, name: str, base: str) -> Summary:
    """Speed-up of ``name`` over ``base`` per round, for measurements in seconds."""
    return Summary.of([theirs / own for own, theirs in zip(taken[name], taken[base], strict=True)])


def seconds_of(work: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Seconds of ``work``, including pending GPU kernels."""
    wait(device)
    started = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device | str) -> None:
    """Synchronise with the device."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def hardware_record() -> dict[str, Any]:
    """Description of the hardware and its load."""
    return {
        "hardware": hardware(),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
        "system": platform.platform(terse=True),
    }


def cpu_name() -> str:
    """Name of the processor and its relevant instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return f"{fields.get('model name', platform.machine())}, {' '.join(f for f in _FLAGS if f in flags) or 'no flags'}"


def elsewhere(record: dict[str, Any], named: Callable[[dict[str, Any]], str]) -> Iterator[str]:
    """One line per processor that measured rows of a resumed record, other than the first processor."""
    first, found = record["machine"]["cpu"], dict[str, list[str]]()
    for row in record["rows"]:
        if (processor := row.get("cpu", first)) != first:
            found.setdefault(processor, []).append(named(row))
    for processor, names in found.items():
        yield f"- measured on {processor}: {'; '.join(sorted(set(names)))}"


def versions() -> dict[str, str]:
    """Versions of the compared packages; packages that are not installed are left out."""
    found = {"torch": torch.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command line, without folders of absolute paths."""
    words = [Path(word).name if os.sep in word and Path(word).is_absolute() else word for word in sys.argv[1:]]
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *words])


def new_record(subject: str, arguments: argparse.Namespace, **more: Any) -> dict[str, Any]:
    """The common fields of a record."""
    return {
        "subject": subject,
        "date": time.strftime("%Y-%m-%d"),
        "command": command(),
        "machine": hardware_record(),
        "versions": versions(),
        "rounds": getattr(arguments, "rounds", None),
        "seed": getattr(arguments, "seed", None),
        **more,
    }


def head(record: Mapping[str, Any], title: str) -> list[str]:
    """The first lines of a page."""
    hardware_used, found = record["machine"], record["versions"]
    version_list = ", ".join(f"{name} {version}" for name, version in found.items())
    load = hardware_used["load_average"][0]
    return [
        f"# {title}, {record['date']}",
        "",
        f"`{record['command']}`. {hardware_used['cpu']}, {hardware_used['threads']} threads, load average "
        f"{load} at the start; {version_list}.",
        "",
    ]


def grid(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    return [*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def common_options(parser: argparse.ArgumentParser, *, rounds: int = 7) -> None:
    """Add the options of all timed programs."""
    parser.add_argument("--rounds", type=int, default=rounds, help="rounds of measurements; at least 5 for a result")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch; 0 for its default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true", help="only measure this project")
    parser.add_argument("--smoke", action="store_true", help="the smallest size, to test the program")
    parser.add_argument(
        "--out", type=Path, help="path without suffix of .json and .md; by default dated, next to the program"
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, checked, with the number of threads set."""
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.rounds = 1
    if arguments.rounds < 1 or arguments.threads < 0:
        parser.error(
            f"--rounds must be at least 1 and --threads at least 0, got {arguments.rounds} and {arguments.threads}"
        )
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    return arguments


def default_out(subject: str) -> Path:
    """``benchmarks/SUBJECT_MACHINE_DATE``."""
    where = "gpu" if torch.cuda.is_available() else f"{platform.machine()}x{torch.get_num_threads()}"
    return HERE / f"{subject}_{where}_{time.strftime('%Y-%m-%d')}"


def write(record: Mapping[str, Any], page: str, out: Path | None) -> Path:
    """Write both files of a result; return their path without suffix."""
    out = out or default_out(str(record["subject"]))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out.with_name(out.name + ".json"), dict(record))
    out.with_name(out.name + ".md").write_text(page, encoding="utf-8")
    print(page)
    return out
