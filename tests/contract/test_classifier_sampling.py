"""Sampling guided by a classifier: models without classes become steerable, and each sample is what it is alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.process import Process
from undiffuse.core.processes import PROCESSES, FlowProcess, make_process
from undiffuse.core.random import StepRandom
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.data.dataset import Batch
from undiffuse.data.given import Given
from undiffuse.errors import UsageError
from undiffuse.guidance.classifier import ClassifierWeights, guided_by_classifier
from undiffuse.models.classifier import ClassifierModel, ClassifierModelConfig
from undiffuse.models.classifier_guidance import with_classifier
from undiffuse.models.denoising import DenoisingModelConfig, NetworkModel
from undiffuse.models.gan import GanModelConfig
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.wrapped import WrappedModel
from undiffuse.networks import NETWORK_CONFIGS, MLPConfig, UNetConfig
from undiffuse.objectives.classifier import ClassifierConfig
from undiffuse.recipes.parts import row
from undiffuse.samplers.plan import Request, run
from undiffuse.samplers.rows import Rows

MEAN, VARIANCE = 2.0, 0.1
DATA = GaussianMixture(torch.tensor([[-MEAN], [MEAN]]), torch.tensor([VARIANCE, VARIANCE]))


class Exact:
    """The exact classifier of two Gaussians under any process."""

    class_names, shape, log_snr_range, batch_size = ("left", "right"), (1,), (-12.0, 12.0), 4

    def log_prob(self, x_t: Tensor, t: Tensor, labels: Tensor, process: Process) -> Tensor:
        alpha, sigma = process.alpha(t), process.sigma(t)
        log_odds = 2 * MEAN * alpha * x_t[:, 0].double() / (alpha**2 * VARIANCE + sigma**2)
        return torch.nn.functional.logsigmoid((2 * labels - 1) * log_odds)


def points(**more: Any) -> WrappedModel:
    return WrappedModel(DATA.denoiser(FlowProcess()), Space(kind="points", shape=(1,)), **more)


def request(names: list[str | None], **options: Any) -> SampleRequest:
    prompts = [Prompt(name) for name in names]
    settings = {"classifier": "exact", "steps": 20, "grid": "log_snr", **options}
    return SampleRequest(range(len(names)), SamplingOptions.of(**settings), prompts=prompts, classifier=Exact())


@pytest.mark.parametrize("process", [None, "ve:sigma_max=80"])
@pytest.mark.parametrize("through", ["x_t", "x_0"])
def test_a_model_without_classes_goes_to_the_class_that_is_named(process: str | None, through: str) -> None:
    names: list[str | None] = ["left", "right", "left", "right"] * 8
    sampled = points().sample(request(names, process=process, classifier_through=through))
    sides = sampled.x[:, 0] > 0
    assert sides.tolist() == [name == "right" for name in names]
    unguided = points().sample(request([None] * 32, process=process))
    assert 4 < int((unguided.x > 0).sum()) < 28
    assert sampled.nfe == 2 * unguided.nfe and not sampled.x.requires_grad


def small_images(conditional: bool) -> NetworkModel:
    torch.manual_seed(0)
    network = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1)
    model = DenoisingModelConfig(network=network, class_conditional=conditional).build((1, 8, 8), ("a", "b", "c"))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


def small_classifier(names: tuple[str, ...] = ("c", "a", "b"), shape: tuple[int, ...] = (1, 8, 8)) -> ClassifierModel:
    torch.manual_seed(1)
    network = UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1) if len(shape) == 3 else MLPConfig(width=8)
    model = ClassifierModelConfig(network=network, process=row(PROCESSES, "cosine")).build(shape, names)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model.eval().requires_grad_(False)


#: Class, classifier scale, classifier-free weight and steps of each sample of a batch.
MIXED: list[tuple[str | None, float, float, int]] = [
    ("a", 2.0, 1.0, 3),
    ("b", 0.0, 1.0, 3),
    ("c", 5.0, 2.0, 2),
    (None, 3.0, 1.0, 3),
    ("a", 1.0, 3.0, 3),
]


@pytest.mark.parametrize("through", ["x_t", "x_0"])
@pytest.mark.parametrize("conditional", [True, False])
def test_classes_scales_and_weights_in_one_batch_equal_each_alone(conditional: bool, through: str) -> None:
    model, classifier = small_images(conditional), small_classifier()
    shared = SamplingOptions.of(classifier="small", classifier_through=through, sampler="heun", grid="log_snr")
    plan = model.plan(shared)
    plan = with_classifier(plan, SampleRequest([0], shared, classifier=classifier), model.class_names, model.shape)
    assert plan.stages[0].gradients is (through == "x_0")

    requests = [
        Request(
            seed,
            Prompt(name),
            SamplingOptions.of(classifier_scale=scale, guidance=weight if conditional else None, steps=steps),
        )
        for seed, (name, scale, weight, steps) in enumerate(MIXED)
    ]
    together = run(plan, requests)
    alone = [run(plan, [one]) for one in requests]
    assert torch.equal(together.x, torch.cat([output.x for output in alone]))
    assert torch.equal(together.nfe, torch.cat([output.nfe for output in alone]))
    assert not together.x.requires_grad
    if not conditional:
        return
    unguided = model.plan(SamplingOptions.of(sampler="heun", grid="log_snr"))
    plain = [replace(one, options=without_scale(one.options)) for one in requests]
    for index, (name, scale, _, _) in enumerate(MIXED):
        same = torch.equal(together.x[index], run(unguided, [plain[index]]).x[0])
        assert same is (name is None or scale == 0)


def without_scale(options: SamplingOptions) -> SamplingOptions:
    return SamplingOptions.of(**{key: value for key, value in options.given().items() if key != "classifier_scale"})


def test_samples_that_join_late_are_what_they_are_alone() -> None:
    model, options = points(), SamplingOptions.of(classifier="exact", steps=6, sampler="heun", grid="log_snr")
    stage = with_classifier(
        model.plan(options), SampleRequest([0], options, classifier=Exact()), (), model.shape
    ).stages[0]
    first = stage.advance(stage.start([Request(0, Prompt("left")), Request(1, Prompt("right"))]))
    rows = Rows.join([first, stage.start([Request(2, Prompt("right"), SamplingOptions.of(classifier_scale=3.0))])])
    while not bool(rows.done.all()):
        active = (~rows.done).nonzero().flatten()
        advanced = stage.advance(rows.select(active))
        rows = Rows.join([rows.select(rows.done), advanced])
    by_seed = {seed: rows.x[index] for index, seed in enumerate(rows.seeds)}
    alone = run(
        with_classifier(model.plan(options), SampleRequest([0], options, classifier=Exact()), (), model.shape),
        [Request(2, Prompt("right"), SamplingOptions.of(classifier_scale=3.0))],
    )
    assert torch.equal(by_seed[2], alone.x[0])


def test_labels_of_conditions_are_those_of_the_model() -> None:
    """The classifier numbers the classes in another order."""
    model, classifier = small_images(True), small_classifier()
    options = SamplingOptions.of(classifier="small", steps=2, classifier_scale=4.0)
    by_label = SampleRequest([5, 6], options, Condition(label=torch.tensor([0, 2])), classifier=classifier)
    by_name = SampleRequest([5, 6], options, prompts=[Prompt("a"), Prompt("c")], classifier=classifier)
    assert torch.equal(model.sample(by_label).x, model.sample(by_name).x)


def test_what_does_not_fit_is_one_line() -> None:
    model = small_images(True)
    options = SamplingOptions.of(classifier="small", steps=2)
    for classifier, message in (
        (small_classifier(("a", "b")), "knows the classes a, b, the model a, b, c; use a classifier"),
        (small_classifier(("a", "b", "c"), (2,)), r"samples of shape \(2,\), the model generates \(1, 8, 8\)"),
        (None, "named by the options is not loaded"),
    ):
        with pytest.raises(UsageError, match=message):
            model.sample(SampleRequest([0], options, prompts=[Prompt("a")], classifier=classifier))
    with pytest.raises(UsageError, match="unknown class 'up' of the classifier"):
        points().sample(request(["up"]))
    with pytest.raises(UsageError, match=r"classifier_scale 2\.0 needs a classifier"):
        model.sample(SampleRequest.of([0], classifier_scale=2.0))
    with pytest.raises(UsageError, match="cache_interval=2 cannot be combined with classifier_through x_0"):
        model.sample(SampleRequest.of([0], classifier="small", classifier_through="x_0", cache_interval=2))
    gan = GanModelConfig().build((1, 16, 16), ())
    with pytest.raises(UsageError, match="a GAN samples in one evaluation and has no option classifier"):
        gan.sample(SampleRequest.of([0], classifier="small"))


def test_all_samples_of_a_plan_have_one_classifier() -> None:
    model, options = points(), SamplingOptions.of(classifier="exact", steps=2)
    plan = with_classifier(model.plan(options), SampleRequest([0], options, classifier=Exact()), (), model.shape)
    for name, value in (("classifier", "other"), ("classifier_through", "x_0")):
        with pytest.raises(UsageError, match=f"must have the same {name}"):
            run(plan, [Request(0, Prompt("left"), SamplingOptions.of(**{name: value}))])


def test_the_process_of_the_classifier_is_its_own() -> None:
    """One classifier guides models of any process alike: the shift of x_0-hat is that at equal log-SNR."""
    classifier = small_classifier(shape=(2,))
    data = GaussianMixture.ring(3)
    weights = ClassifierWeights(torch.tensor([0, 1, 2, 1]), torch.full((4,), 2.0, dtype=torch.float64))
    shifts = []
    x, log_snr = torch.randn(4, 2, generator=torch.Generator().manual_seed(2)), torch.tensor([-4.0, -1, 1, 4]).double()
    for process in (FlowProcess(), make_process("ve:sigma_max=80"), make_process("cosine")):
        t = process.time_of_log_snr(log_snr)
        x_t = per_row(process.norm(t), x) * x
        denoiser = data.denoiser(process)
        shifts.append(guided_by_classifier(denoiser, classifier, weights)(x_t, t).x_0 - denoiser(x_t, t).x_0)
    assert bool(shifts[0].abs().amax(1).min() > 1e-4)
    for other in shifts[1:]:
        assert torch.allclose(other, shifts[0], rtol=1e-3, atol=1e-5)


SMALL: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "unet": ({"channels": 8, "multipliers": (1, 2), "num_blocks": 1, "dropout": 0.1}, (1, 8, 8)),
    "transformer": ({"channels": 16, "num_heads": 2, "num_blocks": 2, "patch_size": 2}, (1, 8, 8)),
    "mlp": ({"width": 16, "num_blocks": 2}, (2,)),
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", NETWORK_CONFIGS)
def test_any_network_classifies_starting_from_equal_probabilities(name: str, precision: str) -> None:
    options, shape = SMALL[name]
    network = validate(NETWORK_CONFIGS[name], {"name": name, **options})  # type: ignore[type-var,arg-type]
    config = validate(ClassifierConfig, {"network": network, "precision": precision, "label_smoothing": 0.1})
    torch.manual_seed(0)
    objective = config.build(shape, ("a", "b", "c"))
    x_0 = torch.randn(16, *shape, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    batch = Batch(x_0, Given(label=torch.arange(16) % 3), torch.arange(16))
    report = objective(batch, "main", StepRandom(0, 0))
    assert torch.allclose(report.per_sample, torch.full((16,), math.log(3.0)), atol=1e-6)
    report.loss.backward()
    assert objective.model.network.head.weight.grad is not None
    again = objective(batch, "main", StepRandom(0, 0))
    assert torch.equal(again.per_sample, report.per_sample) and torch.equal(again.t, report.t)
    head = objective.model.network.head
    with torch.no_grad():
        head.weight.normal_(generator=torch.Generator().manual_seed(2))
    model = objective.model.eval().requires_grad_(False)
    t = torch.linspace(0.1, 0.9, 16, dtype=torch.float64)
    x = x_0.clone().requires_grad_()
    (slope,) = torch.autograd.grad(model.log_prob(x, t, torch.arange(16) % 3, FlowProcess())[3], x)
    assert bool(slope[3].abs().max() > 0) and not bool(slope[:3].any()) and not bool(slope[4:].any())
