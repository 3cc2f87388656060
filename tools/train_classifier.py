"""Train the small classifiers that ship in src/undiffuse/metrics/weights, and measure them.

    python tools/train_classifier.py handwriting --mnist DIR --out src/undiffuse/metrics/weights
    python tools/train_classifier.py fashion --fashion DIR --out src/undiffuse/metrics/weights

DIR holds the four IDX files (gz or not) of the set. Training takes about six minutes on one CPU core; the weights are
written in float16, with their accuracies in a JSON file. Images are rotated, scaled, shifted, sheared and, for part of
each batch, downscaled to 8 ... 27 pixels and enlarged again, so that one network classifies every size in that range.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

from undiffuse.metrics.classifier import IMAGE_SIZE, SmallClassifier, to_input
from undiffuse.metrics.pixels import resize_images

DIGITS_PART = 0.08  # fraction of a training batch; the 1,437 scans of 8x8 pixels are far fewer than MNIST's 60,000
CONFIDENT = 0.9


def read_idx(folder: Path, stem: str) -> Tensor:
    """The array of an IDX file of bytes, compressed or not."""
    path = next((p for p in (folder / stem, folder / f"{stem}.gz") if p.exists()), None)
    if path is None:
        raise SystemExit(f"expected {stem} or {stem}.gz in {folder}")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    num_axes = content[3]
    shape = np.frombuffer(content, ">u4", num_axes, offset=4)
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape).copy())


def read_split(folder: Path, prefix: str) -> tuple[Tensor, Tensor]:
    """uint8 images (N, 1, 28, 28) and labels (N,) of "train" or "t10k"."""
    images = read_idx(folder, f"{prefix}-images-idx3-ubyte")[:, None]
    return images, read_idx(folder, f"{prefix}-labels-idx1-ubyte").long()


def read_digits() -> tuple[Tensor, Tensor, Tensor]:
    """scikit-learn's scans as uint8 (N, 1, 8, 8), labels, and the mask of the held-out scans: every fifth."""
    bunch = load_digits()
    images = torch.from_numpy(np.rint(bunch.images * 255 / 16).astype(np.uint8))[:, None]
    return images, torch.from_numpy(bunch.target).long(), torch.arange(len(images)) % 5 == 0


def random_affine(num: int, strength: float) -> Tensor:
    """Matrices (num, 2, 3) of a rotation, a scale for each axis, a shear and a shift."""
    angle, shear = torch.randn(2, num) * strength * 0.12
    scale = torch.exp(torch.randn(2, num) * strength * 0.10)
    shift = torch.randn(num, 2) * strength * 0.09
    rotation = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)], 1).view(-1, 2, 2)
    stretch = torch.stack([scale[0], shear, torch.zeros(num), scale[1]], 1).view(-1, 2, 2)
    return torch.cat([rotation @ stretch, shift[..., None]], dim=2)


def warp(images: Tensor, strength: float) -> Tensor:
    """Images (B, 1, 28, 28) in [-1, 1] under random affine maps; pixels from outside are dark."""
    grid = F.affine_grid(random_affine(len(images), strength), list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


def coarsen(images: Tensor, parts: int = 4) -> Tensor:
    """Parts of the batch at lower resolution: downscaled to 8 ... 27 pixels and enlarged again."""
    images = images.clone()
    part = max(1, len(images) // (4 * parts))
    for start in range(0, parts * part, part):
        size = int(torch.randint(8, IMAGE_SIZE, ()))
        small = resize_images(images[start : start + part], size)
        images[start : start + part] = resize_images(small, IMAGE_SIZE)
    return images


class Handwriting:
    """MNIST and the 8x8 scans."""

    strength, flip = 1.0, False

    def __init__(self, args: argparse.Namespace) -> None:
        self.images, self.labels = read_split(args.mnist, "train")
        self.small, self.small_labels, self.held_out = read_digits()
        test = read_split(args.mnist, "t10k")
        self.tests = {
            "mnist test": test,
            "digits held out": (self.small[self.held_out], self.small_labels[self.held_out]),
        }
        self.train_small = to_input(self.small[~self.held_out])
        self.train_small_labels = self.small_labels[~self.held_out]

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        extra = torch.randint(len(self.train_small), (int(len(rows) * DIGITS_PART),))
        images = torch.cat([to_input(self.images[rows]), self.train_small[extra]])
        return images, torch.cat([self.labels[rows], self.train_small_labels[extra]])


class Fashion:
    """Fashion-MNIST."""

    strength, flip = 0.4, True

    def __init__(self, args: argparse.Namespace) -> None:
        self.images, self.labels = read_split(args.fashion, "train")
        self.tests = {"fashion test": read_split(args.fashion, "t10k")}

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        return to_input(self.images[rows]), self.labels[rows]


SETS: dict[str, type[Handwriting] | type[Fashion]] = {"handwriting": Handwriting, "fashion": Fashion}


def augment(images: Tensor, source: Handwriting | Fashion) -> Tensor:
    """Coarsen the first quarter of the batch, flip (clothes only), warp."""
    if source.flip:
        images = torch.where(torch.rand(len(images), 1, 1, 1) < 0.5, images.flip(3), images)
    return warp(coarsen(images), source.strength)


def train(source: Handwriting | Fashion, args: argparse.Namespace) -> SmallClassifier:
    """AdamW with one cycle of the learning rate, computed in bfloat16."""
    network = SmallClassifier().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.05)
    per_epoch = len(source.images) // args.batch_size
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.epochs * per_epoch, pct_start=0.2)
    started = time.perf_counter()
    for epoch in range(args.epochs):
        order = torch.randperm(len(source.images))[: per_epoch * args.batch_size]
        for rows in order.view(per_epoch, -1):
            images, labels = source.batch(rows)
            images = augment(images, source).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits = network(images)
            loss = F.cross_entropy(logits.float(), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}, {time.perf_counter() - started:.0f} s", flush=True)
    return network


@torch.no_grad()
def measure(network: SmallClassifier, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy and the fraction of images classified with a confidence of 0.9 or more."""
    logits = torch.cat([network(to_input(part)) for part in images.split(500)])
    confidence, guess = logits.softmax(1).max(1)
    return {
        "count": len(images),
        "accuracy": round((guess == labels).double().mean().item(), 4),
        "confident_share": round((confidence >= CONFIDENT).double().mean().item(), 4),
    }


def measure_all(network: SmallClassifier, source: Handwriting | Fashion) -> dict[str, dict[str, float]]:
    """Results on every test set, on the large ones also at 16 and 8 pixels."""
    results = {}
    for name, (images, labels) in source.tests.items():
        results[name] = measure(network, images, labels)
        for size in (16, 8) if images.shape[-1] > 8 else ():
            small = resize_images(images.float(), size).round().clamp(0, 255).to(torch.uint8)
            results[f"{name} at {size} px"] = measure(network, small, labels)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(SETS))
    parser.add_argument("--mnist", type=Path, help="folder with MNIST's four IDX files")
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST's four IDX files")
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.safetensors and NAME.json")
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=4e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    needed = {"handwriting": "mnist", "fashion": "fashion"}[args.name]
    if getattr(args, needed) is None:
        parser.error(f"{args.name} needs --{needed} DIR")
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    source = SETS[args.name](args)
    network = train(source, args).eval()
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    state = {k: v.half().contiguous() for k, v in state.items()}
    network.load_state_dict({k: v.float() for k, v in state.items()})
    results = measure_all(network, source)
    content = save(state, metadata={"format": "pt"})
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.name}.safetensors").write_bytes(content)
    record = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "epochs": args.epochs, **results}
    (args.out / f"{args.name}.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
