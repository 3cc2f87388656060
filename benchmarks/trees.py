"""Two trees of this repository in turn: does a step, a batch of samples or a start take longer in the second?

    git worktree add ../before before-house
    python benchmarks/trees.py ../before . --rounds 9

Each tree has a process of its own that does one thing at a time on request; they take turns, and what is compared
is the processor's seconds, which other work on the machine hardly affects, and the clock's.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

_SMALL = ("system.network.multipliers=[1,2]", "batch_images=128", "num_images=1280", "preview_every_images=0")
_GAN = ("batch_images=128", "num_images=1280", "preview_every_images=0", "quality_every_images=0")
_STEPS = 8


def work(front: str) -> None:
    """In a tree: do what comes in, a name a line, and answer with the seconds of processor and clock."""
    tasks = {
        "a step of flow-mnist on digits": _steps("flow-mnist", _SMALL),
        "a step of dcgan-mnist on digits": _steps("dcgan-mnist", _GAN),
        "16 samples of mnist": partial(_samples, "mnist", 16),
        "64 samples of mnist-1step": partial(_samples, "mnist-1step", 64),
        "undiffuse sample mnist-1step -n 16": partial(_start, front),
    }
    answers = sys.stdout
    print(json.dumps(list(tasks)), file=answers, flush=True)
    for line in sys.stdin:
        name = json.loads(line)
        before, clock = _processor(), time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            count = tasks[name]()
        spent = _processor() - before, time.perf_counter() - clock
        print(json.dumps([part / count for part in spent]), file=answers, flush=True)


def _processor() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def _steps(recipe: str, options: tuple[str, ...]) -> Callable[[], int]:
    trainer = import_module("undiffuse.training.trainer")
    config = _found("configure")(recipe, list(options), "digits", None, False)
    made = trainer.Trainer(config, *_found("split_data")(config), Path(tempfile.mkdtemp()))

    def some() -> int:
        for _ in range(_STEPS):
            made._one_step()
        return _STEPS

    return some


def _found(name: str) -> Any:
    """A function of the tree, wherever it has lain."""
    for home in ("api.configuration.runs", "api.training", "app.training"):
        with contextlib.suppress(ModuleNotFoundError, AttributeError):
            return getattr(import_module(f"undiffuse.{home}"), name)
    raise LookupError(name)


def _samples(name: str, count: int) -> int:
    import_module("undiffuse").load(name, "cpu").sample(count)
    return 1


def _start(front: str) -> int:
    module, _, name = front.partition(":")
    program = f"import sys; sys.argv[0] = 'undiffuse'; from {module} import {name} as main; sys.exit(main())"
    words = ["sample", "mnist-1step", "-n", "16", "--device", "cpu", "--out", f"{tempfile.mkdtemp()}/out"]
    subprocess.run([sys.executable, "-c", program, *words], check=True, capture_output=True)
    return 1


class Tree:
    """A checkout and the process that works there."""

    def __init__(self, root: Path, threads: int) -> None:
        front = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["undiffuse"]
        environment = {**os.environ, "PYTHONPATH": str(root.resolve() / "src"), "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, str(Path(__file__).resolve()), "--work", front]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=tempfile.mkdtemp()
        )
        self.tasks: list[str] = self._answer()

    def measured(self, task: str) -> tuple[float, float]:
        """Seconds of the processor and of the clock."""
        assert self.process.stdin is not None
        print(json.dumps(task), file=self.process.stdin, flush=True)
        processor, clock = self._answer()
        return processor, clock

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        return work(sys.argv[2])
    import interleaved

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs=2, help="the checkout before and the one after")
    interleaved.common_options(parser, rounds=9)
    args = interleaved.parse(parser)
    trees = {name: Tree(root, args.threads or 1) for name, root in zip(("before", "after"), args.trees, strict=True)}
    record = interleaved.new_record("trees", args, rows=[])
    for task in trees["before"].tasks[: 1 if args.smoke else None]:
        clocks: dict[str, list[float]] = {name: [] for name in trees}

        def once(name: str, task: str = task, clocks: dict[str, list[float]] = clocks) -> float:
            processor, clock = trees[name].measured(task)
            clocks[name].append(clock)
            return processor

        candidates = [interleaved.Candidate(name, partial(once, name)) for name in trees]
        taken = interleaved.take_turns(candidates, args.rounds)
        record["rows"].append({"task": task, "processor_seconds": taken, "clock_seconds": clocks})
    print(interleaved.write(record, page(record), args.out))


def page(record: dict[str, Any]) -> str:
    """The table of a record."""
    import interleaved

    rows = []
    for row in record["rows"]:
        taken = row["processor_seconds"]
        before, after = (interleaved.Summary.of(taken[name]) for name in ("before", "after"))
        ratio = interleaved.Summary.of([b / a for b, a in zip(taken["after"], taken["before"], strict=True)])
        least = min(taken["after"]) / min(taken["before"])
        said = "met" if ratio.median <= 1 else "within the rounds' spread" if ratio.quartiles[0] <= 1 else "missed"
        rows.append([row["task"], before.text(), after.text(), ratio.text(), f"{least:.3f}", said])
    columns = [
        "processor seconds of",
        "before",
        "after",
        "after / before, median of rounds",
        "of the least",
        "at most 1",
    ]
    return "\n".join([*interleaved.head(record, "Two trees in turn"), *interleaved.grid(columns, rows), ""])


if __name__ == "__main__":
    main()
