"""What the doctor says of captions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from undiffuse.data import ArraysConfig
from undiffuse.diagnostics.captions import captions
from undiffuse.diagnostics.data_context import DataContext
from undiffuse.diagnostics.findings import Finding

COMMON = ["a red dog", "a blue dog", "a red cat", "a blue cat"]


def findings(folder: Path, texts: Sequence[str | Sequence[str]] | None, **options: object) -> dict[str, Finding]:
    count = 20 if texts is None else len(texts)
    images = np.random.default_rng(0).integers(0, 256, (count, 8, 8), np.uint8)
    more = {} if texts is None else {"captions": np.array(texts)}
    np.savez(folder / "x.npz", images=images, labels=np.arange(count) % 2, **more)
    config = ArraysConfig(path=str(folder / "x.npz"), **options)  # type: ignore[arg-type]
    return {found.title: found for found in captions(DataContext("x", config))}


def test_captions_that_are_well_are_counted_and_none_are_not_mentioned(tmp_path: Path) -> None:
    assert findings(tmp_path, None) == {}
    found = findings(tmp_path, [*COMMON, "dog", "cat"])
    assert {title: (one.severity, one.evidence) for title, one in found.items()} == {
        "captions": ("ok", "6 captions of 6 images")
    }
    pairs = findings(tmp_path, [["a red dog", "dog"], ["a red cat", ""]])
    assert pairs["captions"].evidence == "3 captions of 2 images"


def test_missing_captions_are_counted_and_named(tmp_path: Path) -> None:
    found = findings(tmp_path, [*COMMON * 5, ""])["images without a caption"]
    assert found.severity == "note" and found.evidence.startswith("1 of 21 images: item 20; ")
    assert "data.class_captions=" in found.advice
    many = findings(tmp_path, [*COMMON, *[""] * 4])["images without a caption"]
    assert many.severity == "warning" and many.details["count"] == 4


def test_images_with_one_caption_are_counted_except_for_those_of_classes(tmp_path: Path) -> None:
    texts = [*COMMON * 2, *["a dog"] * 12]
    found = findings(tmp_path, texts)["images with the same caption"]
    assert found.severity == "warning" and found.evidence == "5 captions of 20 images differ; 12 have 'a dog'"
    assert found.details["repeated"] == {"a dog": 12}
    few = findings(tmp_path, [*(f"a {n % 7} {n % 11} dog" for n in range(77)), *["a dog"] * 3])
    assert few["images with the same caption"].severity == "note"
    assert "images with the same caption" not in findings(tmp_path, None, class_captions="a photo of {}")


def test_long_captions_are_counted_and_the_longest_is_named(tmp_path: Path) -> None:
    short, long, longer = (" ".join(["dog"] * count) for count in (127, 128, 140))
    assert "captions that are too long" not in findings(tmp_path, [*COMMON, short])
    found = findings(tmp_path, [*COMMON, short, long, longer])["captions that are too long"]
    assert found.details["count"] == 2 and found.details["longest"] == 141 and found.details["length"] == 128
    assert found.evidence.endswith("the longest has 141: item 6") and "system.text.length=141" in found.advice


def test_words_that_occur_once_are_counted_by_image(tmp_path: Path) -> None:
    assert "words that occur once" not in findings(tmp_path, [*COMMON * 5, "a purple dog"])
    texts = [["zebra", "a zebra"], ["okapi", "okapi"], ["a red dog", ""], ["a red cat", ""]]
    found = findings(tmp_path, texts)["words that occur once"]
    assert found.severity == "warning" and found.details["rare"] == 4 and found.details["words"] == 6
    assert found.details["only_rare"] == 1 and found.details["items"] == ["item 1"]
