"""Evaluation's own parts: bounded passes, neighbours in pieces, conclusions, the cache, where numbers come from."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.core.condition_spec import UNCONDITIONAL
from undiffuse.core.random import StepRandom
from undiffuse.core.space import Space
from undiffuse.data.dataset import ArrayDataset
from undiffuse.errors import UsageError
from undiffuse.evaluation import (
    EvaluationContext,
    Pair,
    Protocol,
    compare_sets,
    default_metrics,
    default_pair_metrics,
    evaluate,
)
from undiffuse.evaluation import cache as caching
from undiffuse.evaluation.cache import Cache, key_of
from undiffuse.evaluation.generalisation_gap import GeneralisationGap, generalisation_gap
from undiffuse.evaluation.memorisation import LIKELY, MIN_HELD_OUT, NONE, SIGNS, conclusion, search
from undiffuse.evaluation.provenance import commit
from undiffuse.evaluation.streaming import compute_statistics, nearest_in, rebatch
from undiffuse.metrics import load_features
from undiffuse.metrics.neighbours import nearest_neighbours, summarise_copying
from undiffuse.models.base import GenerativeModel
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model
from undiffuse.objectives.base import LossReport, Objective
from undiffuse.observer import OnProgress
from undiffuse.samplers.base import Sampled

COMMIT = "0123456789" * 4


def many_images(count: int, seed: int = 0, low: int = 0, high: int = 256, side: int = 8) -> ArrayDataset:
    levels = np.random.default_rng(seed).integers(low, high, (count, 1, side, side), np.uint8)
    return ArrayDataset("noise", levels)


def values(pair: Pair, *metrics: str) -> dict[str, Any]:
    return {row["metric"]: row["value"] for row in compare_sets(pair, metrics)["results"]}


@pytest.mark.parametrize("k", [1, 2, 3])
def test_neighbours_in_pieces_are_those_of_the_whole(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, queries = many_images(23), torch.from_numpy(many_images(9, seed=1)._array)
    rows = np.arange(1, 23)
    whole = nearest_neighbours(queries, dataset.fetch(rows).items, k)
    monkeypatch.setattr("undiffuse.evaluation.streaming._SEARCH_ROWS", 7)  # the last piece is a single image
    found = nearest_in(queries, dataset, rows, lambda images: images, k)
    assert torch.equal(found.distances, whole.distances)
    assert torch.equal(found.indices, whole.indices + 1)


@pytest.mark.parametrize("sizes", [[], [3], [5], [10], [2, 2, 2, 2], [4, 4, 4], [1, 12, 3]])
def test_batches_are_cut_again(sizes: list[int]) -> None:
    rows = torch.arange(sum(sizes))
    chunks = list(rebatch(rows.split(sizes) if sizes else [], 5))
    assert [len(chunk) for chunk in chunks] == [min(5, len(rows) - start) for start in range(0, len(rows), 5)]
    assert torch.equal(torch.cat(chunks) if chunks else rows, rows)


def test_an_image_is_no_neighbour_of_itself() -> None:
    real = many_images(30)
    own = np.array([3, 20])
    (found,) = search(real.fetch([3]).items, real.fetch(own).items, real, load_features("pixels"), own)
    assert float(found.sampled.distances[0, 0]) == 0 and int(found.sampled.indices[0, 0]) == 3
    assert bool((found.held_out.distances > 0).all())
    assert found.held_out.indices[:, 0].tolist() != own.tolist()


@pytest.mark.parametrize(("factor", "share", "gap", "message"), [
    (1.0, 0.0, 0.0, NONE),
    (1.0, 0.08, 0.2, NONE),
    (1.0, 0.15, 0.0, SIGNS),
    (1.0, 0.0, 0.4, SIGNS),
    (1.0, 0.3, 0.0, LIKELY),
    (0.4, 0.0, 0.0, LIKELY),
])  # fmt: skip
def test_the_conclusion_follows_its_rule(factor: float, share: float, gap: float, message: str) -> None:
    real = torch.linspace(10, 11, 1001, dtype=torch.float64)
    sampled = real * factor
    sampled[: round(share * len(sampled))] = 9.0
    measured = GeneralisationGap(1 - gap, 1.0, gap, 0.05, 100, 1)
    near = summarise_copying(sampled, real, 50)
    if factor < 1:
        assert near.ratio is not None and near.ratio < 0.5
    assert conclusion([near], measured) == message


def test_the_nearest_of_a_few_held_out_images_reports_nothing() -> None:
    sampled = torch.linspace(9, 11, 100, dtype=torch.float64)
    for count, message in ((MIN_HELD_OUT - 1, NONE), (MIN_HELD_OUT, LIKELY)):
        near = summarise_copying(sampled, torch.full((count,), 10.5, dtype=torch.float64), 50)
        assert near.share_below_first_percentile > 0.5 and conclusion([near], None) == message


def test_a_gap_within_its_error_is_no_sign() -> None:
    real = torch.linspace(10, 11, 1001, dtype=torch.float64)
    assert conclusion([summarise_copying(real, real, 50)], GeneralisationGap(0.6, 1.0, 0.4, 0.2, 10, 1)) == NONE


class Drawing(GenerativeModel):
    """Sample i is image ``seed`` of a list, from the first on."""

    space, class_names = Space.of_data((1, 8, 8)), ()

    def __init__(self, drawn: ArrayDataset) -> None:
        super().__init__()
        self.conditioner = LabelConditioner(UNCONDITIONAL)
        self.drawn, self.requested, self.weight = drawn, list[int](), torch.nn.Parameter(torch.zeros(1))

    def sample(self, request: SampleRequest) -> Sampled:
        self.requested.append(len(request.seeds))
        return Sampled(self.drawn.fetch(list(request.seeds)).x_0, 1)


class Remembering(Objective[Drawing]):
    """Its loss is 1 an image that it does not know and ``known`` where the image is dark."""

    def __init__(self, known: float) -> None:
        super().__init__(Drawing(many_images(1)))
        self.known = known
        self.noise: list[Tensor] = []

    def forward(self, batch: Any, phase: str, rng: StepRandom) -> LossReport:
        assert phase == "main" and not self.training
        self.noise.append(rng.normal(batch.x_0, "eps"))
        rows = torch.where(batch.x_0.mean((1, 2, 3)) < 0, self.known, 1.0)
        return LossReport(rows.mean(), rows, torch.zeros(len(rows)))


def test_the_gap_is_that_of_the_losses_with_the_same_noise() -> None:
    system, dark, bright = Remembering(0.25), many_images(300, high=50), many_images(200, low=200)
    gap = generalisation_gap(system.train(), dark, bright, seed=3)
    assert (gap.training, gap.held_out, gap.relative) == (0.25, 1.0, 0.75)
    assert gap.num_images == 200 and system.training
    half = len(system.noise) // 2
    assert all(torch.equal(a, b) for a, b in zip(system.noise[:half], system.noise[half:], strict=True))
    assert len({float(noise.sum()) for noise in system.noise}) == half  # and other noise in every batch


def subject_of(drawn: ArrayDataset, train: ArrayDataset, held_out: ArrayDataset, **options: Any) -> EvaluationContext:
    config = {
        "data": {"train": len(train), "fingerprint": train.fingerprint},
        "config": {"data": {}, "recipe": "none", "ema": {"halflife_images": 5}, "system": {"name": "of nobody"}},
        "model": {"class_names": []},
    }
    model = Model(Drawing(drawn), config, Path("model"), "0" * 64)
    return EvaluationContext(model, lambda: train, held_out, Protocol(num=len(drawn), features="pixels", **options))


@pytest.mark.parametrize("copied", [True, False])
def test_copies_of_training_images_are_distinguished_from_new_ones(
    copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("undiffuse.evaluation.memorisation")
    monkeypatch.setattr(module, "objective_of", lambda opened: Remembering(1.0))  # the same loss for every image
    train, held_out, new = many_images(64), many_images(100, seed=1), many_images(90, seed=2)
    nearly = train._array[np.arange(90) % 64].astype(int) + np.random.default_rng(3).integers(-5, 6, (90, 1, 8, 8))
    drawn = ArrayDataset("copies", nearly.clip(0, 255).astype(np.uint8)) if copied else new
    found = evaluate(subject_of(drawn, train, held_out), ["copying"])["results"]
    assert found[0]["details"]["verdict"] == (LIKELY if copied else NONE)  # data
    assert found[0]["value"] < 0.1 if copied else found[0]["value"] == pytest.approx(1, abs=0.1)
    closest = found[0]["details"]["closest"][0]
    assert not copied or closest["training_item"] == closest["seed"] % 64


def test_samples_are_summed_up_batch_by_batch_and_can_be_had_again() -> None:
    drawn, progress = many_images(70, seed=2), []
    subject = subject_of(drawn, many_images(64), many_images(20, seed=1), batch_size=32)
    subject.observer = OnProgress(lambda done, total, part: progress.append((done, total)))
    assert subject.generated.count == 70 and progress == [(32, 70), (64, 70), (70, 70)]
    assert subject.model.module.requested == [32, 32, 6]  # type: ignore[attr-defined]
    assert torch.equal(subject.regenerate([3, 69]), drawn.fetch([3, 69]).items)
    assert torch.equal(subject.generated_images.rows, drawn.fetch(range(70)).items)
    assert len(progress) == 3 and subject.nfe == 1


def test_the_seconds_are_those_of_sampling_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = subject_of(many_images(70, seed=2), many_images(64), many_images(20, seed=1), batch_size=32)
    clock, draw = [0.0], Drawing.sample

    def slow(self: Drawing, request: SampleRequest) -> Sampled:
        clock[0] += 2
        return draw(self, request)

    def on_progress(done: float, total: float, part: str) -> None:
        clock[0] += 100

    monkeypatch.setattr(Drawing, "sample", slow)
    monkeypatch.setattr("undiffuse.evaluation.context.time.monotonic", lambda: clock[0])
    subject.observer = OnProgress(on_progress)
    assert subject.generated.count == 70 and subject.seconds == 6
    subject.regenerate([3, 69])
    assert subject.seconds == 6


def test_numbers_from_the_cache_name_what_was_requested_about_now(tmp_path: Path) -> None:
    cache, first = Cache(tmp_path), subject_of(many_images(90, seed=2), many_images(90), many_images(20, seed=1))
    moved = subject_of(many_images(90, seed=2), many_images(90), many_images(20, seed=1))
    moved.model = replace(moved.model, path=Path("moved"))
    for subject, name, cached in ((first, "model", False), (moved, "moved", True)):
        subject.cache = cache
        (row,) = evaluate(subject, ["kernel"])["results"]
        assert row["protocol"]["model"]["name"] == name and row["cached"] is cached
    for source, cached in (("here", False), ("there", True)):
        created = many_images(40)
        created.provenance["source"] = source
        (row,) = compare_sets(Pair(created, many_images(40, seed=1), features="pixels", cache=cache), ["kernel"])[
            "results"
        ]
        assert row["protocol"]["pictures"]["source"] == source and row["cached"] is cached


def test_every_number_reports_how_it_was_created() -> None:
    subject = subject_of(many_images(90, seed=2), many_images(90), many_images(20, seed=1))
    for row in evaluate(subject, ["frechet", "precision_recall", "copying"])["results"]:
        assert row["metric"] == "training_gap" or row["protocol"]["samples"]["num"] == 90  # whose loss needs no sample
        stated = {
            "name": "model",
            "weights_sha256": "0" * 64,
            "weights": "ema",
            "ema": {"halflife_images": 5},
        }
        assert row["protocol"]["model"] == stated and row["protocol"]["data_fingerprint"]
        json.dumps(row)


def test_a_set_against_itself_and_against_others() -> None:
    a, b, far = many_images(200), many_images(200, seed=1), many_images(200, seed=2, high=100)
    names = ("frechet", "kernel", "precision_recall", "copying")
    same, alike, other = (values(Pair(part, a, features="pixels"), *names) for part in (a, b, far))
    assert same["frechet_pixels"] == pytest.approx(0, abs=1e-8) and same["neighbour_ratio"] == 0
    assert alike["frechet_pixels"] < other["frechet_pixels"] and alike["kernel_pixels"] < other["kernel_pixels"]
    assert alike["neighbour_ratio"] == pytest.approx(1, abs=0.05)
    assert other["coverage"] < 0.2 < 0.8 < alike["coverage"] <= same["coverage"] == 1


def test_precision_and_recall_are_not_swapped() -> None:
    """Images of one of two kinds are all real, and show half of what is real."""
    dark, bright = many_images(60, high=60), many_images(60, seed=1, low=190)
    both = ArrayDataset("both", np.concatenate([dark._array, bright._array]))
    found = values(Pair(many_images(120, seed=2, high=60), both, features="pixels"), "precision_recall")
    assert found["precision"] > 0.9 and 0.3 < found["recall"] < 0.6


def test_only_inception_gives_published_names() -> None:
    pair = Pair(many_images(80), many_images(80, seed=1), features="pixels")
    assert set(values(pair, "frechet", "kernel")) == {"frechet_pixels", "kernel_pixels"}
    assert set(values(Pair(many_images(80), many_images(80, seed=1), features="handwriting"), "inception_score")) == {
        "score_handwriting"
    }


def test_too_few_and_unfit_images_are_rejected() -> None:
    small = Pair(many_images(8), many_images(100), features="pixels")
    for metric, needed in (("frechet", "65"), ("kernel", "10"), ("precision_recall", "10")):
        with pytest.raises(UsageError, match=needed):
            compare_sets(small, [metric])
    with pytest.raises(UsageError, match="handwriting"):
        compare_sets(small, ["inception_score"])
    with pytest.raises(UsageError, match=r"\(1, 8, 8\) and \(1, 9, 9\)"):
        Pair(many_images(8), many_images(8, side=9))
    with pytest.raises(UsageError, match="points"):
        Pair(ArrayDataset("line", np.zeros((4, 2), np.float32)), many_images(8))
    names, note = default_pair_metrics(small)
    assert names == ["copying"] and "frechet (65)" in note


@pytest.mark.parametrize(("metric", "features", "needed"), [
    ("inception_score", "handwriting", "20"),
    ("accuracy", "pixels", "4"),
    ("copying", "pixels", "2"),
])  # fmt: skip
def test_too_few_real_images_are_rejected_as_too_few_generated_ones(metric: str, features: str, needed: str) -> None:
    for pair in (
        Pair(many_images(60), many_images(1), features=features),
        Pair(many_images(1), many_images(60), features=features),
    ):
        with pytest.raises(UsageError, match=f"at least {needed} images on each side, got 1"):
            compare_sets(pair, [metric])


@pytest.mark.parametrize("metric", ["copying", "vlb", "vlb_random", "nll", "continuous_bound", "accuracy"])
def test_nothing_is_sampled_for_a_metric_that_lacks_held_out_images(metric: str) -> None:
    subject = subject_of(many_images(90, seed=2), many_images(90), many_images(0))
    subject.model.module.class_names = ("a", "b")
    with pytest.raises(UsageError, match="held-out images, got 0: train"):
        evaluate(subject, ["kernel", metric])
    assert not subject.drawn
    names, note = default_metrics(subject)
    assert not {"copying", "vlb"} & set(names) and "kernel" in names and "--data" in note


def test_images_too_large_for_the_accuracy_are_rejected_before_sampling() -> None:
    subject = subject_of(many_images(20, side=65), many_images(20, side=65), many_images(20, side=65))
    subject.model.module.class_names, subject.model.module.space = ("a", "b"), Space.of_data((1, 65, 65))
    with pytest.raises(UsageError, match="8 to 64 pixels"):
        evaluate(subject, ["accuracy"])
    assert not subject.drawn


def test_more_features_than_a_covariance_may_have() -> None:
    large = Pair(many_images(30, side=65), many_images(30, seed=1, side=65), features="pixels")
    with pytest.raises(UsageError, match="4225"):
        compare_sets(large, ["kernel"])
    assert default_pair_metrics(large)[0] == ["copying"]


def test_metrics_of_few_samples_compare_as_many_on_both_sides() -> None:
    (row, *_) = compare_sets(Pair(many_images(40), many_images(90, seed=1), features="pixels"), ["precision_recall"])[
        "results"
    ]
    assert row["protocol"]["estimate"]["num_real"] == row["protocol"]["estimate"]["num_generated"] == 40


ROW = {"metric": "x", "value": 0.1 + 0.2, "protocol": {"a": None}}


def found_in(cache: Cache, entry: dict[str, Any]) -> list[dict[str, Any]]:
    def make() -> list[dict[str, Any]]:
        raise AssertionError("computed anew")

    return cache.results(entry, make)


def test_results_are_kept_by_what_they_follow_from(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    assert cache.results({"a": 1}, lambda: [ROW]) == [{**ROW, "cached": False}]
    assert found_in(cache, {"a": 1}) == [{**ROW, "cached": True}]
    with pytest.raises(AssertionError, match="anew"):
        found_in(cache, {"a": 2})
    with pytest.raises(AssertionError, match="anew"):
        found_in(Cache(None), {"a": 1})


def test_changed_code_serves_no_old_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = Cache(tmp_path)
    cache.results({"a": 1}, lambda: [ROW])
    monkeypatch.setattr(caching, "source_sha256", lambda: "other")
    with pytest.raises(AssertionError, match="anew"):
        found_in(cache, {"a": 1})


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b'{"results": [{}], "sha256": "0"}', b"\xff\xfe"])
def test_a_damaged_result_is_computed_again(content: bytes, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.results({"a": 1}, lambda: [ROW])
    (path,) = tmp_path.rglob("*.json")
    path.write_bytes(content)
    assert cache.results({"a": 1}, lambda: [ROW]) == [{**ROW, "cached": False}]
    assert found_in(cache, {"a": 1}) == [{**ROW, "cached": True}]


def test_a_changed_number_in_the_cache_is_not_believed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.results({"a": 1}, lambda: [ROW])
    (path,) = tmp_path.rglob("*.json")
    record = json.loads(path.read_text())
    record["results"][0]["value"] = 7
    path.write_text(json.dumps(record))
    assert cache.results({"a": 1}, lambda: [ROW])[0]["value"] == ROW["value"]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert Cache(tmp_path / "file").results({"a": 1}, lambda: [ROW])[0]["value"] == ROW["value"]


@pytest.mark.parametrize("damage", ["cut", "other", "none"])
def test_a_summary_is_kept_and_fixed(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, dataset, extractor = Cache(tmp_path), many_images(40), load_features("pixels")
    first = compute_statistics(dataset, 30, extractor, cache)
    (path,) = tmp_path.rglob("*.safetensors")
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "other":
        from safetensors.torch import save_file

        save_file({"something": torch.zeros(2)}, path)
    else:  # nothing is read from the data
        monkeypatch.setattr(dataset, "items", None)
    again = compute_statistics(dataset, 30, extractor, cache)
    assert again.count == first.count == 30
    assert torch.equal(again.statistics.total.mean, first.statistics.total.mean)
    assert torch.equal(again.features.rows, first.features.rows)


def test_a_summary_is_another_for_other_rows_data_and_features(tmp_path: Path) -> None:
    cache, dataset = Cache(tmp_path), many_images(40)
    for count, data, name in (
        (30, dataset, "pixels"),
        (20, dataset, "pixels"),
        (30, many_images(40, seed=1), "pixels"),
    ):
        compute_statistics(data, count, load_features(name), cache)
    compute_statistics(dataset, 30, load_features("handwriting"), cache)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 4


def test_a_key_is_a_hash_of_plain_facts() -> None:
    assert key_of({"a": 1, "b": [2, None]}) == key_of({"b": [2, None], "a": 1}) != key_of({"a": 1, "b": [2, 0]})
    assert len(key_of({})) == 64


def checkout(folder: Path, head: str) -> Path:
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text(head)
    package = folder / "src" / "undiffuse"
    package.mkdir(parents=True)
    return package


def test_the_commit_of_a_checkout(tmp_path: Path) -> None:
    detached = checkout(tmp_path / "a", COMMIT + "\n")
    assert commit(detached) == COMMIT
    branch = checkout(tmp_path / "b", "ref: refs/heads/main\n")
    assert commit(branch) is None
    packed = tmp_path / "b" / ".git" / "packed-refs"
    packed.write_text(f"# pack-refs\n{'f' * 40} refs/heads/other-main\n{COMMIT} refs/heads/main\n")
    assert commit(branch) == COMMIT
    loose = tmp_path / "b" / ".git" / "refs" / "heads" / "main"
    loose.parent.mkdir(parents=True)
    loose.write_text("a" * 40 + "\n")
    assert commit(branch) == "a" * 40


def test_the_commit_of_a_worktree_and_of_an_installed_package(tmp_path: Path) -> None:
    main = checkout(tmp_path / "main", "ref: refs/heads/main\n")
    own = tmp_path / "main" / ".git" / "worktrees" / "w"
    own.mkdir(parents=True)
    (own / "HEAD").write_text("ref: refs/heads/side\n")
    (own / "commondir").write_text("../..\n")
    (main.parents[1] / ".git" / "packed-refs").write_text(f"{COMMIT} refs/heads/side\n")
    worktree = tmp_path / "w" / "src" / "undiffuse"
    worktree.mkdir(parents=True)
    (tmp_path / "w" / ".git").write_text(f"gitdir: {own}\n")
    assert commit(worktree) == COMMIT
    installed = tmp_path / "main" / "site-packages" / "undiffuse"
    assert commit(installed) is None
    assert commit(cast(Path, tmp_path / "none" / "src" / "undiffuse")) is None
