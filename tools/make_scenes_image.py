"""Draw docs/gallery/scenes.png: some scenes of the source ``scenes`` with their captions.

python tools/make_scenes_image.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from undiffuse.data import ScenesConfig, load_dataset

OUT = Path(__file__).resolve().parents[1] / "docs" / "gallery" / "scenes.png"
COLUMNS, ROWS, ZOOM, GAP, LINE, LINES, LETTERS = 5, 2, 5, 10, 12, 4, 30
FIRST = 8


def main() -> None:
    """Draw the image."""
    dataset = load_dataset(ScenesConfig())
    numbers = np.arange(FIRST, FIRST + COLUMNS * ROWS)
    batch = dataset.fetch(numbers)
    side = dataset.shape[1] * ZOOM
    page = Image.new("RGB", (COLUMNS * (side + GAP) - GAP, ROWS * (side + LINES * LINE + GAP)), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(LINE - 2)
    for place, (image, caption) in enumerate(zip(batch.items.numpy(), batch.captions, strict=True)):
        x, y = place % COLUMNS * (side + GAP), place // COLUMNS * (side + LINES * LINE + GAP)
        page.paste(Image.fromarray(image.transpose(1, 2, 0)).resize((side, side), Image.Resampling.NEAREST), (x, y))
        for row, text in enumerate(textwrap.wrap(caption, LETTERS)):
            pen.text((x, y + side + 2 + row * LINE), text, fill="black", font=font)
    page.quantize(256).save(OUT, optimize=True)
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
