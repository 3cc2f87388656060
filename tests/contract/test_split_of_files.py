"""The split of image files: by what they show, whatever their encoding, archive, name and neighbours."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from image_files import pixels, png, write_tar, write_tree, write_zip
from PIL import Image

from undiffuse.config import validate
from undiffuse.data import Dataset, load_dataset, split_by_content
from undiffuse.data.registry import SOURCE_CONFIGS

FRACTION = 0.4
FILES = {f"{number:03d}.png": png(number) for number in range(30)}


def encoded(seed: int, kind: str, mode: str = "RGB", **options: object) -> bytes:
    """The noise of this seed in another encoding that loses nothing."""
    image = Image.fromarray(pixels(seed)).convert(mode)
    image.save(content := io.BytesIO(), kind, **options)
    return content.getvalue()


def palette(seed: int) -> bytes:
    image = Image.fromarray(pixels(seed)).quantize(64)  # 64 pixels have at most 64 colours
    assert np.array_equal(np.asarray(image.convert("RGB")), pixels(seed))
    image.save(content := io.BytesIO(), "png")
    return content.getvalue()


def sides(dataset: Dataset) -> dict[str, str]:
    """File name -> the part that it falls into."""
    parts = zip(("train", "validation"), split_by_content(dataset, FRACTION), strict=True)
    return {Path(part.item_name(i).split("!")[-1]).name: side for side, part in parts for i in range(len(part))}


def of_folder(folder: Path, files: Mapping[str, bytes], **options: object) -> Dataset:
    write_tree(folder, files)
    return load_dataset(validate(SOURCE_CONFIGS["folder"], {"name": "folder", "path": str(folder), **options}))


def test_both_parts_are_there(tmp_path: Path) -> None:
    assert set(sides(of_folder(tmp_path, FILES)).values()) == {"train", "validation"}


LOSSLESS = {
    "bmp": {},
    "tiff": {"compression": "tiff_lzw"},
    "webp": {"lossless": True},
    "ppm": {},
    "png": {"compress_level": 1},
}


@pytest.mark.parametrize("kind", LOSSLESS)
def test_another_encoding_of_equal_pixels_is_on_the_same_side(kind: str, tmp_path: Path) -> None:
    again = {f"again-{number:03d}.{kind}": encoded(number, kind, **LOSSLESS[kind]) for number in range(30)}
    dataset = of_folder(tmp_path, {**FILES, **again})
    found = sides(dataset)
    assert len(found) == 60
    assert all(found[f"{number:03d}.png"] == found[f"again-{number:03d}.{kind}"] for number in range(30))
    train, validation = ({item.tobytes() for item in part.hashes()} for part in split_by_content(dataset, FRACTION))
    assert not train & validation and len(train | validation) == 30


def test_a_palette_and_an_opaque_alpha_are_no_other_image(tmp_path: Path) -> None:
    modes = {f"palette-{number:03d}.png": palette(number) for number in range(30)}
    modes |= {f"alpha-{number:03d}.png": encoded(number, "png", "RGBA") for number in range(30)}
    found = sides(of_folder(tmp_path, {**FILES, **modes}, channels=3))
    for number in range(30):
        assert len({found[f"{kind}{number:03d}.png"] for kind in ("", "palette-", "alpha-")}) == 1


def test_images_that_join_move_no_other(tmp_path: Path) -> None:
    before = sides(of_folder(tmp_path, FILES))
    joined = {f"a-{number}.png": png(number) for number in range(100, 140)}  # some of them before all others by name
    after = sides(of_folder(tmp_path, joined))
    assert len(after) == 70 and {name: after[name] for name in before} == before
    for name in list(FILES)[::2]:
        (tmp_path / name).unlink()
    fewer = sides(load_dataset(validate(SOURCE_CONFIGS["folder"], {"name": "folder", "path": str(tmp_path)})))
    assert len(fewer) == 55 and all(after[name] == side for name, side in fewer.items())


def test_a_image_keeps_its_side_in_an_archive_under_another_name_and_at_another_size(tmp_path: Path) -> None:
    expected = sides(of_folder(tmp_path / "folder", FILES))
    assert sides(of_folder(tmp_path / "folder", {}, size=4)) == expected
    renamed = {f"z{29 - number:03d}.png": FILES[f"{number:03d}.png"] for number in range(30)}
    found = sides(of_folder(tmp_path / "renamed", renamed))
    assert {f"{29 - int(name[1:4]):03d}.png": side for name, side in found.items()} == expected
    archives = {"zip": write_zip(tmp_path / "a.zip", FILES), "tar": write_tar(tmp_path / "a.tar", FILES)}
    for source, path in archives.items():
        dataset = load_dataset(validate(SOURCE_CONFIGS[source], {"name": source, "path": str(path)}))
        assert [*split_by_content(dataset, FRACTION)[1].hashes().tobytes()] == [
            *split_by_content(of_folder(tmp_path / "folder", {}), FRACTION)[1].hashes().tobytes()
        ], source
