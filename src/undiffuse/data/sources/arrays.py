"""Images in NumPy files: ``.npy``, which is memory-mapped and may be larger than memory, and ``.npz``.

Arrays are recognized by the names that ``numpy.savez`` writes (``arr_0``, ``arr_1``) and by those of Keras
(``x_train``, ``y_train``) and MedMNIST (``train_images``, ``train_labels``); captions by ``captions`` and the like.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from undiffuse.captions import join_alternatives
from undiffuse.data.config import ArraysConfig
from undiffuse.data.dataset import Dataset, Hashes, Indices, hash_item
from undiffuse.data.readers.decoding.image import fit_image, from_array, to_array, with_channels
from undiffuse.data.readers.npy import Array, Header, Npz, map_npy
from undiffuse.data.sources.array_images import image_dataset
from undiffuse.data.sources.layout.caption_column import CaptionColumn, caption_column
from undiffuse.data.storage.cache import log_provenance
from undiffuse.errors import UsageError
from undiffuse.images import uint8_advice
from undiffuse.registry import nearest

_CHUNK = 256  # images that are hashed or checked at once
_MAX_CLASSES = 1_000_000
_IMAGES = ("images", "x", "data", "samples", "arr_0")
_LABELS = ("labels", "y", "label", "targets", "arr_1")
_CAPTIONS = ("captions", "caption", "texts", "text", "prompts", "prompt")


class _Mapped(Dataset):
    """Images of a memory-mapped file; (N, H, W), (N, H, W, C) or (N, C, H, W)."""

    def __init__(self, config: ArraysConfig, array: Array, axes: str, provenance: Mapping[str, str]) -> None:
        self._config, self._stored, self._axes = config, array, axes
        channels, height, width = self._read(np.zeros(0, dtype=np.int64)).shape[1:]
        size = config.target or (height, width)
        shape = (config.channels or channels, *size)
        self._unchanged = shape == (channels, height, width)
        options = "as found" if self._unchanged else config.options_text
        super().__init__(config.name, shape, (), {**provenance, "options": options})
        self._hashes: Hashes | None = None
        self.items(np.zeros(1, dtype=np.int64))  # raises now if the options do not fit

    def __len__(self) -> int:
        return len(self._stored)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stored": None}  # another process maps the file again

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_stored": map_npy(state["_config"].location)})

    @property
    def labels(self) -> Indices | None:
        return None

    def hashes(self) -> Hashes:
        if self._hashes is None:
            found = bytearray()
            for start in range(0, len(self), _CHUNK):
                rows = np.arange(start, min(start + _CHUNK, len(self)))
                found += b"".join(hash_item(image.tobytes()) for image in self._read(rows))
            self._hashes = np.frombuffer(bytes(found), dtype=np.uint8).reshape(len(self), -1)
        return self._hashes

    def items(self, indices: Indices) -> npt.NDArray[Any]:
        found = self._read(indices)
        if self._unchanged:
            return found
        return np.stack([self._fitted(image) for image in found]) if len(found) else np.zeros((0, *self.shape), "u1")

    def _read(self, rows: Indices) -> npt.NDArray[np.uint8]:
        """Images (B, C, H, W) at these rows, as stored in the file."""
        return to_uint8(to_nchw(np.asarray(self._stored[rows]), self._axes), self._config, str(self._config.location))

    def _fitted(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        config, size = self._config, (self.shape[1], self.shape[2])
        fitted = fit_image(from_array(image), size, config.fit, config.upscale, config.background)
        return to_array(with_channels(fitted, self.shape[0]))


def load(config: ArraysConfig) -> Dataset:
    """Load the images of a file, with labels if a ``.npz`` has them.

    Raises:
        UsageError: if the file is missing or damaged, holds Python objects, no array that can be images, or values
            that are not levels, or if the labels do not fit.
    """
    path = config.location
    if not path.is_file():
        raise UsageError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}; expected a .npy or .npz file")
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK" or path.suffix == ".npz"
    return _load_npz(config, path) if zipped else _load_npy(config, path)


def _load_npy(config: ArraysConfig, path: Path) -> Dataset:
    if config.array != "auto" or {config.labels, config.captions} - {"auto", "none"}:
        raise UsageError(f"{path}: a .npy file holds one array without a name; leave array, labels and captions out")
    array = map_npy(path)
    check_levels(config, array.dtype, lambda: array, str(path))
    axes = infer_axes(config, Header(array.shape, array.dtype), str(path))
    return _Mapped(config, array, axes, _provenance(str(path), axes))


def _load_npz(config: ArraysConfig, path: Path) -> Dataset:
    archive = Npz(path)
    name = _images_name(config, archive)
    title = archive.title(name)
    check_levels(config, archive.headers[name].dtype, lambda: archive.read(name), title)
    axes = infer_axes(config, archive.headers[name], title)
    images = to_uint8(to_nchw(archive.read(name), axes), config, title)
    label_name = _labels_name(config, archive, name)
    labels = None if label_name is None else _labels(archive, label_name, len(images))
    names = [] if labels is None else [str(number) for number in range(int(labels.max()) + 1)]
    about = {**_provenance(title, axes), "labels": "none found" if label_name is None else archive.title(label_name)}
    caption_name = _captions_name(config, archive)
    captions, about_captions = _captions(archive, caption_name, len(images))
    unused = [other for other in archive.headers if other not in (name, label_name, caption_name)]
    about |= {**about_captions, **({"arrays_not_read": ", ".join(unused)} if unused else {})}
    log_provenance(path, about_captions)
    return image_dataset(config, images, labels, names, about, captions)


def _provenance(source: str, axes: str) -> dict[str, str]:
    text = f"{axes} (set data.axes=NHW, NHWC or NCHW to override)"
    return {"source": source, "licence": "not stated in the file", "axes": text}


def _images_name(config: ArraysConfig, archive: Npz) -> str:
    if config.array != "auto":
        return _check_name(config.array, archive, "array")
    split = config.split
    likely = [f"x_{split}", f"{split}_images", f"{split}_x", *_IMAGES]
    name = next((name for name in likely if name in archive.headers), None)
    candidates = [name for name, header in archive.headers.items() if len(header.shape) in (3, 4)]
    if name is None and len(candidates) != 1:
        raise UsageError(
            f"{archive.path}: {len(candidates)} arrays that may be images for split={split}; name one with "
            f"data.array=NAME, of: {', '.join(archive.headers)}"
        )
    return name or candidates[0]


def _labels_name(config: ArraysConfig, archive: Npz, images: str) -> str | None:
    if config.labels not in ("auto", "none") or config.labels == "none" in archive.headers:
        return _check_name(config.labels, archive, "labels")
    split = config.split
    likely = [f"y_{split}", f"{split}_labels", f"{split}_y", *_LABELS]
    return next((n for n in likely if n in archive.headers and n != images), None) if config.labels == "auto" else None


def _captions_name(config: ArraysConfig, archive: Npz) -> str | None:
    if config.captions not in ("auto", "none") or config.captions == "none" in archive.headers:
        return _check_name(config.captions, archive, "captions")
    split = config.split
    likely = [name for kind in _CAPTIONS for name in (f"{kind}_{split}", f"{split}_{kind}", kind)]
    return next((name for name in likely if name in archive.headers), None) if config.captions == "auto" else None


def _captions(archive: Npz, name: str | None, count: int) -> CaptionColumn:
    """Captions, one or several for each image; empty ones do not count."""
    if name is None:
        return CaptionColumn(None, {})
    shape, dtype = archive.headers[name]
    title = archive.title(name)
    if dtype.kind not in "US" or len(shape) not in (1, 2):
        what = f"{dtype} of {_format_shape(shape)}"
        raise UsageError(f"{title}: {what}; expected strings, one or several for each image, or data.captions=none")
    if shape[0] != count:
        raise UsageError(f"{title}: captions of {shape[0]} images for {count} images; expected them for each image")
    try:
        rows = np.char.decode(found, "utf-8") if (found := archive.read(name)).dtype.kind == "S" else found
    except UnicodeDecodeError:
        raise UsageError(f"{title}: not UTF-8 text; expected captions") from None
    texts = [join_alternatives(row) for row in rows.reshape(count, -1).tolist()]
    return caption_column(texts, np.array([row if text else -1 for row, text in enumerate(texts)], dtype=np.int64))


def _check_name(name: str, archive: Npz, option: str) -> str:
    if name not in archive.headers:
        raise UsageError(f"{archive.path}: no array {name!r} for {option}; {nearest(name, archive.headers)}")
    return name


def _labels(archive: Npz, name: str, count: int) -> npt.NDArray[np.int64]:
    """Class indices: integers from 0, one per image; the shape (N, 1) is accepted too."""
    labels, title = archive.read(name), archive.title(name)
    if labels.dtype.kind not in "iu" or labels.size != len(labels):
        raise UsageError(
            f"{title}: {labels.dtype} of {_format_shape(labels.shape)}; expected one whole number per image"
        )
    if len(labels) != count:
        raise UsageError(f"{title}: {len(labels)} labels for {count} images; expected one label per image")
    if labels.min() < 0 or labels.max() >= _MAX_CLASSES:
        raise UsageError(f"{title}: labels {labels.min()}..{labels.max()}; expected class numbers from 0")
    return labels.reshape(-1).astype(np.int64)


def infer_axes(config: ArraysConfig, header: Header, title: str) -> str:
    """Axes of an array of images: as configured, or inferred from the axis of length 1 or 3.

    Raises:
        UsageError: if the array cannot be images, or its axes are ambiguous.
    """
    shape = header.shape
    if len(shape) not in (3, 4) or 0 in shape:
        raise UsageError(f"{title}: {_format_shape(shape)}; expected images as NxHxW, NxHxWxC or NxCxHxW, at least one")
    candidates = [a for a in (("NHW",) if len(shape) == 3 else ("NHWC", "NCHW")) if _channels(shape, a) in (1, 3)]
    if config.axes != "auto":
        if config.axes not in candidates:
            raise UsageError(
                f"{title}: {_format_shape(shape)} does not fit axes={config.axes}; expected 1 or 3 channels"
            )
        return config.axes
    if len(candidates) != 1:
        why = "no axis of 1 or 3 channels" if not candidates else "the channels may be first or last"
        raise UsageError(f"{title}: {_format_shape(shape)}: {why}; set data.axes=NHWC or data.axes=NCHW")
    return candidates[0]


def _channels(shape: Sequence[int], axes: str) -> int:
    return shape[axes.index("C")] if "C" in axes else 1


def check_levels(config: ArraysConfig, dtype: np.dtype[Any], read: Callable[[], Array], title: str) -> None:
    """Raise ``UsageError`` if the dtype does not match ``levels``; ``read`` returns the values for the advice."""
    if config.levels == "0..255" and dtype != np.uint8:
        advice = _advice(read()) if dtype.kind in "fiub" else "save them as numpy.uint8"
        raise UsageError(f"{title}: numbers of type {dtype}; expected unsigned bytes 0..255; {advice}")
    if config.levels != "0..255" and dtype.kind != "f":
        raise UsageError(f"{title}: numbers of type {dtype}; levels={config.levels} is for floating-point numbers")


def _advice(array: Array) -> str:
    """Advice on the conversion, from the first values."""
    part = array[:_CHUNK]
    if part.size == 0:
        return "save them as numpy.uint8"
    low, high = float(part.min()), float(part.max())
    declared = array.dtype.kind == "f" and low >= -1 and high <= 1
    levels = f"declare them with data.levels={'-1..1' if low < 0 else '0..1'}, or " if declared else ""
    return f"they go from {low:.4g} to {high:.4g}: {levels}save {uint8_advice(low, high)}, as numpy.uint8"


def to_nchw(array: Array, axes: str) -> Array:
    """View an array with any of the axes as (N, C, H, W)."""
    if axes == "NHW":
        return array[:, None]
    return array.transpose(0, 3, 1, 2) if axes == "NHWC" else array


def to_uint8(array: Array, config: ArraysConfig, title: str) -> npt.NDArray[np.uint8]:
    """Convert to levels 0..255 in a new contiguous array.

    Raises:
        UsageError: if a value is outside the declared range.
    """
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    low = -1.0 if config.levels == "-1..1" else 0.0
    levels = np.empty(array.shape, dtype=np.uint8)
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK].astype(np.float32)
        if not (part.min() >= low and part.max() <= 1):
            raise UsageError(f"{title}: values {part.min():g}..{part.max():g}, outside levels={config.levels}")
        levels[start : start + _CHUNK] = np.rint((part - low) * (255 / (1 - low)))
    return levels


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "one number"
