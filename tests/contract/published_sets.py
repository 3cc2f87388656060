"""Small files in exactly the layouts in which sets of images are published, for the tests of their readers."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow
import pyarrow.parquet
import scipy.io
from image_files import png, write_tar, write_tree, write_zip
from PIL import Image

COUNT = 12
CIFAR10_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
ATTRIBUTES = ["5_o_Clock_Shadow", "Eyeglasses", "Smiling", "Young"]


def records(count: int = COUNT, seed: int = 0) -> np.ndarray:
    """(count, 3072) uint8 noise: red, green and blue planes of 32x32."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


class Pickle2:
    """Writes values as Python 2's cPickle did with protocol 2: every text, list and dictionary is kept in the memo."""

    def __init__(self) -> None:
        self._kept = 0

    def of(self, value: object) -> bytes:
        return b"\x80\x02" + self._value(value) + b"."

    def _put(self) -> bytes:
        self._kept += 1
        return b"q" + bytes([self._kept]) if self._kept < 256 else b"r" + struct.pack("<I", self._kept)

    def _value(self, value: object) -> bytes:
        if isinstance(value, dict):
            pairs = b"}" + self._put() + b"("
            return pairs + b"".join(self._value(key) + self._value(held) for key, held in value.items()) + b"u"
        if isinstance(value, list):
            return b"]" + self._put() + b"(" + b"".join(map(self._value, value)) + b"e"
        if isinstance(value, np.ndarray):
            return self._array(value)
        return self._number(value) if isinstance(value, int) else self._text(str(value).encode("latin-1"))

    def _number(self, value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)

    def _text(self, text: bytes) -> bytes:
        head = b"U" + bytes([len(text)]) if len(text) < 256 else b"T" + struct.pack("<i", len(text))
        return head + text + self._put()

    def _array(self, array: np.ndarray) -> bytes:
        created = b"cnumpy.core.multiarray\n_reconstruct\n" + self._put() + b"cnumpy\nndarray\n" + self._put()
        created += b"K\x00\x85" + self._text(b"b") + b"\x87R" + self._put()
        kind = b"cnumpy\ndtype\n" + self._put() + self._text(b"u1") + b"K\x00K\x01\x87R" + self._put()
        kind += b"(K\x03" + self._text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        shape = b"".join(map(self._number, array.shape)) + b"\x86"
        return created + b"(K\x01" + shape + kind + b"\x89" + self._text(array.tobytes()) + b"tb"


def cifar10_binary(folder: Path, batches: int = 1) -> Path:
    """``data_batch_1.bin`` ... of COUNT records each, ``test_batch.bin`` and ``batches.meta.txt``."""
    for number in range(1, batches + 1):
        write_records(folder / f"data_batch_{number}.bin", [np.arange(COUNT) % 10], seed=number)
    write_records(folder / "test_batch.bin", [np.arange(COUNT)[::-1] % 10], seed=99)
    (folder / "batches.meta.txt").write_text("\n".join(CIFAR10_NAMES) + "\n\n")
    return folder


def write_records(path: Path, labels: list[np.ndarray], seed: int = 0) -> Path:
    columns = [np.asarray(column, dtype=np.uint8)[:, None] for column in labels]
    path.write_bytes(np.concatenate([*columns, records(len(columns[0]), seed)], axis=1).tobytes())
    return path


def cifar10_python(folder: Path) -> Path:
    """``data_batch_1``, ``test_batch`` and ``batches.meta``."""
    for name, seed in (("data_batch_1", 1), ("test_batch", 99)):
        batch = {
            "batch_label": "training batch 1 of 1",
            "labels": (np.arange(COUNT) % 10).tolist(),
            "data": records(COUNT, seed),
            "filenames": [f"image_s_{number:06}.png" for number in range(COUNT)],
        }
        (folder / name).write_bytes(Pickle2().of(batch))
    meta = {"num_cases_per_batch": COUNT, "label_names": CIFAR10_NAMES, "num_vis": 3072}
    (folder / "batches.meta").write_bytes(Pickle2().of(meta))
    return folder


def cifar100_python(folder: Path) -> Path:
    """``train``, ``test`` and ``meta``."""
    fine = [(7 * number) % 100 for number in range(COUNT)]
    for name, seed in (("train", 1), ("test", 2)):
        batch = {
            "filenames": [f"{number}.png" for number in range(COUNT)],
            "batch_label": "training batch 1 of 1",
            "fine_labels": fine,
            "coarse_labels": [number % 20 for number in fine],
            "data": records(COUNT, seed),
        }
        (folder / name).write_bytes(Pickle2().of(batch))
    names = {"fine_label_names": [f"fine{n}" for n in range(100)], "coarse_label_names": [f"c{n}" for n in range(20)]}
    (folder / "meta").write_bytes(Pickle2().of(names))
    return folder


def archived(folder: Path, path: Path, root: str) -> Path:
    """The files of a folder as the published .tar.gz has them, below one folder."""
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, root)
    return path


def emnist_struct(count: int = COUNT, **changes: object) -> dict[str, Any]:
    """What ``emnist-letters.mat`` holds; ``changes`` replace fields of train."""
    rng = np.random.default_rng(0)
    part = {
        "images": rng.integers(0, 256, (count, 784), dtype=np.uint8),
        "labels": (np.arange(count)[:, None] % 26 + 1).astype(np.float64),
        "writers": np.arange(count, dtype=np.float64)[:, None],
    }
    mapping = np.array([[n, 64 + n, 96 + n] for n in range(1, 27)], dtype=np.uint8)
    return {"dataset": {"train": {**part, **changes}, "test": part, "mapping": mapping}}


def emnist_mat(folder: Path) -> Path:
    path = folder / "emnist-letters.mat"
    scipy.io.savemat(path, emnist_struct(), do_compression=True)
    return path


def npz(folder: Path) -> Path:
    path = folder / "set.npz"
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(COUNT) % 3)
    return path


def table(start: int = 0, count: int = COUNT, **columns: list[Any]) -> pyarrow.Table:
    """A table as ``datasets`` makes one; ``columns`` replace its own."""
    cells = [{"bytes": png(number), "path": f"{number}.png"} for number in range(start, start + count)]
    values = {
        "image": cells,
        "label": [number % 3 for number in range(start, start + count)],
        "caption": [f"image {number}" for number in range(start, start + count)],
        **columns,
    }
    kinds = {"image": pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()}), "label": pyarrow.int64()}
    features = {
        "image": {"_type": "Image"},
        "label": {"names": ["cat", "dog", "owl"], "_type": "ClassLabel"},
        "caption": {"dtype": "string", "_type": "Value"},
    }
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in values])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return pyarrow.table(values, schema=schema)


def parquet(folder: Path) -> Path:
    """Two shards of a training part, in row groups of four, and a test part."""
    half = COUNT // 2
    for number in range(2):
        path = folder / f"train-{number:05}-of-00002.parquet"
        pyarrow.parquet.write_table(table(number * half, half), path, row_group_size=4)
    pyarrow.parquet.write_table(table(100, 4), folder / "test-00000-of-00001.parquet")
    return folder


def lsun(folder: Path, category: str = "church_outdoor_train_lmdb", first: int = 0, ending: str = "webp") -> Path:
    """A database of COUNT encoded images; keys in hex."""
    environment = lmdb.open(str(folder / category), map_size=2**24)
    with environment.begin(write=True) as transaction:
        for number in range(first, first + COUNT):
            transaction.put(f"{number * 7919:040x}".encode(), encoded(number, ending))
    environment.close()
    return folder / category


def encoded(seed: int, ending: str) -> bytes:
    """Noise of a seed and of 8 to 64 pixels a side, so that some values lie on pages of their own."""
    side = 8 if seed % 2 else 64
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    options = {"lossless": True} if ending == "webp" else {}
    Image.fromarray(noise).save(content := io.BytesIO(), ending, **options)
    return content.getvalue()


def celeba_files(count: int = COUNT) -> dict[str, bytes | str]:
    """``img_align_celeba`` and the two lists."""
    has = [[1 if number >> place & 1 else -1 for place in range(4)] for number in range(count)]
    rows = [f"{number + 1:06}.jpg  " + " ".join(f"{value:2}" for value in has[number]) for number in range(count)]
    parts = [f"{number + 1:06}.jpg {number % 3}" for number in range(count)]
    images = {f"img_align_celeba/{number + 1:06}.jpg": encoded(2 * number + 1, "jpeg") for number in range(count)}
    lists = {
        "list_attr_celeba.txt": "\n".join([str(count), " ".join(ATTRIBUTES) + " ", *rows]) + "\n",
        "list_eval_partition.txt": "\n".join(parts) + "\n",
    }
    return {**images, **lists}


def celeba(folder: Path) -> Path:
    return write_tree(folder, celeba_files())


def ffhq_files(numbers: list[int] | None = None) -> dict[str, bytes | str]:
    wanted = numbers or [*range(8), 1000, 59999, 60000, 69999]
    return {f"thumbnails128x128/{n - n % 1000:05}/{n:05}.png": png(n) for n in wanted}


def ffhq(folder: Path) -> Path:
    return write_zip(folder / "ffhq.zip", ffhq_files())


def emoji_list(count: int = COUNT) -> list[dict[str, Any]]:
    """The entries of ``emoji.json``; the first has two tones of skin and the last no image of twitter's."""
    entries: list[dict[str, Any]] = [
        {
            "name": f"SMILING FACE NO. {number}",
            "unified": f"{0x1F600 + number:X}",
            "image": f"{0x1F600 + number:x}.png",
            "short_name": f"smile_{number}",
            "category": ["Smileys & Emotion", "Symbols"][number % 2],
            "has_img_twitter": number < count,
            "has_img_google": True,
        }
        for number in range(count + 1)
    ]
    entries[0]["skin_variations"] = {
        code: {"unified": f"1F600-{code}", "image": f"1f600-{code.lower()}.png", "has_img_twitter": True}
        for code in ("1F3FB", "1F3FB-1F3FF")
    }
    return entries


def emoji_files(vendor: str = "twitter") -> dict[str, bytes | str]:
    entries = emoji_list()
    names = [entry["image"] for entry in entries if entry[f"has_img_{vendor}"]]
    names += [tone["image"] for tone in entries[0]["skin_variations"].values()]
    images = {f"img/{vendor}/64/{image}": png(place) for place, image in enumerate(names)}
    return {"emoji.json": json.dumps(entries), "package.json": "{}", "README.md": "x", **images}


def emoji(folder: Path) -> Path:
    return write_zip(folder / "emoji.zip", emoji_files())


def as_package(path: Path, files: Mapping[str, bytes | str]) -> Path:
    """The tar that npm has."""
    return write_tar(path, {f"package/{name}": content for name, content in files.items()})


#: source -> what writes an example of its files below a folder and says where it is
PUBLISHED: dict[str, Callable[[Path], Path]] = {
    "cifar": cifar10_binary,
    "emnist": emnist_mat,
    "arrays": npz,
    "parquet": parquet,
    "lmdb": lsun,
    "celeba": celeba,
    "ffhq": ffhq,
    "emoji": emoji,
}
