"""Folders of images: every mode, orientation and size that Pillow writes, classes, and how they are fitted."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from undiffuse.data import FolderConfig, describe, load_dataset, preview_grid, source_config_for
from undiffuse.data.readers.decoding.image import default_side, fit_image, read_image, to_array
from undiffuse.data.storage import encoded
from undiffuse.errors import UsageError

HEIGHT, WIDTH = 12, 20


def gradient() -> np.ndarray:
    """(H, W, 3): red grows to the right, green downwards, blue is constant; no symmetry."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8)
    pixels[..., 0] = np.linspace(20, 235, WIDTH)
    pixels[..., 1] = np.linspace(20, 235, HEIGHT)[:, None]
    pixels[..., 2] = 90
    return pixels


def grey() -> np.ndarray:
    return np.asarray(Image.fromarray(gradient()).convert("L"))


def save_rgb(mode: str) -> Image.Image:
    image = Image.fromarray(gradient())
    if mode == "LAB":
        lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        return ImageCms.applyTransform(image, ImageCms.buildTransform(rgb, lab, "RGB", "LAB"))
    return image.convert(mode)


def fetch_one(folder: Path, **options: object) -> np.ndarray:
    dataset = load_dataset(FolderConfig(path=str(folder), **options))  # type: ignore[arg-type]
    return dataset.items(np.array([0]))[0]


@pytest.mark.parametrize(
    ("mode", "ending", "tolerance"),
    [
        ("RGB", "png", 0),
        ("RGB", "bmp", 0),
        ("RGB", "webp", 40),
        ("RGB", "jpg", 30),
        ("RGB", "ppm", 0),
        ("RGB", "tga", 0),
        ("RGBA", "png", 0),
        ("RGBX", "tif", 0),
        ("CMYK", "tif", 2),
        ("CMYK", "jpg", 30),
        ("YCbCr", "tif", 4),
        ("LAB", "tif", 12),
        ("P", "png", 60),
        ("P", "gif", 60),
    ],
)
def test_colour_modes_are_read_as_rgb(tmp_path: Path, mode: str, ending: str, tolerance: int) -> None:
    save_rgb(mode).save(tmp_path / f"x.{ending}")
    found = fetch_one(tmp_path)
    assert found.shape == (3, HEIGHT, WIDTH) and found.dtype == np.uint8
    assert np.abs(found.transpose(1, 2, 0).astype(int) - gradient()).max() <= tolerance


@pytest.mark.parametrize(("mode", "ending"), [("L", "png"), ("L", "pgm"), ("LA", "png"), ("L", "tif"), ("L", "JPG")])
def test_grey_modes_are_read_as_grey(tmp_path: Path, mode: str, ending: str) -> None:
    Image.fromarray(grey()).convert(mode).save(tmp_path / f"x.{ending}")
    found = fetch_one(tmp_path)
    assert found.shape == (1, HEIGHT, WIDTH)
    assert np.abs(found[0].astype(int) - grey()).max() <= (8 if ending == "JPG" else 0)


def test_one_bit_images_become_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(grey() > 128).save(tmp_path / "x.png")
    assert np.array_equal(fetch_one(tmp_path)[0], np.where(grey() > 128, 255, 0))


@pytest.mark.parametrize("ending", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, ending: str) -> None:
    Image.fromarray(grey().astype(np.uint16) * 257).save(tmp_path / f"x.{ending}")
    assert np.array_equal(fetch_one(tmp_path)[0], grey())


@pytest.mark.parametrize(("dtype", "factor"), [(np.int32, 257), (np.float32, 1 / 255)])
def test_wide_integers_and_floats_are_scaled(tmp_path: Path, dtype: type, factor: float) -> None:
    Image.fromarray((grey() * np.float64(factor)).astype(dtype)).save(tmp_path / "x.tif")
    assert np.abs(fetch_one(tmp_path)[0].astype(int) - grey()).max() <= 1


def test_transparent_pixels_show_the_background(tmp_path: Path) -> None:
    rgba = np.dstack([gradient(), np.full((HEIGHT, WIDTH), 255, dtype=np.uint8)])
    rgba[:, :10, 3] = 0
    rgba[0, 15, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "x.png")
    white, red = fetch_one(tmp_path), fetch_one(tmp_path, background=(255, 0, 0))
    assert (white[:, :, :10] == 255).all()
    assert (red[0, :, :10] == 255).all() and (red[1:, :, :10] == 0).all()
    assert np.array_equal(white[:, 1:, 10:], gradient().transpose(2, 0, 1)[:, 1:, 10:])
    assert np.abs(white[:, 0, 15].astype(int) - (gradient()[0, 15].astype(int) + 255) / 2).max() <= 2


def test_palette_transparency_shows_the_background(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([10, 20, 30, 200, 210, 220])
    image.putpixel((1, 1), 1)
    image.save(tmp_path / "x.png", transparency=0)
    found = fetch_one(tmp_path)
    assert found[:, 1, 1].tolist() == [200, 210, 220] and (found[:, 0] == 255).all()


def test_grey_with_transparency_stays_grey_on_a_grey_background(tmp_path: Path) -> None:
    levels = np.dstack([grey(), np.where(grey() > 128, 255, 0).astype(np.uint8)])
    Image.fromarray(levels, mode="LA").save(tmp_path / "x.png")
    assert np.array_equal(fetch_one(tmp_path, background=7)[0], np.where(grey() > 128, grey(), 7))
    assert fetch_one(tmp_path, background=(0, 0, 255)).shape[0] == 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "tif", "jpg"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, ending: str) -> None:
    transposes = Image.Transpose
    stored = {
        2: transposes.FLIP_LEFT_RIGHT,
        3: transposes.ROTATE_180,
        4: transposes.FLIP_TOP_BOTTOM,
        5: transposes.TRANSPOSE,
        6: transposes.ROTATE_90,
        7: transposes.TRANSVERSE,
        8: transposes.ROTATE_270,
    }
    upright = Image.fromarray(gradient())
    lying = upright.transpose(stored[orientation]) if orientation in stored else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    lying.save(tmp_path / f"x.{ending}", exif=exif, **({"quality": 95} if ending == "jpg" else {}))
    found = fetch_one(tmp_path).transpose(1, 2, 0)
    assert found.shape == (HEIGHT, WIDTH, 3)  # the size is known from the header, so it must count the turn
    assert np.abs(found.astype(int) - gradient()).max() <= (40 if ending == "jpg" else 0)


def test_the_first_frame_of_an_animation_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (200, 10)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert np.abs(fetch_one(tmp_path).astype(int) - 200).max() <= 1


def test_crop_keeps_the_centre_and_the_proportions() -> None:
    pixels = np.zeros((40, 80, 3), dtype=np.uint8)
    pixels[:, 20:60] = 200  # exactly the centred square
    image = Image.fromarray(pixels)
    assert (to_array(fit_image(image, (40, 40))) == 200).all()
    shrunk = to_array(fit_image(image, (10, 10))).astype(int)
    assert np.abs(shrunk[:, :, 1:-1] - 200).max() <= 4  # the filter looks a little over the edge of the crop
    assert fit_image(image, (10, 20)).size == (20, 10)


def test_letterbox_keeps_everything_and_never_enlarges_unasked() -> None:
    image = Image.new("L", (80, 40), 200)
    boxed = to_array(fit_image(image, (20, 20), "letterbox", background=9))[0]
    assert (boxed[:5] == 9).all() and (boxed[5:15] == 200).all() and (boxed[15:] == 9).all()
    small = Image.new("L", (4, 4), 200)
    assert (to_array(fit_image(small, (8, 8), "letterbox")) == 200).sum() == 16
    assert (to_array(fit_image(small, (8, 8), "letterbox", upscale=True)) == 200).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.zeros((64, 64), dtype=np.uint8)
    stripes[:, ::2] = 255
    found = to_array(fit_image(Image.fromarray(stripes), (8, 8)))
    assert np.abs(found.astype(int) - 127).max() <= 8  # plain subsampling would give 0 or 255


def test_a_image_of_the_training_size_is_not_touched(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert np.array_equal(fetch_one(tmp_path, size=9).transpose(1, 2, 0), noise)
    assert np.array_equal(fetch_one(tmp_path, size=4).transpose(1, 2, 0).shape, (4, 4, 3))


def test_a_image_that_differs_by_odd_pixels_is_cut_not_resampled(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert np.array_equal(fetch_one(tmp_path, size=9).transpose(1, 2, 0), noise[:, 1:10])


def save_all(folder: Path, names: dict[str, tuple[int, int]], mode: str = "RGB") -> None:
    for index, (name, (height, width)) in enumerate(names.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(path)


def test_order_is_sorted_and_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    names = ["b.png", "a.PNG", "sub/deep/c.png", ".hidden.png", ".cache/x.png", "__MACOSX/._a.png"]
    save_all(tmp_path, dict.fromkeys(names, (8, 8)))
    (tmp_path / "notes.txt").write_text("no image")
    dataset = load_dataset(FolderConfig(path=str(tmp_path)))
    found = [Path(dataset.item_name(index)).relative_to(tmp_path).as_posix() for index in range(len(dataset))]
    assert found == ["a.PNG", "b.png", "sub/deep/c.png"]
    assert dataset.provenance["passed_over"].startswith("1 file without an image extension: notes.txt; 3 hidden")
    assert dataset.num_classes == 0


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    save_all(tmp_path, dict.fromkeys(["flowers/rose/1.png", "flowers/daisy/1.png", "flowers/daisy/2.png"], (8, 8)))
    dataset = load_dataset(source_config_for(str(tmp_path)))  # one folder around everything is no class
    assert dataset.class_names == ("daisy", "rose")
    assert dataset.labels is not None and dataset.labels.tolist() == [0, 0, 1]
    assert load_dataset(FolderConfig(path=str(tmp_path), labels="none")).labels is None
    save_all(tmp_path, {"flowers/rose/wild/1.png": (8, 8)})
    assert load_dataset(FolderConfig(path=str(tmp_path))).labels is None
    nested = load_dataset(FolderConfig(path=str(tmp_path), labels="folders"))
    assert nested.labels is not None and nested.labels.tolist() == [0, 0, 1, 1]


def test_one_sub_folder_is_a_class_only_when_requested(tmp_path: Path) -> None:
    save_all(tmp_path, {"cats/1.png": (8, 8), "cats/2.png": (8, 8)})
    assert load_dataset(FolderConfig(path=str(tmp_path))).num_classes == 0
    assert load_dataset(FolderConfig(path=str(tmp_path), labels="folders")).class_names == ("cats",)


def test_images_of_many_sizes_just_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_all(tmp_path, {"a.png": (50, 70), "b.png": (45, 41), "c.png": (10, 90), "d.png": (200, 300)})
    dataset = load_dataset(FolderConfig(path=str(tmp_path)))
    assert dataset.shape == (3, 48, 48)
    assert "10x90 to 200x300" in dataset.provenance["size_chosen"]
    assert "size=48, which 2 of 4 reach, the others enlarged" in dataset.provenance["size_chosen"]
    assert "size=48" in caplog.text
    assert load_dataset(FolderConfig(path=str(tmp_path), size=(8, 10))).shape == (3, 8, 10)


@pytest.mark.parametrize(
    ("sides", "chosen"),
    [
        ([8, 8, 64, 64], 64),  # half of them reach it
        ([8, 8, 8, 64, 64], 8),
        ([1, 64], 64),
        ([1, 2, 3, 64], 64),  # strips are no reason to train on one pixel
        ([3, 5, 5], 5),
        ([7, 8], 8),
        ([100, 200, 300], 64),
        ([41, 45, 50], 40),
    ],
)
def test_the_size_chosen_is_one_that_half_of_the_images_reach(sides: list[int], chosen: int) -> None:
    assert default_side(np.array(sides)) == chosen


def test_grey_and_colour_together_are_colour(tmp_path: Path) -> None:
    save_all(tmp_path, {"a.png": (8, 8)})
    save_all(tmp_path, {"b.png": (8, 8)}, "L")
    dataset = load_dataset(FolderConfig(path=str(tmp_path)))
    assert dataset.shape == (3, 8, 8)
    one = dataset.items(np.array([1]))[0]
    assert np.array_equal(one[0], one[1])
    assert load_dataset(FolderConfig(path=str(tmp_path), channels=1)).shape == (1, 8, 8)


def test_hashes_see_through_file_format_and_training_size(tmp_path: Path) -> None:
    save_all(tmp_path, {"a.png": (16, 16), "b.png": (16, 16)})
    Image.open(tmp_path / "a.png").save(tmp_path / "c.bmp")
    full, small = load_dataset(FolderConfig(path=str(tmp_path))), load_dataset(FolderConfig(path=str(tmp_path), size=8))
    assert np.array_equal(full.hashes(), small.hashes()) and full.fingerprint != small.fingerprint
    first, second, again = map(bytes, full.hashes())
    assert first == again != second
    assert describe(full, FolderConfig(path="x"))["num_duplicates"] == 1


def test_sets_larger_than_memory_are_decoded_when_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_all(tmp_path, {f"{name}/{i}.png": (12, 10 + i) for name in "ab" for i in range(4)})
    held = load_dataset(FolderConfig(path=str(tmp_path), size=8))
    monkeypatch.setattr("undiffuse.data.storage.encoded.MAX_BYTES_IN_MEMORY", 100)
    lazy = load_dataset(FolderConfig(path=str(tmp_path), size=8, cache="none"))
    assert type(lazy) is not type(held)
    rows = np.array([7, 0, 3])
    assert np.array_equal(lazy.items(rows), held.items(rows))
    assert np.array_equal(lazy.hashes(), held.hashes()) and lazy.fingerprint == held.fingerprint
    assert lazy.item_name(3) == held.item_name(3) and describe(lazy, FolderConfig(path="x"))["classes"] == {
        "a": 4,
        "b": 4,
    }


def test_links_are_followed_and_loops_of_links_end(tmp_path: Path) -> None:
    save_all(tmp_path, {"real/a.png": (8, 8)})
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "linked").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real" / "up").symlink_to(tmp_path / "set", target_is_directory=True)
    assert len(load_dataset(FolderConfig(path=str(tmp_path / "set")))) == 1


def test_reading_leaves_no_warnings_and_the_first_frame_in_rgb_or_grey(tmp_path: Path) -> None:
    Image.fromarray(gradient()).convert("P").save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert read_image(tmp_path / "x.png").mode == "RGB"


def test_real_flowers(shared_data: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(shared_data / "flowers" / "flower_photos_96_center_q92.zip") as archive:
        archive.extractall(tmp_path, [name for name in archive.namelist() if name.endswith(".jpg")][::20])
    dataset = load_dataset(FolderConfig(path=str(tmp_path), size=48))
    assert dataset.shape == (3, 48, 48) and len(dataset) == 184
    assert dataset.class_names == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert preview_grid(dataset, 64).size == (8 * 50 + 2, 8 * 50 + 2)


def test_no_thread_outlives_a_rejection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool left to the garbage collector waits for its threads wherever that comes, and can wait for ever."""
    monkeypatch.setattr(encoded, "MAX_BYTES_IN_MEMORY", 0)
    monkeypatch.setattr(encoded, "num_threads", 2)
    for number in range(40):
        Image.fromarray(gradient()).save(tmp_path / f"{number:03d}.png")
    dataset, before = load_dataset(FolderConfig(path=str(tmp_path), cache="none")), set(threading.enumerate())
    (tmp_path / "003.png").write_bytes((tmp_path / "003.png").read_bytes()[:60])
    with pytest.raises(UsageError, match=r"003\.png") as rejected:
        dataset.items(np.arange(40))
    assert rejected.value is not None  # and with it the frames that it came through
    assert not {thread for thread in set(threading.enumerate()) - before if "ThreadPoolExecutor" in thread.name}
