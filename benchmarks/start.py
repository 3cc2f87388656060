"""From process start to sixteen images on disk: a bundled model, diffusers, and what importing torch alone takes.

    .venv-bench/bin/python benchmarks/start.py --model mnist

Every run is a process of its own and they take turns. diffusers has a ``UNet2DModel`` of 1.6 million parameters at
28x28, saved as a pipeline on this disk, loads it and makes 50 DDIM steps, its pipeline's default; nothing is fetched.
This project is started as a user starts it, ``undiffuse sample MODEL -n 16``, with the model's own sampler. The files
lie in the system's cache in all cases.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import interleaved
from interleaved import Candidate, Summary
from peers import DIFFUSERS, diffusers_unet, wanted

from undiffuse.networks.config import UNetConfig

TORCH, OURS = "import torch", "undiffuse sample"
SHAPE = (1, 28, 28)
NETWORK = UNetConfig(channels=32, multipliers=(1, 2, 2), num_blocks=2, time_injection="add", norm_groups=8)
SMOKE = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, time_injection="add", norm_groups=2)

PIPELINE = """
import sys
import torch
from diffusers import DDIMPipeline
pipeline = DDIMPipeline.from_pretrained(sys.argv[1], local_files_only=True)
pipeline.set_progress_bar_config(disable=True)
images = pipeline(batch_size=16, num_inference_steps=int(sys.argv[3]), generator=torch.manual_seed(0)).images
for number, image in enumerate(images):
    image.save(f"{sys.argv[2]}/{number:06d}.png")
"""


def save_pipeline(folder: Path, network: UNetConfig) -> Path:
    """A pipeline of diffusers with fresh weights; what they are does not change the time."""
    from diffusers import DDIMPipeline, DDIMScheduler

    DDIMPipeline(unet=diffusers_unet(network, SHAPE), scheduler=DDIMScheduler()).save_pretrained(folder)
    return folder


def run(command: list[str], out: Path | None = None) -> float:
    """Seconds of a process, which must succeed and, where ``out`` is given, leave sixteen images."""
    if out is not None:
        shutil.rmtree(out, ignore_errors=True)
        if command[1] == "-c":
            out.mkdir()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    seconds = interleaved.seconds_of(
        lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    )
    if out is not None and len(list(out.glob("[0-9]*.png"))) != 16:
        raise SystemExit(f"no 16 images were made by: {' '.join(command[:3])}")
    return seconds


def candidates(model: str, scratch: Path, steps: int, network: UNetConfig, peers: set[str]) -> list[Candidate]:
    """Everything that is started."""
    python, out = sys.executable, scratch / "images"
    program = shutil.which("undiffuse", path=str(Path(python).parent))
    ours = [program] if program else [python, "-m", "undiffuse"]
    found = [
        Candidate(TORCH, partial(run, [python, "-c", "import torch"])),
        Candidate(
            f"{OURS} {Path(model).name}", partial(run, [*ours, "sample", model, "-n", "16", "--out", str(out)], out)
        ),
    ]
    if DIFFUSERS in peers:
        pipeline = save_pipeline(scratch / "pipeline", network)
        command = [python, "-c", PIPELINE, str(pipeline), str(out), str(steps)]
        found.append(Candidate(f"{DIFFUSERS}, {steps} DDIM steps", partial(run, command, out)))
    return found


def ratio(above: list[float], below: list[float]) -> str:
    """The median of the rounds' ratios."""
    return Summary.of([a / b for a, b in zip(above, below, strict=True)]).text(".2f")


def page(record: dict[str, Any]) -> str:
    """The record as a table."""
    seconds = record["seconds"]
    lines = interleaved.head(record, "From process start to sixteen images")
    lines += [f"Median of {record['rounds']} rounds in turn, lower to upper quartile in brackets.", ""]
    rows = [
        [name, Summary.of(taken).text(".2f"), ratio(taken, seconds[TORCH]), ratio(seconds[record["base"]], taken)]
        for name, taken in seconds.items()
    ]
    lines += interleaved.grid(["", "seconds", "times import torch", f"times faster than {record['base']}"], rows)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mnist", help="a bundled model or the folder of any other")
    parser.add_argument("--steps", type=int, default=50, help="of diffusers")
    interleaved.common_options(parser)
    arguments = interleaved.parse(parser)
    peers, network = wanted(arguments.no_peers), NETWORK
    if arguments.smoke:
        arguments.steps, network = 2, SMOKE
    with tempfile.TemporaryDirectory() as scratch:
        found = candidates(arguments.model, Path(scratch), arguments.steps, network, peers)
        record = interleaved.new_record("start", arguments, base=found[-1].name)
        record["seconds"] = interleaved.take_turns(found, arguments.rounds, warm_up=0 if arguments.smoke else 1)
    interleaved.write(record, page(record), arguments.out)


if __name__ == "__main__":
    main()
