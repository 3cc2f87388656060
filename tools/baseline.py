"""Compare two checkouts of this repository bit for bit: images, weights, losses and metrics.

    git worktree add ../before before-house
    python tools/baseline.py ../before . --threads 1 2 --fused on off

It compares samples of every bundled model (with several samplers, guidance and numbers of steps), the state of
trainings of every system after 200 steps (weights, averages, training state, losses), samples and metrics of those
models, and runs of the first tree that the second resumes from the middle. Both trees run on this machine, since
results depend on the hardware; no results are stored. ``--fused on`` computes in bfloat16 where possible, with the
compiled norm kernel; ``off`` disables that kernel.

Exit code 1 if anything differs or does not run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

PARTS = ("samples", "training", "metrics", "resume")
_STEPS = 200
_QUIET = ("preview_every_images=0", "quality_every_images=0", "validation_images=32")


class Case(NamedTuple):
    """A command of ``undiffuse`` whose results are compared; OUT is its folder, RUNS the folder of trainings."""

    name: str
    arguments: tuple[str, ...]


def _training(name: str, *arguments: str, batch: int = 16, steps: int = _STEPS) -> Case:
    """A training with a checkpoint in the middle."""
    images = batch * steps
    counts = (f"num_images={images}", f"batch_images={batch}", f"log_every_images={images // 10}")
    often = (f"checkpoint_every_images={images // 2}", "keep_checkpoints=9", f"validate_every_images={images // 2}")
    return Case(name, (*arguments, *counts, *often, *_QUIET, "--device", "cpu", "--out", f"RUNS/{name}"))


_SMALL = ("system.network.channels=8",)
_POINTS = ("system.network.width=32", "system.network.num_blocks=2", "data.num_points=500")
_GAN = ("system.generator.width=32", "system.discriminator.width=32", "data.num_points=500")
_OF_DIGITS = ("distill", "RUNS/flow-digits", "--steps")
TRAININGS = (
    _training("ddpm-digits", "train", "ddpm-digits", *_SMALL, "system.network.dropout=0.1", "random_flip=true"),
    _training(
        "flow-digits",
        *("train", "flow-mnist", "--data", "digits", *_SMALL, "system.network.multipliers=[1,2]"),
        *("system.class_conditional=true", "system.guide_images=800", "augment=document", "micro_batch_images=8"),
    ),
    _training("iddpm-swissroll", "train", "iddpm-swissroll", *_POINTS, batch=32),
    _training("vesde-swissroll", "train", "vesde-swissroll", *_POINTS, 'ema.posthoc={"snapshot_every_images": 1600}'),
    _training("edm-swissroll", "train", "edm-swissroll", *_POINTS, batch=32),
    _training("flow-swissroll", "train", "flow-swissroll", *_POINTS, "optimizer.name=muon", batch=32),
    _training("gan-rings", "train", "gan-rings", *_GAN, batch=32),
    _training("dcgan-digits", "train", "dcgan-mnist", "--data", "digits", "system.generator.channels=8"),
    _training("consistency", *_OF_DIGITS, "2", "--method", "consistency"),
    _training(
        "progressive", *_OF_DIGITS, "1", "--method", "progressive", "system.start_steps=4", "system.stage_images=1600"
    ),
    _training("mean-flow", *_OF_DIGITS, "1", "--method", "mean_flow"),
    _training("distribution-matching", *_OF_DIGITS, "2", "--method", "distribution_matching"),
)

_WAYS: dict[str, tuple[str, ...]] = {
    "as shipped": (),
    "ancestral": ("--sampler", "ancestral", "--steps", "12"),
    "ddim": ("--sampler", "ddim:eta=0.5", "--steps", "7"),
    "heun": ("--sampler", "heun", "--steps", "5", "--temperature", "0.9"),
    "dpmpp_2m_sde": ("--sampler", "dpmpp_2m_sde", "--steps", "7", "--batch-size", "3"),
    "rk45": ("--sampler", "rk45:rtol=0.05", "--process", "vp"),
    "guided": ("--guidance", "2.5", "--guidance-interval", "-3,3", "--steps", "6"),
}
_FEW_STEPS = ("mnist-1step", "mnist-2step")
_BUNDLED = ("mnist", "fashion", "letters", "flowers", "emoji")
_WITHOUT_CLASSES = ("letters",)


def sample_cases() -> Iterator[Case]:
    """Samples of every bundled model and of every trained model."""
    for model in (*_FEW_STEPS, *_BUNDLED, *(f"RUNS/{case.name}" for case in TRAININGS)):
        ways = _WAYS if model in _BUNDLED else {"as shipped": ()}
        for way, options in ways.items():
            if model in _WITHOUT_CLASSES and way == "guided":
                continue
            name = f"{model.removeprefix('RUNS/')}, {way}"
            yield Case(name, ("sample", model, "-n", "5", "--device", "cpu", *options, "--out", "OUT"))


def metric_cases() -> Iterator[Case]:
    """Metrics of a model of images and one of points, on data that needs no download."""
    for run in ("ddpm-digits", "flow-swissroll"):
        yield Case(
            run,
            (
                "evaluate",
                f"RUNS/{run}",
                "--num",
                "100",
                "--device",
                "cpu",
                "--no-cache",
                "--out",
                "OUT/evaluation.json",
            ),
        )


# Worker in a tree: runs commands and returns their digests.


def work(folder: Path, front: str) -> None:
    """Run the cases read from stdin as lines of JSON, and print the digests of each case's output."""
    module, _, name = front.partition(":")
    main, answers = getattr(import_module(module), name), sys.stdout
    for line in sys.stdin:
        case = Case(*json.loads(line))
        print(json.dumps(_run_case(main, case, folder)), file=answers, flush=True)


def _run_case(main: Any, case: Case, folder: Path) -> dict[str, str]:
    out = Path(tempfile.mkdtemp(dir=folder)) / "out"
    places = {"OUT": str(out), "RUNS": str(folder / "runs")}
    words = [_substitute(str(word), places) for word in case.arguments]
    log = folder / "log"
    with log.open("w") as file, redirect_stdout(file), redirect_stderr(file):
        try:
            main(words)
        except SystemExit as stop:
            if stop.code not in (0, None):
                return {"did not run": (log.read_text().strip().splitlines() or ["?"])[-1][:400]}
    made = out if any(word.startswith("OUT") for word in case.arguments) else Path(words[words.index("--out") + 1])
    return digests(made)


def _substitute(word: str, places: Mapping[str, str]) -> str:
    for name, place in places.items():
        if word == name or word.startswith(f"{name}/"):
            return place + word.removeprefix(name)
    return word


def digests(folder: Path) -> dict[str, str]:
    """Digests of a folder by name: tensors, images, values of results, rows of the metrics log without times."""
    found = dict(_tensor_digests(folder))
    for path in sorted(folder.rglob("*.png")):
        if path.name == "grid.png":  # contains the compared images, at a size that may change
            continue
        found[f"{path.relative_to(folder)}"] = _sha256([path.read_bytes()])
    for path in sorted(folder.rglob("*.npy")):
        found[f"{path.relative_to(folder)}"] = _sha256([path.read_bytes()])
    if (metrics_log := folder / "metrics.jsonl").is_file():
        rows = [json.loads(line) for line in metrics_log.read_text().splitlines()]
        found["metrics log"] = _sha256([_plain({k: v for k, v in row.items() if k not in _CLOCKS}) for row in rows])
    for path in sorted(folder.rglob("*.json")):
        if path.name not in ("config.json", "samples.json", "state.json"):
            for name, value in _values(json.loads(path.read_text())):
                found[f"{path.name} {name}"] = value
    return found


_CLOCKS = ("wall", "crc32", "images_per_second")


def _tensor_digests(folder: Path) -> Iterator[tuple[str, str]]:
    """Weights of the folder and the state of its newest checkpoint, one digest per file."""
    from safetensors.torch import load_file

    newest = sorted(folder.glob("checkpoints/images_*"))[-1:]
    for path in [*sorted(folder.glob("*.safetensors")), *(one / "state.safetensors" for one in newest)]:
        tensors = dict(_with_current_names(load_file(path), path.name))
        parts = (part for name in sorted(tensors) for part in (name.encode(), tensors[name].contiguous().flatten()))
        yield path.name, _sha256(part if isinstance(part, bytes) else _bytes_of(part) for part in parts)


#: Parts of a model in the first format that belong to the training state since.
_TRAINING = ("importance", "seen", "augment")


def _with_current_names(tensors: Mapping[str, Any], file: str) -> Iterator[tuple[str, Any]]:
    """Tensors by their names in the second format, for files of both formats."""
    for name, value in tensors.items():
        part, _, rest = name.partition(".")
        if file != "state.safetensors":
            if part not in _TRAINING:
                yield name, value
        elif part not in ("model", "ema") or rest.partition(".")[0] not in _TRAINING:
            yield name, value
        elif part == "model":  # the average's are copies of these
            yield f"training.{rest}", value


def _bytes_of(tensor: Any) -> bytes:
    import torch

    return bytes(tensor.view(torch.uint8).numpy().data)


def _values(result: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Values of metrics within a result, without the description of machine and time."""
    if isinstance(result, dict):
        for key, value in result.items():
            if key in ("value", "values", "interval", "standard_error", "value_interval"):
                yield f"{name}.{key}", json.dumps(value)
            else:
                yield from _values(value, f"{name}.{key}")
    elif isinstance(result, list):
        for number, value in enumerate(result):
            yield from _values(value, f"{name}[{number}]")


def _plain(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, sort_keys=True).encode()


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


# Controller: two trees, each with a worker process.


class Tree:
    """A checkout, and the worker process that runs its commands.

    Args:
        root: root of the checkout.
        folder: working folder.
        threads: number of threads.
        fused: whether to use the compiled norm kernel.
    """

    def __init__(self, root: Path, folder: Path, threads: int, fused: bool) -> None:
        self.root, self.folder = root.resolve(), folder
        (folder / "runs").mkdir(parents=True)
        front = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]["undiffuse"]
        choices = "bf16=always" if fused else "fused=off"
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "OMP_NUM_THREADS": str(threads),
            "UNDIFFUSE_COMPUTE": choices,
            "UNDIFFUSE_PROGRESS": "off",
        }
        command = [sys.executable, str(Path(__file__).resolve()), "--work", str(folder), front]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=folder
        )

    def run(self, case: Case) -> dict[str, str]:
        """Run a case and return its digests."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(json.dumps(case), file=self.process.stdin, flush=True)
        answer: dict[str, str] = json.loads(self.process.stdout.readline() or '{"did not run": "the process ended"}')
        return answer

    def end(self) -> None:
        """Stop the worker process."""
        self.process.kill()
        self.process.wait()


def comparison(before: Tree, after: Tree, parts: Iterable[str], only: str) -> Iterator[tuple[str, str, list[str]]]:
    """(part, case, differences) of each case; trainings run before the cases that need their models."""
    wanted = list(parts)
    for case in TRAININGS:
        if only in case.name or case.name == "flow-digits":
            made = before.run(case)
            yield "training", case.name, differing(made, after.run(case))
            if "resume" in wanted and "did not run" not in made:
                yield "resume", case.name, _resumed(before, after, case)
    for part, cases in (("samples", sample_cases()), ("metrics", metric_cases())):
        for case in cases:
            if part in wanted and only in case.name:
                yield part, case.name, differing(before.run(case), after.run(case))


def _resumed(before: Tree, after: Tree, case: Case) -> list[str]:
    """Compare a run of the first tree with its copy that the second tree resumes from the middle."""
    whole, shortened = before.folder / "runs" / case.name, after.folder / "runs" / f"{case.name}-resumed"
    shutil.copytree(whole, shortened)
    for checkpoint in sorted((shortened / "checkpoints").glob("images_*"))[1:]:
        shutil.rmtree(checkpoint)
    answer = after.run(Case(case.name, ("train", "--resume", "--out", f"RUNS/{shortened.name}")))
    return differing(digests(whole), answer)


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """Names of the differences, or the reason why a case did not run."""
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    failed = [f"did not run: {one['did not run']}" for one in (before, after) if "did not run" in one]
    return failed or (names if before else ["no output"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trees", type=Path, nargs=2, help="the checkout before and the one after")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--fused", nargs="+", choices=("on", "off"), default=["off"])
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args()
    started, count, num_different = time.monotonic(), 0, 0
    for threads in args.threads:
        for fused in args.fused:
            with tempfile.TemporaryDirectory() as folder:
                roots = zip(args.trees, ("before", "after"), strict=True)
                trees = [Tree(root, Path(folder) / name, threads, fused == "on") for root, name in roots]
                try:
                    for part, name, differs in comparison(trees[0], trees[1], args.parts, args.only):
                        count, num_different = count + 1, num_different + bool(differs)
                        summary = "; ".join(differs) if differs else "the same"
                        print(f"{threads} thread(s), fused {fused}: {part}: {name}: {summary}", flush=True)
                finally:
                    for tree in trees:
                        tree.end()
    print(f"{count} compared, {num_different} differ, {time.monotonic() - started:.0f} s")
    sys.exit(bool(num_different))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        work(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
