"""The checker of scenes: right on real scenes of every size, and wrong images are found to be wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from undiffuse.annotators.scenes.agreement import AGREEMENTS, Agreement, mean_agreement, score
from undiffuse.annotators.scenes.paraphrases import PARAPHRASES, paraphrased
from undiffuse.annotators.scenes.reading import FoundThing, read_scene
from undiffuse.annotators.scenes.spec import SceneSpec, parse, swapped
from undiffuse.annotators.scenes.vocabulary import BACKGROUND, COLOURS
from undiffuse.data import ScenesConfig, load_dataset, split_by_content
from undiffuse.data.sources.scenes.prompts import PROMPT_KINDS, available_kinds, prompts
from undiffuse.errors import UsageError

SMALLEST: dict[str, Any] = {"size": 16, "sizes": False, "objects": 2, "shapes": 3}
CONFIG = ScenesConfig()


def real(num: int, **options: Any) -> tuple[ScenesConfig, np.ndarray, list[SceneSpec]]:
    config = ScenesConfig(**options, num_scenes=num)
    dataset = load_dataset(config)
    return config, dataset.items(np.arange(num)), [parse(text) for text in dataset.captions or ()]


def agreement(config: ScenesConfig, images: np.ndarray, specs: list[SceneSpec]) -> dict[str, float]:
    pairs = zip(images, specs, strict=True)
    return mean_agreement([score(spec, read_scene(image, config.vocabulary)) for image, spec in pairs])


@pytest.mark.parametrize(
    ("options", "num"),
    [
        *((size, 300) for size in (SMALLEST, {}, {"size": 48, "pairs": "unseen"}, {"size": 64})),
        *(({"digits": True}, 150), ({"sizes": False}, 100)),
    ],
)
def test_real_scenes_agree_with_their_captions(options: dict[str, Any], num: int) -> None:
    config, images, specs = real(num, **options)
    assert min(agreement(config, images, specs).values()) >= 0.99
    rng = np.random.default_rng(0)
    disturbed = np.clip(np.round(images[:60] + rng.normal(0, 6, images[:60].shape)), 0, 255).astype(np.uint8)
    assert min(agreement(config, disturbed, specs[:60]).values()) >= 0.99
    dimmed = (images[60:90] * rng.uniform(0.85, 1, (30, 3, 1, 1))).astype(np.uint8)
    assert min(agreement(config, dimmed, specs[60:90]).values()) >= 0.99
    grain = np.clip(images[:30] + rng.normal(0, 25, images[:30].shape), 0, 255).astype(np.uint8)
    assert config.digits or min(agreement(config, grain, specs[:30]).values()) >= 0.9


@pytest.fixture(scope="module")
def scene() -> tuple[SceneSpec, np.ndarray]:
    """Two small green triangles below a small red circle and right of two small blue triangles."""
    _, images, specs = real(1)
    assert specs[0].caption == (
        "two small green triangles below a small red circle and right of two small blue triangles"
    )
    return specs[0], images[0]


def checked(spec: SceneSpec, image: np.ndarray) -> Agreement:
    return score(spec, read_scene(image, CONFIG.vocabulary))


def without(image: np.ndarray, spec: SceneSpec, number: int) -> np.ndarray:
    """The image with one of the things found in it erased."""
    left, top, right, bottom = read_scene(image, CONFIG.vocabulary)[number].box
    erased = image.copy()
    erased[:, int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = np.array(BACKGROUND)[:, None, None]
    return erased


def test_the_things_found_are_where_they_are_drawn(scene: tuple[SceneSpec, np.ndarray]) -> None:
    found = read_scene(scene[1], CONFIG.vocabulary)
    assert sorted((thing.colour, thing.shape, thing.size) for thing in found) == [
        *[("blue", "triangle", "small")] * 2,
        *[("green", "triangle", "small")] * 2,
        ("red", "circle", "small"),
    ]
    for thing in found:
        left, top, right, bottom = thing.box
        inside = scene[1][:, int(thing.centre[1]), int(thing.centre[0])]
        assert right - left == bottom - top == 7 and np.abs(inside - np.array(COLOURS[thing.colour])).max() < 3


def test_planted_errors_are_found(scene: tuple[SceneSpec, np.ndarray]) -> None:
    spec, image = scene
    assert checked(spec, image) == Agreement(1, 1, 1, 1, 1, 1, 1)
    colours = image[[1, 0, 2]]  # red and green exchanged
    assert checked(spec, colours).objects == 1 and checked(spec, colours).bindings <= 0.4
    missing = [checked(spec, without(image, spec, number)) for number in range(5)]
    assert all(one.objects == one.bindings == 0.8 and one.counts == pytest.approx(2 / 3) for one in missing)
    assert not any(one.all for one in missing)
    blank = np.broadcast_to(np.array(BACKGROUND, dtype=np.uint8)[:, None, None], image.shape)
    assert checked(spec, blank) == Agreement(0, 0, 0, 0, 0, 0, 0)
    upside_down = checked(spec, image[:, ::-1])
    assert upside_down.relations <= 0.5 and upside_down.all == 0 and upside_down.colours == 1
    turned = checked(spec, image.transpose(0, 2, 1))
    assert turned.relations == 0 and turned.all == 0
    extra = image.copy()
    extra[:, 20:27, 2:9] = np.array(COLOURS["white"])[:, None, None]
    assert checked(spec, extra) == Agreement(1, 1, 1, 1, 1, 1, 0)
    noise = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    assert checked(spec, noise).all == 0 and checked(spec, noise).bindings < 0.5


def test_wrong_requests_are_found_on_many_scenes() -> None:
    config, images, specs = real(60)
    found = [read_scene(image, config.vocabulary) for image in images]

    def shares(change: Any) -> dict[str, float]:
        return mean_agreement([score(change(spec), things) for spec, things in zip(specs, found, strict=True)])

    def of_subject(**other: Any) -> Any:
        return lambda spec: replace(spec, groups=(replace(spec.groups[0], **other), *spec.groups[1:]))

    other_size = shares(lambda spec: of_subject(size="small" if spec.groups[0].size == "large" else "large")(spec))
    assert other_size["all"] == 0 and other_size["sizes"] < 0.8 and other_size["bindings"] == 1
    other_count = shares(lambda spec: of_subject(count=spec.groups[0].count % 3 + 1)(spec))
    assert other_count["all"] == 0 and other_count["counts"] < 0.7 and other_count["relations"] == 1
    exchanged = shares(lambda spec: parse(swapped(spec.caption)))
    assert exchanged["all"] == 0 and exchanged["relations"] < 0.3 and exchanged["bindings"] == 1
    opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    reversed_ = shares(lambda spec: replace(spec, relations=tuple(opposite[word] for word in spec.relations)))
    assert reversed_["all"] == reversed_["relations"] == 0 and reversed_["sizes"] == 1
    assert set(reversed_) == set(AGREEMENTS)
    shuffled = mean_agreement([score(spec, things) for spec, things in zip(specs, found[1:] + found[:1], strict=True)])
    assert shuffled["all"] == 0 and shuffled["bindings"] < 0.2


def test_touching_things_are_separated_by_colour_and_specks_are_ignored() -> None:
    image = np.empty((3, 32, 32), dtype=np.uint8)
    image[:] = np.array(BACKGROUND)[:, None, None]
    image[:, 5:12, 5:12] = np.array(COLOURS["red"])[:, None, None]
    image[:, 5:12, 12:19] = np.array(COLOURS["blue"])[:, None, None]
    image[:, 25, 25:27] = 255
    found = read_scene(image, CONFIG.vocabulary)
    assert [(thing.colour, thing.shape, thing.box) for thing in found] == [
        ("red", "square", (5, 5, 12, 12)),
        ("blue", "square", (12, 5, 19, 12)),
    ]
    assert score(parse("a small red square left of a small blue square"), found).all == 1
    image[:, 12:25, 12:25] = np.array(COLOURS["yellow"])[:, None, None]
    found = read_scene(image, CONFIG.vocabulary)
    assert sorted((thing.colour, thing.size) for thing in found) == [
        *(("blue", "small"), ("red", "small"), ("yellow", "large")),
    ]
    with pytest.raises(UsageError, match=r"\(3, 32, 32\), got \(3, 16, 16\)"):
        read_scene(image[:, :16, :16], CONFIG.vocabulary)


@pytest.mark.parametrize("options", [{}, SMALLEST])
def test_prompts_are_on_the_right_side(options: dict[str, Any]) -> None:
    config = ScenesConfig(**options, num_scenes=20_000, validation_fraction=0.2)
    train, held_out = (set(part.captions or ()) for part in split_by_content(load_dataset(config), 0.2))
    pools = {kind: prompts(config, kind, 150) for kind in PROMPT_KINDS}
    assert all(len(set(pool)) == 150 for pool in pools.values())
    assert set(pools["seen"]) <= train and not train & set(pools["held_out"])
    assert set(pools["held_out"]) & held_out

    def has_unseen(text: str) -> bool:
        return any((group.colour, group.shape) in config.unseen_pairs for group in parse(text).groups)

    assert all(has_unseen(text) for text in pools["unseen_pairs"])
    assert not any(map(has_unseen, [*pools["seen"], *pools["held_out"]]))
    assert prompts(config, "held_out", 20) == pools["held_out"][:20] != prompts(config, "held_out", 20, seed=1)
    two = prompts(config, "seen", 30, objects=2)
    assert {len(parse(text).groups) for text in two} == {2}


def test_prompts_that_do_not_exist() -> None:
    config = ScenesConfig(**SMALLEST, num_scenes=50, held_out_pairs=0, validation_fraction=0)
    assert available_kinds(config) == ["seen"] and available_kinds(CONFIG) == list(PROMPT_KINDS)
    with pytest.raises(UsageError, match=r"expected 100 captions of training scenes, found \d+"):
        prompts(config, "seen", 100)
    with pytest.raises(UsageError, match="held_out_pairs"):
        prompts(config, "unseen_pairs", 1)


def test_paraphrases_have_other_words_and_the_same_form() -> None:
    text = "two small green rings left of a large orange star and below three small red squares"
    assert paraphrased(text) == (
        "two little emerald hoops to the left of a big tangerine pentagram and beneath three little crimson boxes"
    )
    assert paraphrased(text, ["below"]) == text.replace("below", "beneath")
    assert paraphrased("a green ring above an orange ring", ["green", "orange"]) == (
        "an emerald ring above a tangerine ring"
    )
    assert not set(PARAPHRASES.values()) & set(PARAPHRASES)
    with pytest.raises(UsageError, match="no paraphrase of 'two'"):
        paraphrased(text, ["two"])


@pytest.mark.parametrize(("x", "y", "holds"), [(12, 0, True), (12, 11, True), (12, 13, False), (-12, 0, False)])
def test_a_relation_compares_both_axes(x: int, y: int, holds: bool) -> None:
    subject = FoundThing("circle", "red", "small", (2, 2, 9, 9), 1.0)
    other = FoundThing("square", "blue", "small", (2 + x, 2 + y, 9 + x, 9 + y), 1.0)
    spec = parse("a small red circle left of a small blue square")
    assert score(spec, [subject, other]).relations == score(spec, [subject, other]).all == holds
    above = replace(spec, relations=("above",))
    assert score(above, [subject, other]).relations == (y > abs(x))
