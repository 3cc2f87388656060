"""How long the program takes to say that something on its command line is wrong.

    python benchmarks/errors.py --rounds 9

Every line is a process of its own, started as the installed program starts, and they take turns. What counts is the
processor's time, user and system, which others on the machine do not take; seconds on the clock stand beside it. A line
must be answered in one line with exit code 2. A wrong name is to take less than 0.3 s.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import interleaved
from interleaved import Candidate, Summary

BOUND = 0.3
PROGRAM = "from undiffuse.__main__ import main; main()"
PYTHON = "python -c pass"
#: What is wrong with a line, and the line; ``{file}`` is one that there is, ``{full}`` a folder with something in it.
NAMES = {
    "a command": "smple mnist",
    "a study": "study sweeep mnist",
    "an option": "sample mnist --nmu 3",
    "a key as an option": "train flow-mnist --num-images 3",
    "a model": "sample mnits",
    "a model to measure": "evaluate mnits",
    "a recipe": "train flow-mnits",
    "a sampler": "sample mnist --sampler hun",
    "a sampler's option": "sample mnist --sampler ddim:et=1",
    "a class": "sample mnist --class eleven",
    "a metric": "evaluate mnist --metrics fid",
    "data": "train flow-mnist --data mnits",
    "a path of data": "doctor folder:nowhere",
    "a key of data": "data info digits size_=3",
    "a section": "train flow-mnist optimiser.name=adam",
    "a key": "train flow-mnist num_image=5",
    "a key of a row": "train flow-mnist system.network.chanels=8",
    "a row": "train flow-mnist system.process=vpsd",
}
OTHERS = {
    "help": "--help",
    "a command's help": "sample --help",
    "nothing given": "sample",
    "an option's type": "sample mnist --steps ten",
    "a value": "train flow-mnist num_images=many",
    "a value out of range": "train flow-mnist optimizer.learning_rate=-1",
    "a value of a network": "train flow-mnist system.network.channels=abc",
    "a value of a system": "train flow-mnist system.label_dropout=2",
    "a key of another row": "train flow-mnist system.network.mlp_ratio=4",
    "no images": "sample mnist -n 0",
    "--out is a file": "sample mnist --out {file}",
    "--out is not empty": "train flow-mnist --data digits --out {full}",
}


def run(line: str, folder: Path, walls: list[float]) -> float:
    """Seconds of the processor that one line takes; those on the clock are put into ``walls``."""
    words = shlex.split(line.format(file=folder / "file", full=folder / "full"))
    command = [sys.executable, "-c", "pass"] if line == PYTHON else [sys.executable, "-c", PROGRAM, *words]
    before, started = os.times(), time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    after = os.times()
    walls.append(time.perf_counter() - started)
    complaint = ended.stderr.strip()
    if ended.returncode != (0 if "--help" in line or line == PYTHON else 2) or "\n" in complaint:
        raise SystemExit(f"{line}: exit code {ended.returncode}, {complaint}")
    return after.children_user + after.children_system - before.children_user - before.children_system


def page(record: dict[str, Any]) -> str:
    """The record as a table."""
    lines = interleaved.head(record, "From a wrong command line to its answer")
    lines += [
        f"Seconds of the processor, median of {record['rounds']} rounds in turn with quartiles, and on the clock. "
        f"Load average {record['load_at_the_end']} at the end.",
        "",
    ]
    rows = []
    for what, line in record["lines"].items():
        taken = Summary.of(record["seconds"][what])
        judged = ("met" if taken.median < BOUND else "missed") if what in NAMES else ""
        clock = Summary.of(record["clock_seconds"][what]).median
        rows.append([what, f"`{line}`", taken.text(".2f"), f"{clock:.2f}", judged])
    lines += interleaved.grid(["wrong", "line", "processor", "clock", f"below {BOUND} s"], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    interleaved.common_options(parser, rounds=9)
    parser.add_argument("--names", action="store_true", help="wrong names alone")
    arguments = interleaved.parse(parser)
    lines = {"nothing: Python alone": PYTHON, **NAMES, **({} if arguments.names else OTHERS)}
    if arguments.smoke:
        lines = {what: lines[what] for what in ("nothing: Python alone", "a command", "a model")}
    record = interleaved.new_record("errors", arguments, lines=lines)
    walls: dict[str, list[float]] = {what: [] for what in lines}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "file").touch()
        (folder / "full").mkdir()
        (folder / "full" / "note.txt").touch()
        found = [Candidate(what, partial(run, line, folder, walls[what])) for what, line in lines.items()]
        record["seconds"] = interleaved.take_turns(found, arguments.rounds, warm_up=0 if arguments.smoke else 1)
    record["clock_seconds"] = {what: taken[-arguments.rounds :] for what, taken in walls.items()}
    record["load_at_the_end"] = round(os.getloadavg()[0], 2)
    interleaved.write(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
