"""Time until the program reports an error in its command line.

    python benchmarks/errors.py --rounds 9

Every command line runs in a separate process, started like the installed program, alternately. The result is CPU time,
user and system, which does not depend on other load; wall-clock seconds are given too. The error must be one line with
exit code 2. A wrong name, or a number out of range, must take less than 0.3 s; errors that need the models of the
configuration must be reported before torch is imported.
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
#: Error → command line; ``{file}`` is an existing file, ``{full}`` a folder that is not empty.
NAMES = {
    "a command": "smple mnist",
    "a study": "study sweeep mnist",
    "an option": "sample mnist --nmu 3",
    "a key as an option": "train flow-mnist --num-images 3",
    "a model": "sample mnits",
    "a model to measure": "evaluate mnits",
    "a model to fine-tune": "train --from mnits --data digits",
    "a key that a model fixes": "train --from mnist --data digits system.process=vp",
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
    "a key of another row": "train flow-mnist system.network.mlp_ratio=4",
    "a key of another process": "train flow-mnist system.process.beta_min=0.1",
    "a section of another system": "train flow-mnist system.generator.channels=8",
    "no images": "sample mnist -n 0",
    "a seed": "sample mnist --seed -1",
    "no batch": "sample mnist --batch-size 0",
    "no images in the grid": "sample mnist --shown 0",
    "no samples to measure": "evaluate mnist --num 0",
    "no images for the bound": "evaluate mnist --bound-images 0",
    "no images to compare": "compare digits digits --num 0",
    "no items to encode": "encode mnist digits --out new -n 0",
    "steps of no student": "distill mnist --steps 3",
    "no tolerance": "export mnist --out new --tune-steps 10 --tolerance 0",
    "how near": "doctor digits --near 2",
    "no workers": "data prepare digits --out new.zip --workers 0",
    "too few points": "study theory exact:rings --num 3",
    "no images to study": "study small-data --data digits --images 0",
    "an option at odds": "doctor digits --num 3",
    "nothing to train on": "train",
    "nothing to go on with": "train flow-mnist --resume",
    "--out is a file": "sample mnist --out {file}",
    "--out is not empty": "train flow-mnist --data digits --out {full}",
    "--out holds something else": "sample mnist --out {full}",
    "--out is a folder": "evaluate mnist --out {full}",
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
    "a key of a row that is changed": "train flow-mnist system.process=vp system.process.num_steps=30",
    "a row of another system": "train flow-mnist system=gan system.objective=hing",
    "a key of another system": "train flow-mnist system=gan system.process=vp",
    "a process and its times": "train ddpm-mnist system.parameterization=eps system.process=flow",
    "a process and its network": "train flow-mnist system.process=ddpm_linear",
    "keys at odds": "train flow-mnist micro_batch_images=7",
    "keys at odds, of a recipe to be chosen": "train --data digits micro_batch_images=7",
    "keys of a network at odds": "train flow-mnist system.network.num_heads=7",
    "keys of a system at odds": "train flow-mnist system.learned_variance=true",
    "an objective at odds": "train dcgan-mnist system.objective=wgan_gp",
    "a process's option": "train flow-mnist system.process=vp system.process.beta_min=30",
    "guidance without classes": "sample letters --guidance 3",
    "steps of the grid": "sample mnist --steps 0",
    "a temperature": "sample mnist --temperature -1",
    "an option of a study": "study sweep mnist num=0",
    "a value of data": "data info digits size=-1",
    "a size": "compare digits digits --size 0",
}


def run(line: str, folder: Path, walls: list[float]) -> float:
    """CPU seconds of one command line; wall-clock seconds are appended to ``walls``."""
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
    parser.add_argument("--names", action="store_true", help="only wrong names")
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
