"""Computed scenes: captions, layout, split, held-out pairs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from undiffuse.annotators.scenes.arrays import arrays_of
from undiffuse.annotators.scenes.spec import parse, swapped
from undiffuse.annotators.scenes.vocabulary import ALL_SHAPES, COLOURS, RELATIONS, held_out_pairs
from undiffuse.api.datasets.preparing import prepare
from undiffuse.config import validate
from undiffuse.data import ScenesConfig, load_dataset, split_by_content
from undiffuse.data.sources.scenes.layout import lay_out
from undiffuse.data.sources.scenes.source import ScenesDataset
from undiffuse.data.sources.scenes.words import draw_scenes
from undiffuse.errors import UsageError

SMALLEST: dict[str, Any] = {"size": 16, "sizes": False, "objects": 2, "shapes": 3}
VARIANTS: list[dict[str, Any]] = [
    {},
    SMALLEST,
    {"size": 24, "sizes": False},
    {"size": 33, "digits": True},
    {"size": 48, "objects": 2, "counts": False},
    {"size": 64, "pairs": "unseen"},
]


#: Hash of captions and sums of levels of some scenes: runs and results depend on them.
CAPTIONS, LEVELS = "69e9f9706c3a43e9", [8486285, 2449825, 17126365]


def scenes(**options: Any) -> ScenesDataset:
    dataset = load_dataset(ScenesConfig(**{"num_scenes": 3000, **options}))
    assert isinstance(dataset, ScenesDataset)
    return dataset


@pytest.mark.parametrize("options", VARIANTS)
def test_captions_describe_the_words(options: dict[str, Any]) -> None:
    dataset = scenes(**options)
    captions, words = list(dataset.captions or ()), dataset.scenes(np.arange(len(dataset)))
    specs = words.specs()
    assert captions == [spec.caption for spec in specs] and [parse(text) for text in captions] == specs
    numbers = words.caption_numbers()
    assert np.array_equal(arrays_of(specs).caption_numbers(), numbers)
    assert len(set(captions)) == len(set(numbers.tolist())) > 500
    config = dataset.config
    groups = [group for spec in specs for group in spec.groups]
    assert {group.shape for group in groups} == set(config.vocabulary.shapes)
    assert {group.colour for group in groups} == set(config.vocabulary.colours)
    assert {group.size for group in groups} == ({"small", "large"} if config.sizes else {None})
    counts = config.sizes and config.counts
    assert {group.count for group in groups} == ({1, 2, 3} if counts else {1})
    assert {len(spec.groups) for spec in specs} == ({2, 3} if config.objects == 3 else {2})
    assert {word for spec in specs for word in spec.relations} == set(RELATIONS)
    assert all(len({(g.colour, g.shape) for g in spec.groups}) == len(spec.groups) for spec in specs)


@pytest.mark.parametrize("options", VARIANTS)
def test_relations_are_unambiguous_and_nothing_overlaps(options: dict[str, Any]) -> None:
    config = ScenesConfig(**options)
    rows = np.arange(20_000)
    words = draw_scenes(config, rows)
    layout = lay_out(config, rows, words)
    start = layout.corner
    end = start + layout.side[:, :, None, None]
    assert start[layout.present].min() >= 0 and end[layout.present].max() <= config.size
    assert np.array_equal(layout.present.sum(2), np.maximum(words.count, 0))
    assert not config.sizes or layout.side[layout.side > 0].min() >= 7
    low = np.where(layout.present[..., None], start, np.inf).min(2)
    high = np.where(layout.present[..., None], end, -np.inf).max(2)
    for group in (1, 2):
        chosen = np.flatnonzero(words.relation[:, group - 1] >= 0)
        if not len(chosen):
            continue
        relation = words.relation[chosen, group - 1]
        axis, sign = relation // 2, np.where(relation % 2, -1, 1)
        at = (chosen, group), (chosen, 0)
        delta = (low[at[0]] + high[at[0]] - low[at[1]] - high[at[1]]) / 2 * sign[:, None]
        along, across = delta[np.arange(len(chosen)), axis], delta[np.arange(len(chosen)), 1 - axis]
        assert (along > np.abs(across) + config.size / 64).all()
        first = np.where(sign > 0, high[chosen, 0, axis], high[chosen, group, axis])
        second = np.where(sign > 0, low[chosen, group, axis], low[chosen, 0, axis])
        assert (second - first >= 1.5 - 1e-9).all() and (config.size < 32 or (second - first >= config.size / 16).all())
    three = words.count[:, 2] > 0
    apart = np.maximum(low[three, 1] - high[three, 2], low[three, 2] - high[three, 1]).max(1)
    assert not three.any() or apart.min() >= 1.5


def test_a_scene_depends_on_the_seed_and_its_number_alone() -> None:
    dataset, larger = scenes(), scenes(num_scenes=5000)
    rows = np.array([2999, 7, 7, 1234])
    images = dataset.items(rows)
    assert np.array_equal(images[1], images[2]) and not np.array_equal(images[0], images[1])
    assert np.array_equal(images, larger.items(rows))
    assert np.array_equal(images, np.concatenate([dataset.items(rows[i : i + 1]) for i in range(4)]))
    assert np.array_equal(dataset.hashes(), larger.hashes()[:3000])
    assert not np.array_equal(images, scenes(seed=1).items(rows))
    assert np.array_equal(scenes(size=64).split_hashes(), dataset.split_hashes())
    captions = dataset.captions
    assert captions is not None and captions[7] == dataset.fetch(rows).captions[1] == captions[-2993]
    assert [*captions[5:9]] == [captions[row] for row in range(5, 9)]


def test_the_scenes_are_those_of_the_first_version() -> None:
    datasets = [scenes(), scenes(**SMALLEST), scenes(size=48, digits=True, pairs="unseen")]
    texts = "".join(text for dataset in datasets for text in dataset.captions or ())
    assert hashlib.sha256(texts.encode()).hexdigest()[:16] == CAPTIONS
    levels = [dataset.items(np.arange(64)).astype(np.int64).sum() for dataset in datasets]
    assert levels == pytest.approx(LEVELS, rel=1e-5)


def test_one_caption_is_on_one_side_of_the_split() -> None:
    dataset = scenes(**SMALLEST, num_scenes=20_000)
    train, held_out = split_by_content(dataset, 0.2)
    assert abs(len(held_out) / len(dataset) - 0.2) < 0.03
    sides = [set(part.captions or ()) for part in (train, held_out)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(np.unique(dataset.hashes(), axis=0)) == len(dataset)
    again = split_by_content(scenes(**SMALLEST, num_scenes=20_000, seed=3), 0.2)[0]
    assert not set(again.captions or ()) & sides[1]  # whatever the seed
    assert train.fingerprint != held_out.fingerprint != dataset.fingerprint


def test_held_out_pairs_appear_in_the_unseen_scenes_only() -> None:
    config = ScenesConfig(held_out_pairs=0.2)
    assert len(config.unseen_pairs) == 8 and len(config.seen_pairs) == 32
    assert {colour for colour, _ in config.seen_pairs} == set(COLOURS)
    for pairs in ("seen", "unseen"):
        specs = scenes(held_out_pairs=0.2, pairs=pairs).scenes(np.arange(3000)).specs()
        held = [[(g.colour, g.shape) in config.unseen_pairs for g in spec.groups] for spec in specs]
        assert all(any(row) is (pairs == "unseen") for row in held)
        places = np.bincount([row.index(True) for row in held if any(row)], minlength=3)
        assert (places > 300).all() if pairs == "unseen" else not places.any()
    assert (
        held_out_pairs(("red", "blue"), ("circle", "square"), 0.9)
        and len(held_out_pairs(("red",), ("ring",), 0.5)) == 0
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 16}, "sizes=true needs size 32.*size=16.*sizes=false"),
        ({"size": 16, "sizes": False}, "objects=3 needs size 24"),
        ({"size": 20, "sizes": False, "objects": 2}, "shapes=5 needs size 24"),
        ({"size": 28, "sizes": False, "digits": True}, "digits=true needs size 32"),
        ({"size": 65}, "size"),
        ({"shapes": 6}, "shapes"),
        ({"colours": 1}, "colours"),
        ({"objects": 4}, "objects"),
        ({"held_out_pairs": 0, "pairs": "unseen"}, "increase held_out_pairs"),
        ({"shapes": 1, "colours": 2}, "objects=3 needs as many pairs"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        validate(ScenesConfig, {"name": "scenes", **options})


@pytest.mark.parametrize(
    "text",
    [
        *("", "a red circle", "a red circle left of", "red circle left of a blue square"),
        *("a red circle left of a blue squares", "a blue circle left of a red dog", "an red circle above a blue ring"),
        "a red circle left of a blue square and right of a red ring",
        "a red circle left of a blue square and above a red ring and below a green star",
        "a red circle left of and a blue square",
    ],
)
def test_other_texts_are_no_captions(text: str) -> None:
    with pytest.raises(UsageError, match="is not a caption of a scene"):
        parse(text)


def test_swapping_exchanges_the_two_things() -> None:
    text = "a small red ring left of two small blue stars and above an orange nine"
    assert swapped(text) == "two small blue stars left of a small red ring and above an orange nine"
    assert swapped(swapped(text)) == text
    assert parse(text).groups[1].shape in ALL_SHAPES


def test_scenes_are_not_prepared(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'scenes' has images that are computed and not stored"):
        prepare("scenes", tmp_path / "out.zip")


def test_a_million_scenes_take_little_time_and_memory() -> None:
    dataset = load_dataset(ScenesConfig())
    assert len(dataset) == 1_000_000 and dataset.items(np.array([999_999])).shape == (1, 3, 32, 32)
    train = dataset.subset(np.arange(100, 1_000_000))
    captions = train.captions
    assert captions is not None and captions[0] == (dataset.captions or ())[100]
    assert not train.labels and train.num_classes == 0
