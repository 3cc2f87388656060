"""Quality against seconds of training: this project's default recipe against diffusers and denoising-diffusion-pytorch.

    python benchmarks/learning.py rates data/mnist --out benchmarks/learning-mnist
    python benchmarks/learning.py train data/mnist --out benchmarks/learning-mnist --seeds 0 1 2
    python benchmarks/learning.py table --out benchmarks/learning-mnist

First ``rates`` measures on an idle machine the images per second of each learner, alternately. Then ``train`` trains
each on the number of images that it processes in the given minutes, regardless of the machine's load: a minute is a
minute of the idle machine without evaluation, and the actual seconds are recorded too. Learning rates decay towards the
end of a run, here and in diffusers' script, so a run of ten minutes evaluated after five is not a run of five minutes:
``--runs`` sets the lengths of the runs, each evaluated at all ``--minutes`` up to it.

Every row is written when it is measured, existing rows are not repeated, and after ``--stop-after`` seconds a run is
saved in ``--work`` and resumed by the same command. The learners are described in ``learners.py``. At each evaluation
the averaged weights draw the same number of images twice, by each learner's DDIM with 50 evaluations and by this
project's solver with 20 (its recipe's sampler, at most 20), unless ``--ways`` omits one, and predict the noise of
held-out images at equal log-SNR. ``--no-peers`` and ``--learners`` select among the entries of ``LEARNERS``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import interleaved
from interleaved import Candidate, Summary
from learners import DDP, Diffusers, Learner, Ours, OwnWayOnlyError, Setting, matching_parameters
from peers import DDP as DDP_NAME
from peers import DIFFUSERS, num_parameters, wanted
from quality import LEVELS, QualityMeasure, error_by_level, two_parts

from undiffuse.files import write_json
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes import get_recipe

#: The peers' network: at full resolution, as in their scripts, with about as many weights as our recipe's.
NETWORK = UNetConfig(channels=32, multipliers=(1, 2, 2), num_blocks=2, time_injection="add", norm_groups=8)
#: Samplers of an evaluation: each learner's DDIM, and this project's solver.
WAYS = ("own_ddim", "solver_20")
RECIPES = {"fashion": "flow-fashion", "": "flow-mnist"}
Make = Callable[[Setting, Path, str], Learner]


class Row(NamedTuple):
    """A selectable learner: the package it needs, its factory, and a note on its settings."""

    needs: str
    make: Make
    note: str


def _ours(setting: Setting, folder: Path, recipe: str) -> Learner:
    return Ours(get_recipe(recipe), setting, folder)


def _diffusers(learning_rate: float = 1e-4, batch_images: int = 16, network: UNetConfig | None = NETWORK) -> Make:
    return lambda setting, folder, recipe: Diffusers(setting, network, learning_rate, batch_images)


def _ddp(learning_rate: float = 1e-4, batch_images: int = 16) -> Make:
    return lambda setting, folder, recipe: DDP(
        setting, matching_parameters(NETWORK, setting.data.shape), learning_rate, batch_images
    )


LEARNERS = {
    "undiffuse": Row("", _ours, "the default recipe"),
    DIFFUSERS: Row(DIFFUSERS, _diffusers(), "its script's defaults, a network as large as ours"),
    DDP_NAME: Row(DDP_NAME, _ddp(), "its trainer's defaults, a network as large as ours"),
    f"{DIFFUSERS}, 1e-3": Row(DIFFUSERS, _diffusers(1e-3, 64), "ten times the learning rate, batches of 64"),
    f"{DDP_NAME}, 1e-3": Row(DDP_NAME, _ddp(1e-3, 64), "ten times the learning rate, batches of 64"),
    f"{DIFFUSERS}, own network": Row(
        DIFFUSERS, _diffusers(network=None), "its script's 114M network on images padded to 32x32"
    ),
}
DEFAULT = ("undiffuse", DIFFUSERS, DDP_NAME)


class Unit(NamedTuple):
    """One run: the learner, the seed, and its total minutes."""

    learner: str
    seed: int
    run_minutes: float

    @property
    def folder(self) -> str:
        """Folder of the run's state when interrupted."""
        name = "".join(letter if letter.isalnum() else "-" for letter in self.learner)
        return f"{name}-{self.seed}-{self.run_minutes:g}"


def recipe_for(data: Path) -> str:
    """The default recipe for this data."""
    return next(recipe for word, recipe in RECIPES.items() if word in data.name.lower())


def chosen(arguments: argparse.Namespace) -> list[str]:
    """Names of the requested learners whose packages are installed."""
    there = wanted(arguments.no_peers)
    return [name for name in arguments.learners if not LEARNERS[name].needs or LEARNERS[name].needs in there]


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {"rates": {}, "rows": []}


def measure_rates(arguments: argparse.Namespace) -> dict[str, Any]:
    """Images per second of every learner's full training step, measured alternately."""
    train, _ = two_parts(arguments.data)
    with tempfile.TemporaryDirectory() as scratch:
        made = {
            name: LEARNERS[name].make(
                Setting(train, arguments.seed, device=arguments.device), Path(scratch), recipe_for(arguments.data)
            )
            for name in chosen(arguments)
        }
        candidates = [
            Candidate(name, lambda learner=learner: rate_of(learner, arguments.seconds))
            for name, learner in made.items()
        ]
        taken = interleaved.take_turns(candidates, arguments.rounds)
        sizes = {name: num_parameters(learner.network()) for name, learner in made.items()}
    return {
        name: {"images_per_second": Summary.of(values).median, "of_each_round": values, "parameters": sizes[name]}
        for name, values in taken.items()
    }


def rate_of(learner: Learner, seconds: float) -> float:
    """Images per second over at least ``seconds`` seconds."""
    started, before = time.perf_counter(), learner.images
    while (spent := time.perf_counter() - started) < seconds or learner.images == before:
        learner.step()
    return (learner.images - before) / spent


def units(arguments: argparse.Namespace) -> Iterator[Unit]:
    """All requested runs; all learners of one seed before the next seed."""
    for minutes in arguments.runs:
        for seed in arguments.seeds:
            yield from (Unit(name, seed, minutes) for name in chosen(arguments))


def train(arguments: argparse.Namespace, path: Path) -> bool:
    """Run the missing trainings; return False if time ran out."""
    record, deadline = read(path), time.monotonic() + (arguments.stop_after or math.inf)
    parts = two_parts(arguments.data)
    measure: QualityMeasure | None = None
    for unit in units(arguments):
        looks = sorted(minutes for minutes in arguments.minutes if minutes <= unit.run_minutes)
        if all(done(record, unit, minutes) for minutes in looks):
            continue
        if unit.learner not in record["rates"]:
            raise SystemExit(f"no rate of {unit.learner!r} in {path}; run: learning.py rates first, on an idle machine")
        measure = measure or QualityMeasure(parts[0], reference=arguments.reference)
        record.setdefault("protocol", {"data": parts[0].provenance, "features": measure.protocol})
        if not one_run(arguments, unit, looks, parts, measure, path, deadline):
            return False
    return True


def done(record: dict[str, Any], unit: Unit, minutes: float) -> bool:
    """Whether this evaluation is already recorded."""
    key = (*unit, minutes)
    return any((row["learner"], row["seed"], row["run_minutes"], row["minutes"]) == key for row in record["rows"])


def one_run(
    arguments: argparse.Namespace,
    unit: Unit,
    looks: list[float],
    parts: tuple[Any, Any],
    measure: QualityMeasure,
    path: Path,
    deadline: float,
) -> bool:
    """Train one run until the deadline, with the evaluations that are due."""
    looks = [minutes for minutes in looks if not done(read(path), unit, minutes)]
    if not looks:
        return True
    rate, folder = read(path)["rates"][unit.learner]["images_per_second"], arguments.work / unit.folder
    setting = Setting(parts[0], unit.seed, images_in(unit.run_minutes, rate), arguments.device)
    learner = LEARNERS[unit.learner].make(setting, folder, recipe_for(arguments.data))
    clock, spent = folder / "seconds.json", 0.0
    learner.restore(folder)
    if learner.images > images_in(looks[0], rate):
        print(
            f"{unit.learner}, seed {unit.seed}: the saved state has seen {learner.images} images, too many; starting "
            "over"
        )
        learner = LEARNERS[unit.learner].make(setting, folder, recipe_for(arguments.data))
    elif clock.is_file():
        spent = float(json.loads(clock.read_text())["seconds"])
    for minutes in looks:
        started = time.perf_counter()
        while learner.images < images_in(minutes, rate) and time.monotonic() < deadline:
            learner.step()
        spent += time.perf_counter() - started
        if learner.images < images_in(minutes, rate):
            learner.save(folder)
            write_json(clock, {"seconds": spent})
            print(
                f"{unit.learner}, seed {unit.seed}: interrupted at {learner.images} images; run the same command "
                "again to resume"
            )
            return False
        row = look(learner, unit, measure, parts[1], arguments)
        record = read(path)  # may have been updated by parallel trainings
        record["rows"].append(
            {
                **unit._asdict(),
                **{"minutes": minutes, "images": learner.images, "seconds": round(spent, 1)},
                **{"cpu": interleaved.cpu_name(), **row},
            }
        )
        record.setdefault("protocol", {"data": parts[0].provenance, "features": measure.protocol})
        write_json(path, record)
        print(json.dumps(record["rows"][-1]), flush=True)
    learner.save(folder / "finished")  # for inspection; not used to resume
    return True


def images_in(minutes: float, rate: float) -> int:
    """Number of images in ``minutes`` of the idle machine."""
    return max(1, round(60 * minutes * rate))


def look(
    learner: Learner, unit: Unit, measure: QualityMeasure, held_out: Any, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Quality of the samples of both samplers, and the error by noise level."""
    first = unit.seed * 1_000_000  # sampling seeds are disjoint between training seeds
    found: dict[str, Any] = {}
    if "own_ddim" in arguments.ways:
        found["own_ddim"] = measure(learner.sample_own_way(arguments.num, first, arguments.evaluations))
    try:
        if "solver_20" in arguments.ways:
            found["solver_20"] = measure(learner.sample_our_way(arguments.num, first))
        found["error_by_log_snr"] = error_by_level(learner.denoiser(), held_out, arguments.held_out)
    except OwnWayOnlyError as error:
        found["note"] = str(error)
    return found


def best(row: dict[str, Any]) -> float:
    """The lowest Fréchet distance over the samplers."""
    return float(min((row[way]["frechet"] for way in WAYS if way in row), default=math.inf))


def table(record: dict[str, Any]) -> str:
    """The complete page."""
    lines = interleaved.head(record, "Quality against minutes of training")
    lines += ["Images a second of a training step, median of rounds in turn:", ""]
    rates = [
        [name, LEARNERS[name].note, f"{row['parameters'] / 1e6:.2f}M", Summary.of(row["of_each_round"]).text(".4g")]
        for name, row in record["rates"].items()
    ]
    lines += interleaved.grid(["", "", "weights", "images/s"], rates)
    lines += [
        "",
        "Medians over the seeds, the range of the seeds in brackets. Fréchet distances are over this project's "
        "classifier's features and are not FID. `e` is the squared error of the predicted noise on held-out "
        "images at that log-SNR.",
        "",
    ]
    columns = [
        "run",
        "after",
        "",
        "seeds",
        "images",
        "Fréchet, own DDIM",
        "Fréchet, solver 20",
        "named",
    ]
    lines += interleaved.grid([*columns, *(f"e({level:g})" for level in LEVELS)], list(quality_rows(record)))
    lines += [
        "",
        *crossing_lines(record),
        *interleaved.elsewhere(record, lambda row: f"{row['learner']}, seed {row['seed']}"),
    ]
    return "\n".join(lines) + "\n"


def groups(record: dict[str, Any]) -> dict[tuple[float, float, str], list[dict[str, Any]]]:
    """Rows of all seeds by (run, minutes, learner)."""
    found: dict[tuple[float, float, str], list[dict[str, Any]]] = {}
    for row in sorted(record["rows"], key=lambda row: (row["run_minutes"], row["minutes"])):
        found.setdefault((row["run_minutes"], row["minutes"], row["learner"]), []).append(row)
    return found


def quality_rows(record: dict[str, Any]) -> Iterator[list[str]]:
    """One line per group."""
    for (run, minutes, name), rows in groups(record).items():
        named = [100 * row["solver_20"].get("confident_share", math.nan) for row in rows if "solver_20" in row]
        errors = [row["error_by_log_snr"] for row in rows if "error_by_log_snr" in row]
        yield [
            *(f"{run:g} min", f"{minutes:g} min", name, str(len(rows)), f"{rows[0]['images']:,}"),
            *(ranged([row[way]["frechet"] for row in rows if way in row]) for way in WAYS),
            ranged(named) + (" %" if named else ""),
            *(f"{statistics.median(error[i] for error in errors):.4f}" if errors else "" for i in range(len(LEVELS))),
        ]


def ranged(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})" if values else ""


def crossing_lines(record: dict[str, Any]) -> Iterator[str]:
    """When each seed of this project was first as good as each peer's longest run, by the better way to sample."""
    for name in record["rates"]:
        rows = [row for row in record["rows"] if row["learner"] == name]
        if name == "undiffuse" or not rows:
            continue
        longest = max(row["minutes"] for row in rows)
        goal = min(best(row) for row in rows if row["minutes"] == longest)
        if math.isinf(goal):  # it was not sampled
            continue
        for seed in sorted({row["seed"] for row in record["rows"] if row["learner"] == "undiffuse"}):
            ours = [row for row in record["rows"] if row["learner"] == "undiffuse" and row["seed"] == seed]
            there = [row["minutes"] for row in ours if best(row) <= goal]
            said = f"after {min(there):g} minutes" if there else "not within these runs"
            yield f"- seed {seed} is as good as the best seed of {name} after {longest:g} minutes ({goal:.2f}) {said}"


def smoke(arguments: argparse.Namespace) -> None:
    """Set the smallest sizes."""
    arguments.seconds, arguments.num, arguments.held_out, arguments.reference = 0.0, 250, 16, 250
    arguments.evaluations = 3
    arguments.minutes, arguments.runs, arguments.seeds = [1e-3], [1e-3], [0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rates", "train", "table"))
    parser.add_argument("data", type=Path, nargs="?", help="a folder of MNIST-format files")
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(DEFAULT))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=float, nargs="+", default=[10.0], help="lengths of whole runs, minutes")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.625, 1.25, 2.5, 5.0, 10.0], help="when to look")
    parser.add_argument("--num", type=int, default=2000, help="images drawn at each look, each way")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="to sample at each look")
    parser.add_argument("--evaluations", type=int, default=50, help="of each one's own DDIM")
    parser.add_argument("--held-out", type=int, default=512, help="images of the error by noise level")
    parser.add_argument("--reference", type=int, default=10_000, help="training images of the distance")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each learner in each round of rates")
    parser.add_argument("--stop-after", type=float, help="seconds, then save the run")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-learning"), help="folder for interrupted runs"
    )
    parser.add_argument("--device", default="cpu")
    interleaved.common_options(parser, rounds=5)
    arguments = interleaved.parse(parser)
    if arguments.what != "table" and arguments.data is None:
        parser.error("name the data, a folder of MNIST-format files")
    if arguments.smoke:
        smoke(arguments)
    out = arguments.out or interleaved.default_out("learning")
    path = out.with_name(out.name + ".json")
    if arguments.what == "rates":
        record = {**interleaved.new_record("learning", arguments), **read(path)}
        record["rates"] |= measure_rates(arguments)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
    elif arguments.what == "train" and not train(arguments, path):
        return
    interleaved.write(read(path), table(read(path)), out)


if __name__ == "__main__":
    main()
