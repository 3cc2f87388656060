"""Arrays and image files as ``data:`` URIs, each within a byte budget that limits the size of the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from undiffuse.images import density_of, grid_of, to_image
from undiffuse.observer import note

if TYPE_CHECKING:
    from PIL.Image import Image

Array = npt.NDArray[Any]

# All budgets together, plus a third for base64, leave space for the curves in a page of five megabytes.
GRID_BYTES = 450_000
AUGMENTATION_BYTES = 150_000
MAX_AUGMENTATION_WIDTH = 1600
FRAME_BYTES = 45_000
PREVIEW_BYTES = 60_000
COMPARED_BYTES = 1_000_000  # samples of all runs of a comparison together
STUDY_BYTES = 1_400_000  # all images of all studies together
MAX_STUDY_BYTES = 220_000
MAX_STUDY_WIDTH = 1400  # in pixels; a page shows an image at most about 1,000 wide
MAX_ITEMS = 64
MAX_POINTS = 20_000
MAX_FRAMES = 12
MAX_ROWS = 8
GAP = 4


class EmbeddedImage(NamedTuple):
    """One embedded image: its URI, its label, its size in pixels.

    ``pixelated``: to be scaled without smoothing; ``density``: black on white, to be inverted on a dark page.
    """

    uri: str
    label: str
    width: int
    height: int
    pixelated: bool = False
    density: bool = False


def image_grid(items: Array, label: str, limit: float) -> EmbeddedImage:
    """The first items of a batch as one image: a grid of images, or the density of points in [-limit, limit]^2."""
    if items.ndim == 2:
        return _density(items, label, limit, GRID_BYTES)
    items = items[:MAX_ITEMS]
    return embed(_grid(items, max(1, round(len(items) ** 0.5))), label, GRID_BYTES, _small(items))


def prepared_grid(grid: Array | None, label: str) -> EmbeddedImage | None:
    """An assembled grid (C, height, width) as an image."""
    if grid is None:
        return None
    image = to_image(grid)
    shrunk = image.width > MAX_AUGMENTATION_WIDTH
    image.thumbnail((MAX_AUGMENTATION_WIDTH, MAX_AUGMENTATION_WIDTH))
    return embed(image, label, AUGMENTATION_BYTES, pixelated=not shrunk)


def column(items: Array, label: str, limit: float, budget: int, columns: int = 4) -> EmbeddedImage | None:
    """The first items of a run, to compare with other runs: the same position has the same seed."""
    if not len(items):
        return None
    if items.ndim == 2:
        return _density(items, label, limit, budget)
    return embed(_grid(items[: MAX_ROWS * columns], columns), label, budget, _small(items))


def study_figures(paths: Sequence[tuple[Path, str]]) -> list[EmbeddedImage | None]:
    """Images of studies, given by path and label, within one budget; ``None`` for a file that is not an image."""
    budget = min(MAX_STUDY_BYTES, STUDY_BYTES // max(len(paths), 1))
    return [_study_figure(path, label, budget) for path, label in paths]


def _study_figure(path: Path, label: str, budget: int) -> EmbeddedImage | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            flat = _on_white(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flat.thumbnail((MAX_STUDY_WIDTH, 4 * MAX_STUDY_WIDTH), Image.Resampling.LANCZOS)
    return embed(flat, label, budget)


def frames(filmstrip: Array, labels: list[str], limit: float) -> list[EmbeddedImage]:
    """One tall image per time with the same samples below each other, so that a row is one sample over time."""
    keep = spread(len(filmstrip), MAX_FRAMES)
    if filmstrip.ndim == 3:
        limits = [max(limit, limit_of(filmstrip[k])) for k in keep]
        return [
            _density(filmstrip[k], labels[k], reach, FRAME_BYTES, side=110)
            for k, reach in zip(keep, limits, strict=True)
        ]
    small = _small(filmstrip)
    return [embed(_grid(filmstrip[k, :MAX_ROWS], 1), labels[k], FRAME_BYTES, small) for k in keep]


def previews(folder: Path, most: int = 6) -> list[EmbeddedImage]:
    """Up to ``most`` previews from training, including the first and the last; notes damaged files."""
    from PIL import Image

    found = sorted(folder.glob("*.png"))
    strip = []
    for index in spread(len(found), most):
        try:
            with Image.open(found[index]) as image:
                image.verify()  # the checksums of a PNG, which loading does not check
            with Image.open(found[index]) as image:
                strip.append(embed(image.convert("RGB"), _images_seen(found[index].stem), PREVIEW_BYTES, True))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # Pillow's errors for corrupt files
            note(f"{found[index]} is damaged; the page leaves it out")
    return strip


def embed(image: Image, label: str, budget: int, pixelated: bool = False) -> EmbeddedImage:
    """The image in the first of its encodings that takes at most ``budget`` bytes."""
    kind, content = next((kind, content) for kind, content in _encodings(image) if len(content) <= budget)
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return EmbeddedImage(uri, label, image.width, image.height, pixelated)


def _density(points: Array, label: str, limit: float, budget: int, side: int = 240) -> EmbeddedImage:
    """The density of points as an image."""
    image = embed(to_image(density_of(points[:MAX_POINTS], limit, side=side)), label, budget)
    return image._replace(density=True)


def limit_of(points: Array) -> float:
    """Half the side of a square around 0 that contains nearly all points."""
    finite = np.abs(points[np.isfinite(points)])
    return float(np.quantile(finite, 0.995)) * 1.15 + 1e-3 if finite.size else 1.0


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of ``count`` indices, evenly spaced, including both ends."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, most))}) if count else []


def _grid(items: Array, columns: int) -> Image:
    """A grid of images with transparent gaps between them."""
    grid = to_image(grid_of(items, columns, GAP, smallest_side=64))
    covered = grid_of(np.full_like(items[:, :1], 255), columns, GAP, smallest_side=64) == 255
    grid.putalpha(to_image((covered * 255).astype(np.uint8)))
    return grid.crop((GAP, GAP, grid.width - GAP, grid.height - GAP))


def _encodings(image: Image) -> Iterator[tuple[str, bytes]]:
    """Lossless first, then WebP if Pillow supports it, or JPEG, at decreasing sizes."""
    from PIL import Image, features

    yield "png", _encoded(image, "PNG", optimize=image.width * image.height < 1_000_000)
    image, lossy = _on_white(image), "webp" if features.check("webp") else "jpeg"
    while True:
        yield lossy, _encoded(image, lossy.upper(), quality=88)
        if image.size == (1, 1):
            return
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.LANCZOS)


def _on_white(image: Image) -> Image:
    from PIL import Image

    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A") if "A" in image.getbands() else None)
    return flat


def _encoded(image: Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _small(items: Array) -> bool:
    return bool(max(items.shape[-2:]) <= 64)


def _images_seen(stem: str) -> str:
    digits = stem.rsplit("_", 1)[-1]
    return f"{int(digits):,} images" if digits.isdecimal() else stem
