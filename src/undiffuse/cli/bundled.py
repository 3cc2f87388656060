"""``undiffuse models``: the models that come with the installation; and a grid of fresh samples of each."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from undiffuse.cli.terminal import say
from undiffuse.errors import UsageError
from undiffuse.files import replacing
from undiffuse.wording import counted
from undiffuse.zoo import bundled_models
from undiffuse.zoo.card import Bundled, bundled

if TYPE_CHECKING:
    from PIL.Image import Image

    from undiffuse.images import Bytes

#: Samples of each model on the grid, and the side of a sample's cell.
_SHOWN, _SIDE = 16, 96
#: Of the names next to the rows, in pixels.
_TEXT = 18


def list_models(name: str | None, as_json: bool) -> None:
    """Print a line for each bundled model, or one model's card.

    Args:
        name: of the one to tell all about.
        as_json: print JSON instead: a list, or one object.
    Raises:
        UsageError: no such model.
    """
    if name is not None:
        found = bundled(name)
        say(_json(_row(found)) if as_json else (found.folder / "model_card.md").read_text(encoding="utf-8").rstrip())
        return
    rows = [bundled(name) for name in bundled_models()]
    if as_json:
        say(_json([_row(row) for row in rows]))
        return
    width = max(map(len, bundled_models()), default=0)
    for row in rows:
        say(f"{row.name:<{width}}  {_line(row)}")
    say("next: undiffuse sample NAME -n 64, or undiffuse models NAME for its card")


def _line(model: Bundled) -> str:
    card = model.card
    parts = [
        f"{card.title}, {'×'.join(map(str, model.shape))}",
        counted(len(model.class_names), "class") if model.class_names else "no classes",
        f"{counted(card.evaluations, 'evaluation')}",
        card.headline,
        f"{model.num_bytes / 1e6:.1f} MB",
        f"{card.licence}, data: {', '.join(one.licence for one in card.sets)}",
    ]
    return "; ".join(filter(None, parts))


def _row(model: Bundled) -> dict[str, Any]:
    """All there is to say, as plain values; where a model lies is this machine's own affair."""
    return model.model_dump(mode="json", exclude={"folder"})


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def save_bundled_grid(path: Path, device: str = "auto", seed: int = 0) -> list[str]:
    """Write a image with a row of fresh samples for each bundled model, its name with it; returns the names.

    Raises:
        UsageError: no model is bundled.
    """
    from undiffuse.api.loading import load
    from undiffuse.images import grid_of

    names = list(bundled_models())
    if not names:
        raise UsageError("no models are bundled with this installation; put the package's folder zoo back")
    rows = [_cells(load(name, device).sample(_SHOWN, seed=seed).numpy()) for name in names]
    grid = _labelled(grid_of(np.concatenate(rows), columns=_SHOWN, smallest_side=_SIDE), names)
    with replacing(path) as temporary:
        grid.save(temporary, format="PNG", optimize=True)
    return names


def _labelled(grid: Bytes, names: Sequence[str]) -> Image:
    """The grid with the name of each row's model at its left."""
    from PIL import Image, ImageDraw, ImageFont

    from undiffuse.images import to_image

    font = ImageFont.load_default(_TEXT)
    left = math.ceil(max(font.getlength(name) for name in names)) + _TEXT
    drawn = to_image(grid)
    paper = Image.new("RGB", (left + drawn.width, drawn.height), "white")
    paper.paste(drawn, (left, 0))
    row_height = drawn.height / len(names)
    for row, name in enumerate(names):
        place = (left - _TEXT // 2, (row + 0.5) * row_height)
        ImageDraw.Draw(paper).text(place, name, fill="black", font=font, anchor="rm")
    return paper


def _cells(samples: Bytes) -> Bytes:
    """Images of any size and number of channels in the middle of colour cells, enlarged by a whole factor."""
    count, (height, width) = len(samples), samples.shape[2:]
    factor = max(1, _SIDE // max(height, width))
    enlarged = samples.repeat(factor, axis=2).repeat(factor, axis=3)[:, :, :_SIDE, :_SIDE]
    cells = np.full((count, 3, _SIDE, _SIDE), 128, dtype=np.uint8)
    top, left = (_SIDE - enlarged.shape[2]) // 2, (_SIDE - enlarged.shape[3]) // 2
    cells[:, :, top : top + enlarged.shape[2], left : left + enlarged.shape[3]] = enlarged
    return cells
