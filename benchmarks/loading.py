"""Images per second of the loader, compared with plain PyTorch and Hugging Face datasets, as JSON and as a table.

    unzip flowers.zip -d flowers
    python benchmarks/loading.py flowers --size 64 --out benchmarks/loading

All loaders produce batches of uint8 images of the same size from shuffled streams of the same images; each is warmed up
and measured alternately in several rounds, and the medians are reported. Ratios are relative to plain PyTorch in one
process. Hugging Face ``datasets`` is measured if it is installed; it is not a dependency of this project. ``--memory``
measures, in separate processes, the memory for opening and reading synthetic sets of different sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from undiffuse.data import Dataset, FolderConfig, Loader, ZipConfig, load_dataset, split_by_content
from undiffuse.data.config.loader import LoaderConfig
from undiffuse.data.dataset import ArrayDataset
from undiffuse.data.prepare.work import encode_png
from undiffuse.data.storage import encoded
from undiffuse.data.storage.mapped import PIXELS, MappedSet, write_info
from undiffuse.evaluation import hardware
from undiffuse.files import write_json
from undiffuse.version import __version__

BATCH = 128
BASE = "PyTorch, folder of JPEGs, 0 workers"
Batches = Iterator[Tensor]


class PlainFolder(TorchDataset[Tensor]):
    """A minimal PyTorch data set of a folder: decode, crop the central square, resize."""

    def __init__(self, folder: Path, size: int) -> None:
        self.paths, self.size = sorted(path for path in folder.rglob("*") if path.is_file()), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            cropped = image.convert("RGB")
        side = min(cropped.size)
        left, top = (cropped.width - side) // 2, (cropped.height - side) // 2
        cropped = cropped.crop((left, top, left + side, top + side))
        cropped = cropped.resize((self.size, self.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.asarray(cropped).transpose(2, 0, 1).copy())


def endless(loader: DataLoader[Any], take: Callable[[Any], Tensor] = lambda batch: batch) -> Batches:
    while True:
        yield from map(take, loader)


def plain_pytorch(folder: Path, size: int, workers: int) -> Batches:
    options: dict[str, Any] = {"persistent_workers": True} if workers else {}
    dataset = PlainFolder(folder, size)
    return endless(DataLoader(dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, **options))


def hugging_face(folder: Path, size: int, workers: int, scratch: Path) -> Batches:
    """``imagefolder`` with a transform on access, as in its documentation."""
    import datasets

    def transform(rows: dict[str, list[Any]]) -> dict[str, list[Tensor]]:
        made = [image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS) for image in rows["image"]]
        return {"pixels": [torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()) for image in made]}

    rows = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(scratch / "hf"), split="train")
    rows = rows.with_transform(transform)
    options: dict[str, Any] = {"persistent_workers": True} if workers else {}
    loader = DataLoader(rows, BATCH, shuffle=True, drop_last=True, num_workers=workers, **options)
    return endless(loader, lambda batch: batch["pixels"])


def ours(dataset: Dataset, config: LoaderConfig) -> Batches:
    loader, start = Loader(dataset, 0, config), 0
    try:
        while True:
            yield loader.batch(start, BATCH).items
            start += BATCH
    finally:
        loader.close()


def prepared_zip(dataset: Dataset, path: Path) -> Path:
    """The images in the layout of ``data prepare``."""
    with zipfile.ZipFile(path, "w") as archive:
        for row in range(len(dataset)):
            name = f"{row // 1000:05d}/img{row:08d}.png"
            archive.writestr(name, encode_png(dataset.items(np.array([row]))[0]))
    return path


def ways(folder: Path, size: int, scratch: Path) -> dict[str, Callable[[], Batches]]:
    """The compared loaders, as factories of their batches."""
    in_memory = load_dataset(FolderConfig(path=str(folder), size=size, channels=3))
    prepared = str(prepared_zip(in_memory, scratch / "prepared.zip"))
    encoded.MAX_BYTES_IN_MEMORY = 1  # as if the set were larger than memory
    decoded = load_dataset(FolderConfig(path=str(folder), size=size, channels=3, cache="none"))
    unpacked = load_dataset(ZipConfig(path=prepared, size=size, channels=3, cache="none"))
    kept = load_dataset(ZipConfig(path=prepared, size=size, channels=3, cache=str(scratch / "cache")))
    found: dict[str, Callable[[], Batches]] = {BASE: partial(plain_pytorch, folder, size, 0)}
    found["PyTorch, folder of JPEGs, 2 workers"] = partial(plain_pytorch, folder, size, 2)
    try:
        import datasets  # noqa: F401

        for workers in (0, 2):
            label = f"Hugging Face datasets, imagefolder, {workers} workers"
            found[label] = partial(hugging_face, folder, size, workers, scratch)
    except ImportError:
        print("Hugging Face datasets is not installed; it is left out", file=sys.stderr)
    for what, dataset in (("folder of JPEGs", decoded), ("prepared zip", unpacked)):
        for workers in (0, 1, 2):
            found[f"undiffuse, {what}, {workers} workers"] = partial(ours, dataset, LoaderConfig(workers=workers))
    found["undiffuse, cache"] = partial(ours, kept, LoaderConfig())
    found["undiffuse, in memory"] = partial(ours, in_memory, LoaderConfig())
    found["undiffuse, resident"] = partial(ours, in_memory, LoaderConfig(resident=True))
    return found


def images_per_second(batches: Batches, seconds: float) -> float:
    """Images per second over at least ``seconds`` seconds."""
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        batch = next(batches)
        assert batch.dtype == torch.uint8 and len(batch) == BATCH
        count += BATCH
    return count / spent


def measure(made: dict[str, Callable[[], Batches]], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Measure all loaders alternately, with the processes of one loader at a time."""
    rates: dict[str, list[float]] = {name: [] for name in made}
    for number in range(rounds):
        for name, make in made.items():
            batches = make()
            images_per_second(batches, seconds / 2)
            rates[name].append(images_per_second(batches, seconds))
            del batches
            print(f"round {number + 1}: {name}: {rates[name][-1]:.0f} images a second", flush=True)
    base = statistics.median(rates[BASE])
    return [
        {
            "way": name,
            "pictures_per_second": round(statistics.median(taken), 1),
            "ratio": round(statistics.median(taken) / base, 2),
            "of_each_round": [round(rate, 1) for rate in taken],
        }
        for name, taken in rates.items()
    ]


def synthetic(folder: Path, count: int, side: int) -> Path:
    """A set of RGB images with two classes, written in chunks in the layout of the cache."""
    folder.mkdir()
    random = np.random.default_rng(0)
    size, piece = 3 * side * side, 10_000
    with (folder / PIXELS).open("wb") as pixels, (folder / "hashes.u8").open("wb") as hashes:
        for start in range(0, count, piece):
            rows = min(piece, count - start)
            pixels.write(random.integers(0, 256, (rows, size), dtype=np.uint8).tobytes())
            hashes.write(random.integers(0, 256, (rows, 16), dtype=np.uint8).tobytes())
    (np.arange(count) % 2).astype("<i8").tofile(folder / "labels.i64")
    (folder / "titles.utf8").write_bytes(b"picture" * count)  # data
    (np.arange(count + 1) * 7).astype("<i8").tofile(folder / "titles.i64")
    shape = np.broadcast_to(np.zeros(1, dtype=np.uint8), (count, 3, side, side))
    write_info(folder, ArrayDataset("synthetic", shape, None, ("a", "b"), {"source": "random numbers"}), "")
    return folder


def resident_bytes() -> dict[str, float]:
    """Anonymous memory and mapped file pages of the process, in MB."""
    lines = map(str.split, Path("/proc/self/status").read_text().splitlines())
    return {line[0].strip(":"): int(line[1]) * 1024 / 1e6 for line in lines if line[0] in ("RssAnon:", "RssFile:")}


def measure_memory_of(folder: Path) -> dict[str, Any]:
    """Memory added by each stage, in this process, after loading all libraries."""
    Loader(ArrayDataset("warm", np.zeros((300, 3, 4, 4), dtype=np.uint8)), 0).batch(0, BATCH)
    before = resident_bytes()
    stages: dict[str, Any] = {}

    def note(stage: str) -> None:
        stages[stage] = {kind: round(value - before[kind], 2) for kind, value in resident_bytes().items()}

    started = time.perf_counter()
    whole = MappedSet(folder)
    stages["pictures"], stages["open_seconds"] = len(whole), round(time.perf_counter() - started, 4)  # data
    note("opened")
    batches = ours(whole, LoaderConfig())
    for _ in range(200):
        next(batches)
    note("200 batches of all")
    train, _ = split_by_content(whole, 0.1)
    batches = ours(train, LoaderConfig())
    for _ in range(200):
        next(batches)
    note("split, 200 batches of the training part")
    return stages


def measure_memory(scratch: Path, counts: tuple[int, ...], side: int) -> list[dict[str, Any]]:
    found = []
    for count in counts:
        folder = synthetic(scratch / f"synthetic-{count}", count, side)
        command = [sys.executable, __file__, str(folder), "--memory-of-this"]
        found.append(json.loads(subprocess.check_output(command)))
        shutil.rmtree(folder)
        print(found[-1], flush=True)
    return found


def table(record: dict[str, Any]) -> str:
    lines = [
        f"# Loading images, {record['date']}",
        "",
        f"`{record['command']}`. {record['images']} JPEGs to {record['size']}x{record['size']}, batches of {BATCH}, "
        f"{record['hardware']}, {record['versions']}. Median of {record['rounds']} rounds of "
        f"{record['seconds']:g} s, the ways in turn; ratios are to the first row. The images lie in the system's "
        "file cache. Sets are opened as if they were larger than memory, but for the last two rows.",
        "",
        "| way | images a second | ratio | rounds |",
        "|---|---|---|---|",
    ]
    for row in record["ways"]:
        each = f"{min(row['of_each_round']):,.0f} to {max(row['of_each_round']):,.0f}"
        lines.append(f"| {row['way']} | {row['pictures_per_second']:,.0f} | {row['ratio']:.1f} | {each} |")
    if "memory" in record:
        stages = [key for key in record["memory"][0] if isinstance(record["memory"][0][key], dict)]
        lines += [
            "",
            "MB that a set in the cache's layout takes in addition to the libraries: the process's own memory, and in "
            "brackets pages of mapped files, which the system takes back at will.",
            "",
            f"| images of {record['memory_side']}x{record['memory_side']} | {' | '.join(stages)} |",
            "|---" * (len(stages) + 1) + "|",
        ]
        for row in record["memory"]:
            cells = [f"{row[stage]['RssAnon']:.1f} ({row[stage]['RssFile']:.1f})" for stage in stages]
            lines.append(f"| {row['images']:,} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def versions() -> str:
    found = [f"undiffuse {__version__}", f"numpy {np.__version__}", f"Pillow {PIL.__version__}"]
    try:
        import datasets

        found.append(f"datasets {datasets.__version__}")
    except ImportError:
        pass
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of JPEGs, in class folders or not")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each way in each round")
    parser.add_argument("--memory", action="store_true", help="measure memory by the size of the set too")
    parser.add_argument("--out", type=Path, help="without ending: .json and .md are written")
    parser.add_argument("--memory-of-this", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory_of_this:
        print(json.dumps(measure_memory_of(arguments.folder)))
        return
    os.environ["HF_HUB_OFFLINE"] = "1"
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": f"python benchmarks/loading.py FOLDER --size {arguments.size} --rounds {arguments.rounds} "
        f"--seconds {arguments.seconds:g}{' --memory' if arguments.memory else ''}",
        "pictures": len(PlainFolder(arguments.folder, arguments.size)),  # data
        "size": arguments.size,
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "hardware": hardware(),
        "versions": versions(),
    }
    with tempfile.TemporaryDirectory() as scratch:
        record["ways"] = measure(
            ways(arguments.folder, arguments.size, Path(scratch)), arguments.rounds, arguments.seconds
        )
        if arguments.memory:
            record["memory_side"] = 16
            record["memory"] = measure_memory(Path(scratch), (1_000, 1_000_000), 16)
    print(table(record))
    if arguments.out:
        write_json(arguments.out.with_suffix(".json"), record)
        arguments.out.with_suffix(".md").write_text(table(record), encoding="utf-8")


if __name__ == "__main__":
    main()
