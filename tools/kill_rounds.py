"""Kill trainings with SIGKILL at random times, resume them, and compare them bit for bit with uninterrupted runs.

    python tools/kill_rounds.py --rounds 20 --out benchmarks

Each round trains one of five kinds of run in a separate process, kills it once or twice (possibly while a killed run is
being resumed), lets it finish, and compares weights, averages, the full training state and the rows of the metrics log
with those of an uninterrupted run. The time of a kill is random over the length of an uninterrupted run; the
interrupted operation is derived from the temporary files that are left. The tables list these operations.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import pkgutil
import platform
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_POINTS = ("system.network.width=32", "system.network.num_blocks=2", "data.num_points=500", "batch_images=50")
_OFTEN = (
    *("num_images=1200", "log_every_images=100", "validate_every_images=300", "validation_images=50"),
    *("preview_every_images=400", "preview_samples=2", "checkpoint_every_images=100", "quality_every_images=0"),
)
_STUDENT = (*_OFTEN, "batch_images=50")

#: Kinds of runs, and the arguments of ``undiffuse`` that train them; TEACHER is the folder of a trained flow.
KINDS: dict[str, tuple[str, ...]] = {
    "diffusion of images, averages chosen afterwards": (
        *("train", "ddpm-digits", "system.network.channels=8", *_OFTEN, "batch_images=24", "num_images=240"),
        *("log_every_images=24", "validate_every_images=96", "checkpoint_every_images=48", "preview_every_images=0"),
        *('ema.posthoc={"snapshot_every_images": 48}', "system.network.dropout=0.1"),
    ),
    "GAN": (
        *("train", "gan-rings", *_OFTEN, "batch_images=50", "system.generator.width=32"),
        *("system.discriminator.width=32", "data.num_points=500"),
    ),
    "consistency": ("distill", "TEACHER", "--method", "consistency", "--steps", "2", *_STUDENT),
    "progressive": (
        *("distill", "TEACHER", "--method", "progressive", "--steps", "1", *_STUDENT),
        *("system.start_steps=4", "system.stage_images=400"),
    ),
    "mean flow": ("distill", "TEACHER", "--method", "mean_flow", "--steps", "1", *_STUDENT),
}
TEACHER = ("train", "flow-swissroll", *_POINTS, "num_images=5000", "preview_every_images=0", "quality_every_images=0")
#: A round fails if its run does not finish after this number of starts.
_MAX_STARTS = 20


@dataclass
class Round:
    """One run that was killed and resumed.

    Args:
        kind: kind of run.
        kills: number of kills of a running process.
        interrupted: the operation that each kill interrupted.
        mismatches: differences from the uninterrupted run.
    """

    kind: str
    kills: int = 0
    interrupted: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)


class Ground:
    """The working folder: a teacher, and an uninterrupted run of each kind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole: dict[str, tuple[Path, float]] = {}
        self._teacher = folder / "teacher"
        self._finish((*TEACHER, "--out", str(self._teacher)))
        for kind in KINDS:
            self._train_uninterrupted(kind)

    def arguments(self, kind: str, out: Path) -> list[str]:
        """Arguments of ``undiffuse`` that train this kind of run in ``out`` or resume it."""
        words = [str(self._teacher) if word == "TEACHER" else word for word in KINDS[kind]]
        return [*words, "--device", "cpu", "--out", str(out), "--resume"]

    def _train_uninterrupted(self, kind: str) -> None:
        """Train an uninterrupted run and record the seconds of its process."""
        out, begun = self.folder / f"whole-{len(self.whole)}", time.monotonic()
        self._finish(self.arguments(kind, out))
        self.whole[kind] = out, time.monotonic() - begun

    def round(self, kind: str, number: int, seed: int) -> Round:
        """Train, kill, resume, compare; several rounds may run in parallel."""
        moments, (whole, seconds) = random.Random(f"{seed} {number}"), self.whole[kind]
        found, wanted, out = Round(kind), moments.choice((1, 1, 2)), self.folder / f"round-{number}" / "run"
        log = out.with_name("log")
        out.parent.mkdir()
        for _ in range(_MAX_STARTS):
            begun = time.monotonic()
            process = started(self.arguments(kind, out), log)
            if found.kills < wanted:
                process.join(moments.uniform(0, 1.5 * seconds))  # starts are slower if several run in parallel
                self._kill(process, log, out, found)
            process.join()
            code = code_of(log)
            if code == 0 and found.kills == 0:
                shutil.rmtree(out)  # it finished before the kill: try again with an earlier kill
                seconds = min(seconds, time.monotonic() - begun)
            elif code == 0:
                found.mismatches = differing(whole, out)
                shutil.rmtree(out.parent)
                return found
            elif code is not None:
                break
        found.mismatches.append(f"did not end (exit code {code}): {log.read_text()[-500:]}")
        return found

    def _kill(self, process: BaseProcess, log: Path, out: Path, found: Round) -> None:
        process.kill()
        process.join()
        if code_of(log) is None:
            found.kills += 1
            found.interrupted.append(interrupted(out))

    def _finish(self, arguments: Sequence[str]) -> None:
        started(arguments, self.folder / "log").join()
        if code_of(self.folder / "log") != 0:
            sys.exit(f"{' '.join(arguments)}: {(self.folder / 'log').read_text()}")


def started(arguments: Sequence[str], log: Path) -> BaseProcess:
    """Start ``undiffuse`` in a process forked from a server that has already imported it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_preloaded_modules())
    _code_file(log).unlink(missing_ok=True)
    process = context.Process(target=_undiffuse, args=(list(arguments), str(log)))
    process.start()
    return process


@cache
def _preloaded_modules() -> list[str]:
    """Modules that a training imports, preloaded so that processes do not import them again."""
    import undiffuse

    others = ["torch._dynamo", "sklearn.datasets", "rich.progress", "rich.table", "PIL.PngImagePlugin"]
    found = [module.name for module in pkgutil.walk_packages(undiffuse.__path__, "undiffuse.")]
    return [*others, *(name for name in found if name.split(".")[1] not in ("studies", "reports", "diagnostics"))]


def _undiffuse(arguments: list[str], log: str) -> None:
    import torch

    from undiffuse.cli.main import main

    torch.set_num_threads(1)
    with Path(log).open("w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        try:
            main(arguments)
        except SystemExit as stop:
            _code_file(Path(log)).write_text(str(stop.code))


def _code_file(log: Path) -> Path:
    return log.with_suffix(".code")


def code_of(log: Path) -> int | None:
    """Exit code of a process that was not killed; multiprocessing loses it if threads start processes."""
    file = _code_file(log)
    return int(file.read_text()) if file.exists() else None


def interrupted(out: Path) -> str:
    """The operation that a kill interrupted, derived from the files left."""
    from undiffuse.leftovers import is_temporary

    names = [str(path.relative_to(out)) for path in out.rglob("*") if is_temporary(path)]
    for place in ("checkpoints", "snapshots", "previews"):
        if any(name.startswith(f"{place}/") for name in names):
            return f"writing into {place}/"
    if names:
        return f"writing {min(names, key=len).removeprefix('.').split('.tmp')[0].rsplit('.', 1)[0]}"
    return "between writes" if (out / "checkpoints").is_dir() else "before the first checkpoint"


def differing(one: Path, other: Path) -> list[str]:
    """Differences between two runs: weights, training state, metrics log; and leftover files."""
    states = [max((run / "checkpoints").glob("images_*")) / "state.safetensors" for run in (one, other)]
    files = [states, *([run / name for run in (one, other)] for name in ("model.safetensors", "raw.safetensors"))]
    found = [str(b) for a, b in files if a.read_bytes() != b.read_bytes()]
    names = [sorted(path.name for path in (run / "snapshots").glob("*")) for run in (one, other)]
    if names[0] != names[1] or any(
        (one / "snapshots" / name).read_bytes() != (other / "snapshots" / name).read_bytes() for name in names[0]
    ):
        found.append("snapshots")
    if rows_of(one) != rows_of(other):
        found.append("metrics.jsonl")
    left = [path.name for path in [*other.rglob(".*"), *other.parent.glob(f".{other.name}.*")]]
    return [*found, *(f"left: {name}" for name in left)]


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows of a metrics log without values that depend on the clock."""
    from undiffuse.training.metrics_log import read_metrics

    return [{key: value for key, value in row.items() if key not in ("wall", "crc32")} for row in read_metrics(run)]


def rounds(ground: Ground, each: int, seed: int, jobs: int) -> Iterator[Round]:
    """``each`` rounds of each kind, alternating, ``jobs`` in parallel."""
    tasks = [kind for _ in range(each) for kind in KINDS]
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(lambda number: ground.round(tasks[number], number, seed), range(len(tasks)))


def summary(found: Sequence[Round]) -> dict[str, Any]:
    """Counts in total and by kind."""

    def counts(part: Sequence[Round]) -> dict[str, Any]:
        what = Counter(word for one in part for word in one.interrupted)
        return {
            "rounds": len(part),
            "kills": sum(one.kills for one in part),
            "kills_during_writes": sum(count for word, count in what.items() if word.startswith("writing")),
            "interrupted": dict(sorted(what.items())),
            "rounds_that_differ": sum(bool(one.mismatches) for one in part),
        }

    return {**counts(found), "kinds": {kind: counts([one for one in found if one.kind == kind]) for kind in KINDS}}


def as_markdown(result: dict[str, Any]) -> str:
    """The summary as a page."""
    lines = [
        f"# Killed and resumed, {result['date']}",
        "",
        f"`{result['command']}` on {result['machine']}, torch {result['torch']}, {result['seconds']} seconds.",
        "Each round is a run that was killed with SIGKILL at random moments, resumed to its end, and compared bit for",
        "bit with one that was let alone: weights, averages, the whole training state, snapshots, and the rows of",
        "`metrics.jsonl` but for the clock's.",
        "",
        "| kind of run | rounds | kills | of them during a write | rounds that differ |",
        "|---|---|---|---|---|",
    ]
    for kind, row in [*result["kinds"].items(), ("all", result)]:
        keys = ("rounds", "kills", "kills_during_writes", "rounds_that_differ")
        lines.append(f"| {kind} | {' | '.join(str(row[key]) for key in keys)} |")
    lines += ["", "| what the kills interrupted | kills |", "|---|---|"]
    lines += [f"| {what} | {count} |" for what, count in result["interrupted"].items()]
    lines += ["", *(f"- {line}" for line in result["mismatches"])] if result["mismatches"] else []
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each kind")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kill times")
    parser.add_argument("--jobs", type=int, default=1, help="rounds in parallel")
    parser.add_argument("--out", type=Path, help="folder for the dated results")
    requested = parser.parse_args()
    import torch

    started_at = time.monotonic()
    found: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        for one in rounds(Ground(Path(folder)), requested.rounds, requested.seed, requested.jobs):
            found.append(one)
            print(
                f"{len(found):4} {one.kind}: {', '.join(one.interrupted)}: {one.mismatches or 'the same'}", flush=True
            )
    result = {
        "date": f"{date.today():%Y-%m-%d}",
        "command": (
            f"python tools/kill_rounds.py --rounds {requested.rounds} --seed {requested.seed} --jobs {requested.jobs}"
        ),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores shared with other work",
        "torch": torch.__version__,
        "seconds": round(time.monotonic() - started_at),
        **summary(found),
        "mismatches": [f"{one.kind}: {line}" for one in found for line in one.mismatches],
    }
    print(as_markdown(result))
    if requested.out is not None:
        stem = f"kills_{platform.machine()}x{os.cpu_count()}_{result['date']}"
        (requested.out / f"{stem}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        (requested.out / f"{stem}.md").write_text(as_markdown(result), encoding="utf-8")
    sys.exit(bool(result["mismatches"]))


if __name__ == "__main__":
    main()
