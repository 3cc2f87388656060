"""``data prepare``: what training sees of the archive is what it sees of the source, whoever was killed on the way."""

from __future__ import annotations

import io
import json
import os
import time
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_bytes import png_chunk, write_png, write_profile
from image_files import jsonl, pixels, png, write_tree, write_zip
from PIL import Image

from sparse_product import sparse_product
from undiffuse.data import load_dataset, source_config_for, split_by_content
from undiffuse.data.config import SourceConfig, ZipConfig
from undiffuse.data.dataset import count_distinct
from undiffuse.data.prepare import PrepareSettings, prepare, progress_log
from undiffuse.data.prepare import run as running
from undiffuse.data.prepare import work as working
from undiffuse.data.prepare.progress_log import read_rows
from undiffuse.data.prepare.seen import SeenHashes
from undiffuse.data.prepare.settings import Filters
from undiffuse.data.prepare.worker_pool import in_order
from undiffuse.data.prepare.zip_writer import Member, ZipEnd, member_bytes
from undiffuse.data.readers.file_at import FileAt
from undiffuse.data.readers.zip_index import read_entries
from undiffuse.errors import RunError, UsageError
from undiffuse.locking import HeldError
from undiffuse.observer import OnProgress

SIZE = 12


class InterruptedWorkError(Exception):
    """What stands for the end of a process in these tests."""


def config_of(folder: Path, **options: Any) -> SourceConfig:
    return source_config_for(str(folder)).model_copy(update={"size": SIZE, **options})


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    image.save(content := io.BytesIO(), form, **options)
    return content.getvalue()


def mixed_files() -> dict[str, bytes]:
    """Images of several modes, sizes and formats in two classes."""
    rgb, tall = Image.fromarray(pixels(1, 40)), Image.fromarray(pixels(2, 60)[:, :30])
    clear = Image.fromarray(np.dstack([pixels(3, 30), pixels(4, 30)[:, :, 0]]), "RGBA")
    rotated = Image.Exif()
    rotated[0x0112] = 6
    return {
        "cats/a.png": encoded(rgb, "png"),
        "cats/b.jpg": encoded(tall, "jpeg", quality=95),
        "cats/c.png": encoded(clear, "png"),
        "dogs/a.png": encoded(rgb.convert("L"), "png"),
        "dogs/b.jpg": encoded(tall, "jpeg", exif=rotated),
        "dogs/c.webp": encoded(rgb.resize((90, 20)), "webp", lossless=True),
    }


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "mixed", mixed_files())


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """150 images, of which every tenth is the same as the one before."""
    return write_tree(tmp_path / "many", {f"c{i % 3}/{i:03d}.png": png(i - (i % 10 == 9), 16) for i in range(150)})


def all_of(dataset: Any) -> np.ndarray:
    return dataset.items(np.arange(len(dataset)))


@pytest.mark.parametrize(
    "options",
    [{}, {"fit": "letterbox", "background": (10, 200, 30)}, {"channels": 1}, {"size": (8, 20)}, {"size": None}],
    ids=str,
)
def test_training_on_the_archive_sees_what_training_on_the_source_sees(mixed: Path, options: dict[str, Any]) -> None:
    config, out = config_of(mixed, **options), mixed.with_name("out.zip")
    prepare(config, out, workers=1)
    source, prepared = load_dataset(config), load_dataset(source_config_for(str(out)))
    assert np.array_equal(all_of(source), all_of(prepared))
    assert np.array_equal(source.labels, prepared.labels)
    assert source.class_names == prepared.class_names


def test_arrays_are_prepared_as_they_are_trained_on(tmp_path: Path) -> None:
    config = source_config_for("digits").model_copy(update={"size": 16, "upscale": True, "classes": ("3", "5")})
    manifest = prepare(config, tmp_path / "out.zip", PrepareSettings(duplicates="keep"), workers=2)
    source, prepared = load_dataset(config), load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert np.array_equal(all_of(source), all_of(prepared)) and np.array_equal(source.labels, prepared.labels)
    assert prepared.class_names == ("3", "5") and manifest["pictures"]["classes"] == {"3": 183, "5": 182}  # data


def test_captions_go_along(tmp_path: Path) -> None:
    captions = ["a cat", 'says "hello"', "ein Hündchen 🐶", "one of\nthree\nalternatives", ""]
    lines = jsonl(*({"file_name": f"{i}.png", "text": text.split("\n")} for i, text in enumerate(captions)))
    folder = write_tree(tmp_path / "in", {f"{i}.png": png(i, 16) for i in range(5)} | {"metadata.jsonl": lines})
    prepare(config_of(folder), tmp_path / "out.zip", workers=1)
    prepared = load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert list(prepared.captions or ()) == captions and prepared.labels is None


@pytest.mark.parametrize("duplicates", ["drop", "keep"])
def test_the_archive_is_split_as_its_source_is(many: Path, duplicates: Any) -> None:
    out = many.with_name("out.zip")
    prepare(config_of(many), out, PrepareSettings(duplicates=duplicates), workers=1)
    _, source = split_by_content(load_dataset(config_of(many)), 0.3)
    _, prepared = split_by_content(load_dataset(ZipConfig(path=str(out))), 0.3)
    assert {row.tobytes() for row in all_of(source)} == {row.tobytes() for row in all_of(prepared)}
    assert 0 < len(prepared) < 150


def test_images_that_come_out_alike_are_on_one_side(tmp_path: Path) -> None:
    """Their originals differ where they are cut off, and may lie on two sides."""
    files = {}
    for number in range(20):
        wide = np.zeros((SIZE, SIZE + 8, 3), dtype=np.uint8)
        wide[:, :4] = number
        files[f"{number:02d}.png"] = encoded(Image.fromarray(wide), "png")
    folder = write_tree(tmp_path / "in", files)
    prepare(config_of(folder), tmp_path / "out.zip", PrepareSettings(duplicates="keep"), workers=1)
    source, prepared = load_dataset(config_of(folder)), load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert [len(part) for part in split_by_content(source, 0.5)] not in ([20, 0], [0, 20])
    assert count_distinct(prepared.hashes()) == 1


def test_hashes_of_images_that_were_exchanged_since_are_not_believed(many: Path, tmp_path: Path) -> None:
    prepare(config_of(many), tmp_path / "out.zip", workers=1)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["00000/img00000000.png"] = png(999, SIZE)
    write_zip(tmp_path / "changed.zip", files)
    del files["hashes.bin"]
    write_zip(tmp_path / "bare.zip", files)
    changed, bare = (load_dataset(ZipConfig(path=str(tmp_path / name))) for name in ("changed.zip", "bare.zip"))
    believed = load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert np.array_equal(changed.hashes(), bare.hashes())
    assert not np.array_equal(believed.hashes()[1:], bare.hashes()[1:])


def test_any_tool_reads_it(mixed: Path) -> None:
    """As EDM's own reader does: all images of the archive by sorted name, labels by name out of dataset.json."""
    out = mixed.with_name("out.zip")
    prepare(config_of(mixed), out, workers=1)
    with zipfile.ZipFile(out) as archive:
        assert archive.testzip() is None
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        names = sorted(name for name in archive.namelist() if Path(name).suffix in Image.registered_extensions())
        labels = dict(json.loads(archive.read("dataset.json"))["labels"])
        images = [np.asarray(Image.open(io.BytesIO(archive.read(name)))) for name in names]
    assert names == [f"00000/img{number:08d}.png" for number in range(6)]
    assert [labels[name] for name in names] == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(np.stack(images).transpose(0, 3, 1, 2), all_of(load_dataset(config_of(mixed))))


def test_without_classes_the_labels_are_null(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in", {"a.png": png(1, 16), "b.png": png(2, 16)})
    prepare(config_of(folder), tmp_path / "out.zip", workers=1)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert json.loads(archive.read("dataset.json")) == {"labels": None}
        assert "metadata.jsonl" not in archive.namelist()


def test_the_number_of_workers_changes_no_bit(many: Path) -> None:
    created = []
    for workers in (1, 2, 4):
        prepare(config_of(many), out := many.with_name(f"{workers}.zip"), workers=workers)
        created.append(out.read_bytes())
    assert created[0] == created[1] == created[2]


def stop_after(count: int) -> Any:
    def on_progress(done: float, total: float, what: str) -> None:
        if what == "preparing" and done >= count:
            raise InterruptedWorkError

    return OnProgress(on_progress)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_BLOCK", 8)


@pytest.fixture
def started(many: Path, small_blocks: None) -> tuple[SourceConfig, Path, bytes]:
    """A run that was stopped half-way, and what it would have made."""
    config, out = config_of(many), many.with_name("out.zip")
    prepare(config, many.with_name("whole.zip"), workers=1)
    with pytest.raises(InterruptedWorkError):
        prepare(config, out, workers=1, observer=stop_after(70))
    assert not out.exists()
    return config, out, many.with_name("whole.zip").read_bytes()


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "partial" in path.name)


def test_it_goes_on_and_does_nothing_twice(
    started: tuple[SourceConfig, Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, out, whole = started
    created, encode = [], working.encode_png
    monkeypatch.setattr(working, "encode_png", lambda array: created.append(1) or encode(array))
    prepare(config, out, workers=1)
    assert out.read_bytes() == whole
    assert len(created) == 150 - 72  # a block of eight was under way
    assert leftovers(out.parent) == []


@pytest.mark.parametrize(("share", "what"), sparse_product([0.0, 0.3, 0.77, 0.999], [".partial", ".partial.journal"]))
def test_files_that_were_cut_are_resumed(started: tuple[SourceConfig, Path, bytes], what: str, share: float) -> None:
    """As a machine that lost its power may leave them."""
    config, out, whole = started
    path = out.with_name(out.name + what)
    os.truncate(path, int(path.stat().st_size * share))
    prepare(config, out, workers=2)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("place", [0, 8, 9, 13, 17, 40, 49])
def test_a_damaged_progress_log_is_believed_up_to_the_damage(
    started: tuple[SourceConfig, Path, bytes], place: int
) -> None:
    """One bit of the twentieth row: in its key, reason, size, checksum, one of its hashes, or length of text."""
    config, out, whole = started
    path = out.with_name(out.name + ".partial.journal")  # data
    ends = [end for _, end in read_rows(path)]
    content = bytearray(path.read_bytes())
    content[ends[19] + place] ^= 1
    path.write_bytes(content)
    assert len(list(read_rows(path))) == 20
    prepare(config, out, workers=1)
    assert out.read_bytes() == whole


def test_rows_are_written_when_their_images_are_on_the_disk(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[tuple[int, int]] = []
    data, rows = many.with_name("out.zip.partial"), many.with_name("out.zip.partial.journal")  # data
    monkeypatch.setattr(progress_log, "_COMMIT_ROWS", 40)
    monkeypatch.setattr(
        progress_log, "_sync", lambda descriptor: synced.append((data.stat().st_size, len(list(read_rows(rows)))))
    )
    prepare(config_of(many), many.with_name("out.zip"), workers=1)
    sizes, counts = zip(*synced, strict=True)
    assert counts[:4] == (0, 40, 80, 120) and sizes[0] > 0 and list(sizes) == sorted(sizes)


def test_what_was_written_behind_the_last_image_does_no_harm(started: tuple[SourceConfig, Path, bytes]) -> None:
    config, out, whole = started
    with out.with_name(out.name + ".partial").open("ab") as file:
        file.write(b"lists that were begun" * 5000)
    prepare(config, out, workers=1)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("place", [3, 140])
@pytest.mark.parametrize("change", ["exchanged", "removed", "added"])
def test_a_source_that_changed_meanwhile_is_taken_as_it_is_now(
    started: tuple[SourceConfig, Path, bytes], many: Path, place: int, change: str
) -> None:
    config, out, whole = started
    path = sorted(many.glob("*/*.png"))[place]
    if change == "removed":
        path.unlink()
    else:
        (path if change == "exchanged" else path.with_name(f"{path.stem}b.png")).write_bytes(png(1000, 20))
    prepare(config, out, workers=1)
    prepare(config, fresh := many.with_name("fresh.zip"), workers=1)
    assert out.read_bytes() == fresh.read_bytes() != whole


def test_other_settings_are_rejected_until_overwrite(started: tuple[SourceConfig, Path, bytes]) -> None:
    config, out, _ = started
    with pytest.raises(UsageError, match=r"started with size=12 and not 10; .*--overwrite"):
        prepare(config.model_copy(update={"size": 10}), out, workers=1)
    with pytest.raises(UsageError, match="started with duplicates=drop and not keep"):
        prepare(config, out, PrepareSettings(duplicates="keep"), workers=1)
    prepare(config.model_copy(update={"size": 10}), out, workers=1, overwrite=True)
    assert load_dataset(ZipConfig(path=str(out))).shape == (3, 10, 10)
    assert leftovers(out.parent) == []


@pytest.mark.parametrize("when", ["looking", "preparing"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_two_at_once_are_rejected(many: Path, when: str, overwrite: bool) -> None:
    out, met = many.with_name("out.zip"), []

    def on_progress(done: float, total: float, what: str) -> None:
        if what == when:
            with ThreadPoolExecutor(1) as second, pytest.raises(HeldError, match=r"out\.zip is being written by "):
                second.submit(prepare, config_of(many), out, workers=1, overwrite=overwrite).result()
            met.append(done)

    prepare(config_of(many), out, workers=1, observer=OnProgress(on_progress))
    assert met and leftovers(many.parent) == []


def test_what_failed_goes_on_with_on_error_skip_and_is_no_way_around_fail(many: Path, small_blocks: None) -> None:
    config, out = config_of(many, channels=3), many.with_name("out.zip")
    sorted(many.glob("*/*.png"))[100].write_bytes(b"not an image")
    skip = PrepareSettings(on_error="skip")
    prepare(config, fresh := many.with_name("fresh.zip"), skip, workers=1)
    with pytest.raises(UsageError, match=r"data\.on_error=skip"):
        prepare(config, out, workers=1)
    first: list[int] = []
    with pytest.raises(InterruptedWorkError):
        prepare(config, out, skip, workers=1, observer=stop_after(120))
    with pytest.raises(UsageError, match=r"data\.on_error=skip"):
        prepare(config, out, workers=1)
    prepare(config, out, skip, workers=1, observer=OnProgress(lambda done, total, what: first.append(done)))
    assert first[0] > 100 and out.read_bytes() == fresh.read_bytes()


def test_duplicates_are_left_out_and_named(tmp_path: Path) -> None:
    files = {"cat/a.png": png(1, 16), "cat/b.png": png(1, 16), "dog/a.png": png(1, 16), "dog/b.png": png(2, 16)}
    folder = write_tree(tmp_path / "in", files)
    manifest = prepare(config_of(folder), tmp_path / "out.zip", workers=1)
    assert manifest["dropped"]["reasons"] == {"duplicate": 2} and manifest["pictures"]["classes"] == {  # data
        "cat": 1,
        "dog": 1,
    }
    first, second = (entry["text"] for entry in manifest["dropped"]["first"])
    assert first == f"{folder}/cat/b.png: the same as {folder}/cat/a.png"
    assert second == f"{folder}/dog/a.png: the same as {folder}/cat/a.png, but of class dog"
    keep = prepare(config_of(folder), tmp_path / "all.zip", PrepareSettings(duplicates="keep"), workers=1)
    assert keep["dropped"]["num"] == 0 and keep["pictures"]["num"] == 4  # data


@pytest.mark.parametrize(
    ("filters", "reasons"),
    [
        ({"min_side": 20}, {"below min_side": 1}),
        ({"max_aspect": 1.5}, {"above max_aspect": 2}),
        ({"max_aspect": 2}, {}),
        ({"min_contrast": 3}, {"below min_contrast": 1}),
    ],
)
def test_filters_leave_out_and_count(tmp_path: Path, filters: dict[str, float], reasons: dict[str, int]) -> None:
    wide, tall = (encoded(Image.fromarray(part), "png") for part in (pixels(5, 60)[:30], pixels(6, 60)[:, :30]))
    flat = encoded(Image.new("RGB", (30, 30), (9, 9, 9)), "png")
    folder = write_tree(
        tmp_path / "in", {"a.png": png(1, 30), "b.png": png(2, 19), "c.png": wide, "d.png": flat, "e.png": tall}
    )
    settings = PrepareSettings(filters=Filters.model_validate(filters))
    manifest = prepare(config_of(folder), tmp_path / "out.zip", settings, workers=1)
    assert manifest["dropped"]["reasons"] == reasons
    assert manifest["pictures"]["num"] == 5 - sum(reasons.values())  # data


def test_damage_stops_or_is_skipped_and_counted(mixed: Path) -> None:
    out = mixed.with_name("out.zip")
    (mixed / "cats/b.jpg").write_bytes((mixed / "cats/b.jpg").read_bytes()[:300])
    (mixed / "dogs/small.png").write_bytes(png(1, 5))
    with pytest.raises(UsageError, match=r"^.*cats/b.jpg: damaged .*data.on_error=skip"):
        prepare(config_of(mixed), out, workers=1)
    manifest = prepare(config_of(mixed), out, PrepareSettings(on_error="skip"), workers=2, overwrite=True)
    assert manifest["dropped"]["reasons"] == {"smaller than the training size": 1, "unreadable": 1}
    assert manifest["pictures"]["num"] == 5  # data
    kept = load_dataset(config_of(mixed, on_error="skip"))
    assert np.array_equal(all_of(load_dataset(ZipConfig(path=str(out)))), all_of(kept))


def test_a_damaged_file_that_was_fixed_is_resumed(many: Path, small_blocks: None) -> None:
    out, bad = many.with_name("out.zip"), sorted(many.glob("*/*.png"))[100]
    whole = bad.read_bytes()
    bad.write_bytes(b"not an image")
    config = config_of(many, channels=3)
    with pytest.raises(UsageError, match="not an image"):
        prepare(config, out, workers=1)
    bad.write_bytes(whole)
    first: list[int] = []
    prepare(config, out, workers=1, observer=OnProgress(lambda done, total, what: first.append(done)))
    assert first[0] == 108  # the hundred before were done
    prepare(config, fresh := many.with_name("fresh.zip"), workers=1)
    assert out.read_bytes() == fresh.read_bytes()


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    folder = write_tree(tmp_path / "in", {"a.png": png(1, 16)})
    with pytest.raises(UsageError, match=r"none of the 1 images is left to write \(1 below min_side\)"):
        prepare(config_of(folder), tmp_path / "o.zip", PrepareSettings(filters=Filters(min_side=20)), workers=1)


def test_the_manifest_reports_what_was_done(many: Path) -> None:
    out = many.with_name("out.zip")
    manifest = prepare(config_of(many), out, workers=1)
    with zipfile.ZipFile(out) as archive:
        assert json.loads(archive.read("manifest.json")) == json.loads(json.dumps(manifest))
    assert manifest["source"]["num_pictures"] == 150 and manifest["source"]["location"] == str(many)
    assert manifest["pictures"]["num"] == 135 and manifest["dropped"]["num"] == 15  # data
    assert manifest["settings"]["size"] == (12, 12) and manifest["settings"]["fit"] == "crop"
    (many / "c0/000.png").write_bytes(png(5000, 16))
    other = prepare(config_of(many), out, workers=1, overwrite=True)
    assert other["source"]["fingerprint"] != manifest["source"]["fingerprint"]
    assert other["pictures"]["hash"] != manifest["pictures"]["hash"]  # data


def test_the_archive_knows_where_it_comes_from(tmp_path: Path) -> None:
    config = source_config_for("digits")
    prepare(config, tmp_path / "out.zip", workers=1)
    about = load_dataset(ZipConfig(path=str(tmp_path / "out.zip"))).provenance
    assert about["licence"] == load_dataset(config).provenance["licence"]
    assert about["prepared_from"].startswith("digits, 1797 images") and "other_files_passed_over" not in about


@pytest.mark.parametrize("manifest", ["[]", "{}", "no JSON", '{"source": 3}', '{"source": {"location": 1}}'])
def test_a_manifest_of_somebody_else_is_passed_over(tmp_path: Path, manifest: str) -> None:
    write_zip(tmp_path / "a.zip", {"a.png": png(1, 16), "manifest.json": manifest, "hashes.bin": "short"})
    dataset = load_dataset(ZipConfig(path=str(tmp_path / "a.zip")))
    assert len(dataset) == 1 and "prepared_from" not in dataset.provenance


@pytest.mark.parametrize(
    ("out", "message"),
    [("out.tar", "ending in .zip"), ("in.zip", "exists already"), ("dir.zip", "is a folder"), ("x/y.zip", "")],
)
def test_places_that_will_not_do(tmp_path: Path, out: str, message: str) -> None:
    write_zip(tmp_path / "in.zip", {"a.png": png(1, 16)})
    (tmp_path / "dir.zip").mkdir()
    if not message:
        prepare(config_of(tmp_path / "in.zip"), tmp_path / out, workers=1)
        return
    with pytest.raises(UsageError, match=message):
        prepare(config_of(tmp_path / "in.zip"), tmp_path / out, workers=1)


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    write_zip(tmp_path / "in.zip", {"a.png": png(1, 16)})
    with pytest.raises(UsageError, match="is the source itself"):
        prepare(config_of(tmp_path / "in.zip"), tmp_path / "in.zip", workers=1, overwrite=True)
    with pytest.raises(UsageError, match="has points"):
        prepare(source_config_for("rings"), tmp_path / "out.zip", workers=1)


def test_a_prepared_archive_can_be_prepared_again(many: Path) -> None:
    one, two = many.with_name("one.zip"), many.with_name("two.zip")
    prepare(config_of(many), one, workers=1)
    prepare(config_of(one), two, workers=1)
    a, b = load_dataset(ZipConfig(path=str(one))), load_dataset(ZipConfig(path=str(two)))
    assert np.array_equal(all_of(a), all_of(b)) and np.array_equal(a.hashes(), b.hashes())


def test_links_between_words_are_not_followed_out_of_the_archive(tmp_path: Path) -> None:
    """Names come from counting, whatever the source calls its images."""
    write_zip(tmp_path / "in.zip", {"ordinary/a.png": png(1, 16), "../../evil.png": png(2, 16)})
    prepare(config_of(tmp_path / "in.zip"), tmp_path / "out.zip", PrepareSettings(on_error="skip"), workers=1)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert [name for name in archive.namelist() if name.endswith(".png")] == ["00000/img00000000.png"]


# ---- the parts


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("noisy", [False, True])
def test_a_png_is_plain_and_right(channels: int, noisy: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256 if noisy else 2, (channels, 9, 14), dtype=np.uint8)
    content = working.encode_png(array)
    image = Image.open(io.BytesIO(content))
    assert np.array_equal(np.asarray(image).reshape(9, 14, channels).transpose(2, 0, 1), array)
    start = content.index(b"IDAT")
    rows = zlib.decompress(content[start + 4 : start + 4 + int.from_bytes(content[start - 4 : start], "big")])
    assert {rows[row * (1 + 14 * channels)] for row in range(9)} == {0}


def test_what_does_not_compress_is_stored() -> None:
    noise, flat = pixels(0, 64).transpose(2, 0, 1), np.zeros((3, 64, 64), dtype=np.uint8)
    assert len(working.encode_png(noise)) > noise.size > 20 * len(working.encode_png(flat))


def test_seen_hashes_find_what_a_dictionary_finds() -> None:
    rng, seen, known = np.random.default_rng(0), SeenHashes(), dict[bytes, int]()
    for number in range(2500):
        value = rng.integers(0, 4, 16, dtype=np.uint8).tobytes() if number % 2 else b"\0" * 8 + rng.bytes(1) * 8
        assert seen.first(value) == known.get(value)
        seen.add(value)
        known.setdefault(value, number)
    assert len(seen) == 2500 and len(known) < 2500


def test_more_members_than_a_plain_zip_can_count(tmp_path: Path) -> None:
    count, crc = 66_000, zlib.crc32(b"x")
    with (tmp_path / "many.zip").open("wb") as file:
        for number in range(count):
            file.write(member_bytes(f"{number:05d}", b"x", crc))
        end = ZipEnd(file)
        with end.member("list.txt") as write:
            write(b"ab")
            write(b"cd")
        end.write_directory(Member(f"{number:05d}", crc, 1) for number in range(count))
    with zipfile.ZipFile(tmp_path / "many.zip") as archive:
        assert len(archive.namelist()) == count + 1
        assert archive.read("65999") == b"x" and archive.read("list.txt") == b"abcd"
    assert sum(1 for _ in read_entries(FileAt(tmp_path / "many.zip"))) == count + 1


def test_members_behind_four_gigabytes(tmp_path: Path) -> None:
    """The file is a hole but for its end."""
    first, content, path = 2**32 - 40, png(1, 16), tmp_path / "far.zip"
    members = [Member(f"{number}.png", zlib.crc32(content), len(content)) for number in range(3)]
    with path.open("wb") as file:
        file.seek(first)
        for member in members:
            file.write(member_bytes(member.name, content, member.crc))
        end = ZipEnd(file)
        with end.member("list.txt") as write:
            write(b"abcd")
        end.write_directory(members, first)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("2.png") == content and archive.read("list.txt") == b"abcd"
    assert len(load_dataset(ZipConfig(path=str(path)))) == 3


def slow_at_first(start: int, end: int) -> tuple[int, int]:
    time.sleep(0.05 if start == 0 else 0)
    return start, end


def dies(start: int, end: int) -> int:
    if start == 20:
        os._exit(1)
    return start


def fails(start: int, end: int) -> int:
    raise ValueError(f"at {start}")


BLOCKS = [(start, start + 10) for start in range(0, 300, 10)]


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_results_come_in_order(workers: int) -> None:
    assert list(in_order(slow_at_first, BLOCKS, workers)) == BLOCKS


def test_a_worker_that_dies_or_fails_ends_the_work() -> None:
    with pytest.raises(RunError, match="worker process was killed"):
        list(in_order(dies, BLOCKS, 2))
    with pytest.raises(RuntimeError, match="ValueError: at"):
        list(in_order(fails, BLOCKS, 2))


def test_a_full_disk_costs_what_was_not_written_yet(many: Path, small_blocks: None) -> None:
    out = many.with_name("out.zip")

    def full(done: float, total: float, what: str) -> None:
        if done >= 60:
            raise OSError(28, "No space left on device")

    with pytest.raises(RunError, match="no space left"):
        prepare(config_of(many, channels=3), out, workers=1, observer=OnProgress(full))
    assert leftovers(many.parent) == ["out.zip.partial", "out.zip.partial.journal"]  # data
    prepare(config_of(many, channels=3), out, workers=1)
    prepare(config_of(many, channels=3), fresh := many.with_name("fresh.zip"), workers=1)
    assert out.read_bytes() == fresh.read_bytes()


def test_a_image_of_the_real_world(shared_data: Path, tmp_path: Path) -> None:
    """The flowers are JPEGs of more than the training size: what the filter makes of them is the same both ways."""
    flowers = shared_data / "flowers" / "flower_photos_96_center_q92.zip"
    if not flowers.is_file():
        pytest.skip(f"{flowers} is not there")
    with zipfile.ZipFile(flowers) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][::60]
        write_zip(tmp_path / "some.zip", {name: archive.read(name) for name in names})
    config = ZipConfig(path=str(tmp_path / "some.zip"), size=64)
    prepare(config, tmp_path / "out.zip", workers=2)
    source, prepared = load_dataset(config), load_dataset(ZipConfig(path=str(tmp_path / "out.zip")))
    assert np.array_equal(all_of(source), all_of(prepared)) and source.class_names == prepared.class_names


def test_prepared_images_are_in_srgb_and_the_manifest_counts_them(tmp_path: Path) -> None:
    levels = np.full((SIZE, SIZE), 55)
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(write_profile(1.0, name="Linear grey")))
    files = {"a.png": write_png(levels, 8, 0, profile), "b.png": write_png(levels + 1, 8, 0)}
    folder = write_tree(tmp_path / "images", files)
    manifest = prepare(config_of(folder), out := tmp_path / "out.zip", workers=1)
    assert manifest["decoding"] == "1 image converted from Linear grey to sRGB"
    prepared, source = load_dataset(ZipConfig(path=str(out))), load_dataset(config_of(folder))
    assert prepared.items(np.arange(2))[:, 0, 0, 0].tolist() == [128, 56]
    assert np.array_equal(prepared.items(np.arange(2)), source.items(np.arange(2)))
    assert "decoding" not in prepared.provenance


def test_an_archive_started_by_a_version_that_decodes_otherwise_is_not_resumed(
    many: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = many.with_name("begun.zip")
    with monkeypatch.context() as earlier:
        earlier.setattr(running, "DECODER_VERSION", 1)
        earlier.setattr(running._Task, "_finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(config_of(many), out, workers=1)
    with pytest.raises(UsageError, match=r"started by another version, which decodes .*; add --overwrite"):
        prepare(config_of(many), out, workers=1)
    assert prepare(config_of(many), out, workers=1, overwrite=True)["pictures"]["num"] == 135  # data
