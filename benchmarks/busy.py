"""Training and sampling on a busy machine: images per second relative to the fair share of the machine.

    python benchmarks/busy.py data/mnist --competing 1 2 --rounds 5
    python benchmarks/busy.py data/mnist --competing 0 --rounds 9        on a machine without other work

Each wait policy (``compute/wait_policy.py``) runs in a separate process. They are measured alternately, alone and
together with a number of processes that only count, in reverse order every other round.

The fair share is the best rate of a policy alone in the same round, times the fraction of the cores that as many
threads get next to the counting processes: half of it with two of them, for two threads on two cores. The CPU time of
the counting processes and of ours and the load average are recorded for each measurement; other work on the machine
affects both.

``--competing 0`` only compares ``auto`` with ``spin``, which is only meaningful on a machine without other work.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from interleaved import common_options, grid, head, new_record, parse, write

WAYS = ("auto", "spin", "sleep")
WORK = ("training", "sampling")
#: Required fraction of the fair share, and of ``spin`` on a machine without other work.
BUSY, IDLE = 0.8, 0.98
COUNTING = "n = 0\nwhile True: n += 1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_options(parser, rounds=5)
    parser.add_argument("data", type=Path, help="folder of MNIST-format files")
    parser.add_argument("--recipe", default="flow-mnist")
    parser.add_argument("--competing", type=int, nargs="+", default=[2], help="numbers of counting processes")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement, at least")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--serve", choices=WORK, help=argparse.SUPPRESS)
    arguments = parse(parser)
    if arguments.serve:
        serve(arguments.data, arguments.recipe, arguments.serve)
        return
    if arguments.smoke:
        arguments.seconds, arguments.ways = 0.1, ["auto"]
    record = new_record("busy", arguments, recipe=arguments.recipe, seconds=arguments.seconds, rows=[])
    for work in WORK[:1] if arguments.smoke else WORK:
        record["rows"] += measured(arguments, work)
    write(record, page(record), arguments.out)


def measured(arguments: argparse.Namespace, work: str) -> list[dict[str, Any]]:
    """Every measurement of one kind of work."""
    rows = []
    with workers(arguments, work) as ways, counting(max(arguments.competing)) as others:
        for number in range(arguments.rounds):
            for count in dict.fromkeys([0, *arguments.competing]):
                for way in arguments.ways[:: -1 if number % 2 else 1]:
                    with running(others[:count]):
                        row = once(ways[way], arguments.seconds, others[:count])
                    rows.append({"work": work, "round": number, "beside": count, "way": way, **row})  # data
                    print(rows[-1], file=sys.stderr, flush=True)
    return rows


def once(worker: subprocess.Popen[str], seconds: float, others: Sequence[subprocess.Popen[bytes]]) -> dict[str, Any]:
    assert worker.stdin is not None and worker.stdout is not None
    load, before, started = os.getloadavg()[0], [processor_seconds(one.pid) for one in others], time.monotonic()
    worker.stdin.write(f"{seconds}\n")
    worker.stdin.flush()
    answer: dict[str, Any] = json.loads(worker.stdout.readline())
    spent = time.monotonic() - started
    theirs = [round((processor_seconds(one.pid) - was) / spent, 3) for one, was in zip(others, before, strict=True)]
    return {**answer, "others": theirs, "load": round(load, 2)}


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def workers(arguments: argparse.Namespace, work: str) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """One process per wait policy, ready to work."""
    command = [sys.executable, __file__, str(arguments.data), "--recipe", arguments.recipe, "--serve", work]
    command += ["--threads", str(arguments.threads)]
    started = {
        way: subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "UNDIFFUSE_COMPUTE": f"waiting={way}"},
        )
        for way in arguments.ways
    }
    try:
        for process in started.values():
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise SystemExit("a worker did not start; see above")
        yield started
    finally:
        for process in started.values():
            process.kill()
            process.wait()


@contextmanager
def counting(count: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Counting processes, stopped until they are resumed."""
    started = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(count)]
    try:
        for process in started:
            process.send_signal(signal.SIGSTOP)
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


@contextmanager
def running(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    for process in processes:
        process.send_signal(signal.SIGCONT)
    time.sleep(1.5 if processes else 0)  # until the load monitor has noticed them
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGSTOP)


def serve(data: Path, recipe: str, work: str) -> None:
    """Work for the number of seconds in each input line, and print the rate."""
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import split_data
    from undiffuse.models.request import SampleRequest
    from undiffuse.training.trainer import Trainer

    off = ["validate_every_images=0", "preview_every_images=0", "quality_every_images=0"]
    config = configure(recipe, off, str(data), None, False)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, *split_data(config), Path(folder), "cpu")

    def step() -> int:
        if work == "training":
            trainer._one_step()
            return config.batch_images
        trainer.ema.average.sample(SampleRequest.of(seeds=range(64), steps=2))
        return 64

    for _ in range(2):
        step()
    print("ready", flush=True)
    for line in sys.stdin:
        step()  # updates the load measurement
        images, clock, own = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - clock < float(line):
            images += step()
        spent = time.perf_counter() - clock
        own = time.process_time() - own
        print(json.dumps({"rate": round(images / spent, 2), "own": round(own / spent, 3)}), flush=True)


def shares(rows: Sequence[dict[str, Any]], threads: int, cores: int) -> dict[tuple[str, int, str], list[float]]:
    """Fraction of the fair share of each measurement with competing processes; see the module docstring."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for row in rows:
        if not row["beside"]:  # data
            continue
        idle = [one for one in rows if not one["beside"]]  # data
        alone = [one for one in idle if all(one[key] == row[key] for key in ("work", "round"))]
        fair = max(one["rate"] for one in alone) * min(1.0, cores / (threads + row["beside"]))  # data
        found.setdefault((row["work"], row["beside"], row["way"]), []).append(row["rate"] / fair)  # data
    return found


def page(record: dict[str, Any]) -> str:
    rows, threads = record["rows"], record["machine"]["threads"]
    fair = shares(rows, threads, record["machine"]["cores"])
    lines = head(record, f"Next to other work, {record['recipe']}")
    loads = [row["load"] for row in rows]
    lines += [
        f"The load average while it was measured went from {min(loads)} to {max(loads)}, these processes included."
    ]
    lines += ["", "Medians over the rounds, of the share of the fair one with its smallest and largest.", ""]
    table = []
    for work, count, way in dict.fromkeys((row["work"], row["beside"], row["way"]) for row in rows):  # data
        mine = [row for row in rows if (row["work"], row["beside"], row["way"]) == (work, count, way)]  # data
        rate, own = (statistics.median(row[key] for row in mine) for key in ("rate", "own"))
        share = fair.get((work, count, way))
        text = f"{statistics.median(share):.2f} ({min(share):.2f} to {max(share):.2f})" if share else "–"
        table.append([work, count, way, f"{rate:.1f}", f"{own:.2f}", text])
    lines += grid(["work", "competing", "way", "images/s", "own cores", "of the fair share"], table)
    return "\n".join([*lines, "", *conclusions(rows, fair), ""])


def conclusions(rows: Sequence[dict[str, Any]], fair: dict[tuple[str, int, str], list[float]]) -> Iterator[str]:
    for (work, count, way), share in fair.items():
        if way == "auto":
            middle = statistics.median(share)
            met = _met(middle >= BUSY)
            yield f"- {work} with {count} competing: {middle:.2f} of the fair share, {met} (at least {BUSY})"
    for work in dict.fromkeys(row["work"] for row in rows):
        alone = {
            way: {
                row["round"]: row["rate"]
                for row in rows
                if (row["work"], row["beside"], row["way"]) == (work, 0, way)  # data
            }
            for way in ("auto", "spin")
        }
        ratios = [rate / alone["spin"][number] for number, rate in alone["auto"].items() if number in alone["spin"]]
        if ratios and max(row["load"] for row in rows if not row["beside"]) > torch.get_num_threads() + 1:  # data
            yield f"- {work} alone: undecided, the machine had other work"
        elif ratios:
            middle = statistics.median(ratios)
            yield f"- {work} alone, auto over spin: {middle:.3f}, {_met(middle >= IDLE)} (at least {IDLE})"


def _met(is_met: bool) -> str:
    return "met" if is_met else "missed"


if __name__ == "__main__":
    main()
