"""Arrays and image files as ``data:`` addresses, each within a budget of bytes so that the page stays small."""

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

# All budgets together, and a third more for base64, leave room for the curves in a page of five megabytes.
GRID_BYTES = 450_000
AUGMENTATION_BYTES = 150_000
WIDEST_AUGMENTATION = 1600
FRAME_BYTES = 45_000
PREVIEW_BYTES = 60_000
COMPARED_BYTES = 1_000_000  # samples of all runs of a comparison together
STUDY_BYTES = 1_400_000  # all images of all studies together
LARGEST_STUDY_BYTES = 220_000
WIDEST_STUDY = 1400  # pixels: a page shows an image at most about 1,000 wide
MOST_ITEMS = 64
MOST_POINTS = 20_000
MOST_FRAMES = 12
MOST_ROWS = 8
GAP = 4


class EmbeddedImage(NamedTuple):
    """One embedded image: its address, its label, its size in pixels.

    ``pixelated``: its pixels are meant to be seen; ``density``: black on white, to be inverted on a dark page.
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
        return _cloud(items, label, limit, GRID_BYTES)
    items = items[:MOST_ITEMS]
    return embed(_grid(items, max(1, round(len(items) ** 0.5))), label, GRID_BYTES, _small(items))


def prepared_grid(grid: Array | None, label: str) -> EmbeddedImage | None:
    """A grid (C, height, width) that is put together already."""
    if grid is None:
        return None
    image = to_image(grid)
    shrunk = image.width > WIDEST_AUGMENTATION
    image.thumbnail((WIDEST_AUGMENTATION, WIDEST_AUGMENTATION))
    return embed(image, label, AUGMENTATION_BYTES, pixelated=not shrunk)


def column(items: Array, label: str, limit: float, budget: int, columns: int = 4) -> EmbeddedImage | None:
    """The first items of a run, to compare with those of others: the same position is the same seed."""
    if not len(items):
        return None
    if items.ndim == 2:
        return _cloud(items, label, limit, budget)
    return embed(_grid(items[: MOST_ROWS * columns], columns), label, budget, _small(items))


def study_figures(paths: Sequence[tuple[Path, str]]) -> list[EmbeddedImage | None]:
    """Images of studies, path and label each, within one budget; ``None`` for a file that is no image."""
    budget = min(LARGEST_STUDY_BYTES, STUDY_BYTES // max(len(paths), 1))
    return [_study_figure(path, label, budget) for path, label in paths]


def _study_figure(path: Path, label: str, budget: int) -> EmbeddedImage | None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            flat = _on_white(image.convert("RGBA"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    flat.thumbnail((WIDEST_STUDY, 4 * WIDEST_STUDY), Image.Resampling.LANCZOS)
    return embed(flat, label, budget)


def frames(filmstrip: Array, labels: list[str], limit: float) -> list[EmbeddedImage]:
    """One tall image a time: the same samples below each other, so that a row is one sample over time."""
    keep = spread(len(filmstrip), MOST_FRAMES)
    if filmstrip.ndim == 3:
        limits = [max(limit, limit_of(filmstrip[k])) for k in keep]
        return [
            _cloud(filmstrip[k], labels[k], reach, FRAME_BYTES, side=110) for k, reach in zip(keep, limits, strict=True)
        ]
    small = _small(filmstrip)
    return [embed(_grid(filmstrip[k, :MOST_ROWS], 1), labels[k], FRAME_BYTES, small) for k in keep]


def previews(folder: Path, most: int = 6) -> list[EmbeddedImage]:
    """Up to ``most`` of the previews that training left, first and last among them; warns of damaged ones."""
    from PIL import Image

    found = sorted(folder.glob("*.png"))
    strip = []
    for index in spread(len(found), most):
        try:
            with Image.open(found[index]) as image:
                image.verify()  # the checksums of a PNG, which are not looked at otherwise
            with Image.open(found[index]) as image:
                strip.append(embed(image.convert("RGB"), _images_seen(found[index].stem), PREVIEW_BYTES, True))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what Pillow says of broken files
            note(f"{found[index]} is damaged; the page shows none in its place")
    return strip


def embed(image: Image, label: str, budget: int, pixelated: bool = False) -> EmbeddedImage:
    """The image as the first of its encodings that takes no more than ``budget`` bytes."""
    kind, content = next((kind, content) for kind, content in _encodings(image) if len(content) <= budget)
    uri = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return EmbeddedImage(uri, label, image.width, image.height, pixelated)


def _cloud(points: Array, label: str, limit: float, budget: int, side: int = 240) -> EmbeddedImage:
    """The density of points."""
    image = embed(to_image(density_of(points[:MOST_POINTS], limit, side=side)), label, budget)
    return image._replace(density=True)


def limit_of(points: Array) -> float:
    """Half the side of a square around 0 that shows nearly all points."""
    finite = np.abs(points[np.isfinite(points)])
    return float(np.quantile(finite, 0.995)) * 1.15 + 1e-3 if finite.size else 1.0


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` indices of ``count``, evenly spread, with both ends."""
    return sorted({round(position) for position in np.linspace(0, count - 1, min(count, most))}) if count else []


def _grid(items: Array, columns: int) -> Image:
    """A grid of images that are apart: what is between them and around is transparent."""
    grid = to_image(grid_of(items, columns, GAP, smallest_side=64))
    covered = grid_of(np.full_like(items[:, :1], 255), columns, GAP, smallest_side=64) == 255
    grid.putalpha(to_image((covered * 255).astype(np.uint8)))
    return grid.crop((GAP, GAP, grid.width - GAP, grid.height - GAP))


def _encodings(image: Image) -> Iterator[tuple[str, bytes]]:
    """Exact first, then WebP where Pillow has it, or JPEG, then smaller and smaller."""
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
