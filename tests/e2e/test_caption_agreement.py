"""Metric ``caption_agreement``: of a tiny text model of scenes, and of an oracle that draws its prompts."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import trainer_of

from undiffuse.annotators.scenes.arrays import arrays_of
from undiffuse.annotators.scenes.spec import parse, swapped
from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.data import DigitsConfig, ScenesConfig
from undiffuse.data.sources.scenes.layout import lay_out
from undiffuse.data.sources.scenes.render import render
from undiffuse.errors import UsageError
from undiffuse.evaluation import EvaluationContext, Protocol, default_metrics, evaluate
from undiffuse.evaluation.caption_agreement import CAPTION_AGREEMENT, training_agreement
from undiffuse.metrics.caption_agreement import agreements, by_groups, shares, wilson_interval
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model, load
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.training.config import RunConfig

SCENES = ScenesConfig(size=16, sizes=False, objects=2, shapes=3, num_scenes=2000)
NETWORK = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, text_levels=(1,))
TEXT = LearnedTextConfig(width=8, num_layers=1, num_heads=1)


def drawn(config: ScenesConfig, captions: list[str]) -> np.ndarray:
    words = arrays_of([parse(caption) for caption in captions])
    return render(config.vocabulary, words, lay_out(config, np.arange(len(captions)), words))


def context_of(model: Model, num: int = 12, **protocol: Any) -> EvaluationContext:
    def no_training_data() -> Any:
        raise AssertionError("captions and real scenes follow from the options")

    held_out: Any = SimpleNamespace(fingerprint="", class_names=())
    return EvaluationContext(
        model, no_training_data, held_out, Protocol(num=num, options=SamplingOptions(num_steps=2), **protocol)
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    system = DiffusionConfig(network=NETWORK, text=TEXT)
    options: Any = {"num_images": 32, "batch_images": 16, "validation_images": 16, "preview_every_images": 0}
    assert trainer_of(RunConfig(recipe="tiny", data=SCENES, system=system, **options), folder).run()
    return folder


@pytest.fixture
def model(run: Path) -> Model:
    return load(run, torch.device("cpu"))


def test_an_untrained_model_does_not_agree(model: Model) -> None:
    context = context_of(model, batch_size=5)
    results = evaluate(context, [CAPTION_AGREEMENT])["results"]
    assert [result["metric"] for result in results] == [
        f"caption_agreement_{kind}" for kind in ("seen", "held_out", "unseen_pairs")
    ]
    for result in results:
        assert result["value"] == 0 and result["details"]["shares"]["bindings"] < 0.5
        assert set(result["details"]["real_scenes"]["shares"].values()) == {1.0}
        assert result["details"]["chance"]["all"] == 0 and 0 < result["details"]["chance"]["objects"] < 0.8
        assert result["protocol"]["samples"]["num"] == 12 and result["protocol"]["distinct_captions"] == 12
        low, high = result["details"]["intervals"]["all"]
        assert low == 0 and 0.2 < high < 0.3
    assert context.nfe > 0 and CAPTION_AGREEMENT in default_metrics_of(model)


def default_metrics_of(model: Model) -> list[str]:
    context = context_of(model, 2)
    context.held_out = []  # type: ignore[assignment]
    return default_metrics(context)[0]


def test_a_model_that_draws_its_prompts_agrees_entirely(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def sample(change: Any) -> Any:
        def sampled(request: SampleRequest) -> Any:
            images = drawn(SCENES, [change(prompt.text) for prompt in request.prompts or ()])
            return SimpleNamespace(x=torch.from_numpy(images) / 127.5 - 1, nfe=1)

        return sampled

    monkeypatch.setattr(model.module, "sample", sample(str))
    for result in evaluate(context_of(model), [CAPTION_AGREEMENT])["results"]:
        assert result["value"] == 1 and set(result["details"]["shares"].values()) == {1.0}
        assert result["details"]["by_groups"]["2"]["shares"]["all"] == 1
    assert training_agreement(model.module, SCENES, 16)["all"] == 1
    monkeypatch.setattr(model.module, "sample", sample(swapped))
    found = training_agreement(model.module, SCENES, 16)
    assert found["metric"] == "caption_agreement_held_out" and found["captions"] == 16
    assert found["bindings"] == 1 and found["relations"] == found["all"] == 0


def test_models_without_text_or_scenes_are_rejected(tmp_path: Path, model: Model) -> None:
    system = DiffusionConfig(network=UNetConfig(channels=8, multipliers=(1,), num_blocks=1))
    for data in (SCENES, DigitsConfig()):
        folder = tmp_path / data.name
        options: Any = {"num_images": 16, "batch_images": 16, "validation_images": 16, "preview_every_images": 0}
        assert trainer_of(RunConfig(recipe="tiny", data=data, system=system, **options), folder).run()
        with pytest.raises(UsageError, match="models with text trained on the source 'scenes', got a model without"):
            evaluate(context_of(load(folder, torch.device("cpu"))), [CAPTION_AGREEMENT])


def test_shares_by_groups_and_their_intervals() -> None:
    config = ScenesConfig()
    captions = [
        "a small red circle left of a large blue square",
        "a small red circle left of a large blue square and above two small green stars",
        "two small red circles left of a large blue square",
    ]
    images = drawn(config, [captions[0], captions[1], captions[0]])
    found = agreements(images, captions, config.vocabulary)
    assert [one.all for one in found] == [1, 1, 0]
    total, parts = shares(found), by_groups(found, captions)
    assert total["all"].value == pytest.approx(2 / 3) and total["counts"].value == pytest.approx(2.5 / 3)
    assert total["objects"].value == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert parts[2]["all"].value == 0.5 and parts[3]["all"].value == 1 and parts[3]["all"].num == 1
    assert total["all"].error == pytest.approx(math.sqrt(2 / 9 / 3))
    with pytest.raises(UsageError, match="3 images for 2 captions"):
        agreements(images, captions[:2], config.vocabulary)


def test_the_interval_has_the_proportions_whose_test_passes() -> None:
    """Its ends solve |share - p| = z sqrt(p (1 - p) / n), for p."""
    for share, num in ((0.0, 10), (0.3, 50), (0.97, 300), (1.0, 64)):
        for end in wilson_interval(share, num, 1.96):
            assert abs(share - end) == pytest.approx(1.96 * math.sqrt(end * (1 - end) / num), abs=1e-12)
