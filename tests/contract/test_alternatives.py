"""Several captions of an image: how they are read, kept, drawn in training, and made from classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from image_files import Content, jsonl, pixels, png, write_tar, write_tree
from pydantic import ValidationError

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.captions import alternatives_of, draw_alternative, join_alternatives
from undiffuse.conditioning.text import LearnedTextConfig
from undiffuse.core.per_sample import PerRow
from undiffuse.data import ArraysConfig, Dataset, FolderConfig, ParquetConfig, TarConfig, load_dataset
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.data.split import split_by_content
from undiffuse.errors import UsageError
from undiffuse.recipes import get_recipe
from undiffuse.training.captions import with_drawn_captions
from undiffuse.training.trainer import Trainer

IMAGES: dict[str, Content] = {f"{name}.png": png(place) for place, name in enumerate("abc")}
EXPECTED = ["a dog\na brown dog", "b", ""]


def test_alternatives_are_lines_without_repetitions() -> None:
    assert join_alternatives(["a  b ", "c\nd", "", "a b"]) == "a b\nc d" and join_alternatives([" "]) == ""
    assert alternatives_of("a b\nc d") == ["a b", "c d"] and alternatives_of("") == [""]


def test_every_alternative_is_drawn_as_often_as_it_should_be() -> None:
    u = (np.arange(3000) + 0.5) / 3000
    assert Counter(draw_alternative("a\nb\nc", x) for x in u) == {"a": 1000, "b": 1000, "c": 1000}
    assert Counter(draw_alternative("a\nb\nc", x, last_share=0.2) for x in u) == {"c": 600, "a": 1200, "b": 1200}
    assert {draw_alternative("a", x, last_share=0.2) for x in u} == {"a"} and draw_alternative("", 0.5, 0.2) == ""


def folder(root: Path) -> Dataset:
    notes = {"a.txt": "a dog\n\n a  brown dog\na dog\n", "b.txt": "b", "c.txt": " \n"}
    return load_dataset(FolderConfig(path=str(write_tree(root / "x", {**IMAGES, **notes}))))


def metadata(root: Path) -> Dataset:
    lines = jsonl({"file_name": "a.png", "captions": ["a dog", "a brown dog"]}, {"file_name": "b.png", "text": ["b"]})
    return load_dataset(FolderConfig(path=str(write_tree(root / "x", {**IMAGES, "metadata.jsonl": lines}))))


def table(root: Path) -> Dataset:
    lines = 'file_name,captions\na.png,"[""a dog"", ""a brown\\ndog""]"\nb.png,b\nc.png,\n'
    return load_dataset(FolderConfig(path=str(write_tree(root / "x", {**IMAGES, "metadata.csv": lines}))))


def tar(root: Path) -> Dataset:
    notes: dict[str, Content] = {"a.txt": "a dog\na brown dog", "b.json": '{"captions": ["b"]}'}
    members = dict(sorted({**IMAGES, **notes}.items()))
    return load_dataset(TarConfig(path=str(write_tar(root / "x.tar", members))))


def parquet(root: Path) -> Dataset:
    content = {"image": list(IMAGES.values()), "text": [["a dog", "a brown dog"], ["b"], None]}
    pyarrow.parquet.write_table(pyarrow.table(content), root / "x.parquet")
    return load_dataset(ParquetConfig(path=str(root / "x.parquet")))


def npz(root: Path) -> Dataset:
    captions = np.array([["a dog", "a brown dog"], ["b", ""], ["", ""]])
    np.savez(root / "x.npz", images=np.stack([pixels(seed) for seed in range(3)]), captions=captions)
    return load_dataset(ArraysConfig(path=str(root / "x.npz")))


@pytest.mark.parametrize("read", [folder, metadata, table, tar, parquet, npz])
def test_all_captions_of_an_image_are_read(read, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    found = read(tmp_path)
    assert found.captions == EXPECTED
    assert found.provenance["captions_missing"].startswith("1 of 3 images have no caption")


def test_captions_of_arrays_are_selected_and_checked(tmp_path: Path) -> None:
    images = np.stack([pixels(seed) for seed in range(3)])
    np.savez(tmp_path / "x.npz", images=images, words=np.array([b"a", "ü".encode(), b"c"]), train_text=np.arange(3))
    path = str(tmp_path / "x.npz")
    assert load_dataset(ArraysConfig(path=path, captions="words")).captions == ["a", "ü", "c"]
    assert load_dataset(ArraysConfig(path=path, captions="none")).captions is None
    with pytest.raises(UsageError, match=r"x\.npz!train_text: int64 of 3; expected strings"):
        load_dataset(ArraysConfig(path=path))
    np.savez(tmp_path / "x.npz", images=images, text=np.array(["a", "b"]))
    with pytest.raises(UsageError, match=r"captions of 2 images for 3 images"):
        load_dataset(ArraysConfig(path=path))
    np.savez(tmp_path / "x.npz", images=images, text=np.array([b"a", b"\xff", b"b"]))
    with pytest.raises(UsageError, match=r"x\.npz!text: not UTF-8"):
        load_dataset(ArraysConfig(path=path))


CLASSES: dict[str, Content] = {"red_rose/1.png": png(1), "red_rose/2.png": png(2), "tulip/1.png": png(3)}


def classes(root: Path, **options: object) -> Dataset:
    path = write_tree(root / "classes", {**CLASSES, "tulip/1.txt": "a tulip\na flower"})
    return load_dataset(FolderConfig(path=str(path), class_captions="a photo of {}", **options))  # type: ignore[arg-type]


def test_captions_from_classes_are_the_last_alternative(tmp_path: Path) -> None:
    found = classes(tmp_path, class_share=0.25)
    of_rose = "a photo of red rose"
    assert found.captions == [of_rose, of_rose, "a tulip\na flower\na photo of tulip"]
    assert found.last_caption_share == found.subset([2]).last_caption_share == 0.25
    assert classes(tmp_path, captions="none").captions == [of_rose, of_rose, "a photo of tulip"]
    assert classes(tmp_path, classes=("tulip",)).captions == ["a tulip\na flower\na photo of tulip"]
    assert found.fingerprint != classes(tmp_path, captions="none").fingerprint
    assert all(part.last_caption_share == 0.25 for part in split_by_content(found, 0.5))


def test_captions_from_classes_need_classes_and_a_place_for_the_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.class_captions='a photo of \{\}' needs data with classes"):
        classes(tmp_path, labels="none")
    for wrong in ("a photo", "{} and {}", "a {name}"):
        with pytest.raises(ValidationError, match="expected a caption with"):
            FolderConfig(path="x", class_captions=wrong)


TEXTS = [f"{row} a\n{row} b\n{row} c" for row in range(24)]


def batch(start: int, end: int) -> Batch:
    given = Given(captions=PerRow(TEXTS[start:end]))
    return Batch(torch.zeros(end - start, 1, 2, 2, dtype=torch.uint8), given, torch.arange(start, end))


def test_the_caption_of_a_visit_does_not_depend_on_how_the_step_is_divided() -> None:
    whole = with_drawn_captions(batch(0, 24), 7, 5, 0, 24).captions
    for size in (1, 3, 12):
        parts = [with_drawn_captions(batch(row, row + size), 7, 5, row, 24).captions for row in range(0, 24, size)]
        assert [text for part in parts for text in part] == list(whole)
    assert {text[-1] for text in whole} == {"a", "b", "c"}
    assert with_drawn_captions(batch(0, 24), 7, 6, 0, 24).captions != whole
    assert with_drawn_captions(batch(0, 24), 8, 5, 0, 24).captions != whole
    assert all(text.endswith("c") for text in with_drawn_captions(batch(0, 24), 7, 5, 0, 24, 1 - 1e-9).captions)


def test_a_resumed_run_and_one_in_micro_batches_see_the_same_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {f"{seed}.txt": f"{seed} a\n{seed} b" for seed in range(8)}
    write_tree(tmp_path / "data", {f"{seed}.png": png(seed) for seed in range(8)} | texts)
    seen = list[str]()

    def recorded(*given: object) -> Batch:
        drawn = with_drawn_captions(*given)  # type: ignore[arg-type]
        seen.extend(drawn.captions)
        return drawn

    monkeypatch.setattr("undiffuse.training.trainer.with_drawn_captions", recorded)

    def captions_of(name: str, micro_batch: int, stops: int) -> list[str]:
        recipe = get_recipe("photos-32")
        system = recipe.system.model_copy(update={"text": LearnedTextConfig(width=8)})
        recipe = recipe.model_copy(update={"data": FolderConfig(path=str(tmp_path / "data")), "system": system})
        options = [
            *("data.size=8", "data.validation_fraction=0", "batch_images=8", f"micro_batch_images={micro_batch}"),
            *("system.network.channels=4", "system.network.norm_groups=2", "system.network.multipliers=[1]"),
            *("num_images=16", "validate_every_images=0", "preview_every_images=0", "checkpoint_every_images=8"),
        ]
        config, data = apply_overrides(recipe, options), load_dataset(recipe.data)
        seen.clear()
        for run in range(stops + 1):
            trainer = Trainer(config, data, data.subset([]), tmp_path / name)
            assert trainer.resume() == (run > 0)
            trainer.run(stop_after_seconds=0 if stops else None)
        return list(seen)

    whole = captions_of("whole", 8, 0)
    assert len(whole) == 16 and {text[-1] for text in whole} == {"a", "b"}
    assert captions_of("parts", 2, 0) == whole and captions_of("resumed", 8, 1) == whole
