"""Sampling as a value: stages, rows of their own ways, and what they are bound to, against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from greenlet import getcurrent, greenlet
from torch import Tensor

import undiffuse
from undiffuse.conditioning.prompt import Prompt
from undiffuse.config import validate
from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.denoiser import Denoised, Denoiser
from undiffuse.core.gaussian import GaussianMixture
from undiffuse.core.processes import FlowProcess, make_process
from undiffuse.core.rows import per_row
from undiffuse.core.space import Space
from undiffuse.errors import RunError, SamplingStoppedError, UsageError
from undiffuse.guidance.guided import Guidance, Guided, Term, build_guidance
from undiffuse.models.denoising import NetworkModel
from undiffuse.models.options import SamplingConfig, SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import load, save_wrapped
from undiffuse.models.stages import DenoisingStage, GeneratorStage
from undiffuse.models.wrapped import WrappedModel
from undiffuse.objectives.diffusion import DiffusionConfig
from undiffuse.samplers import make_sampler
from undiffuse.samplers.base import FixedBatchDenoiser
from undiffuse.samplers.plan import Plan, Request, SamplerOutput, jump_back, run
from undiffuse.samplers.rows import Rows

PROCESS = FlowProcess()
NUM = 3000


def options(**message: Any) -> SamplingOptions:
    return SamplingOptions.of(grid="log_snr", **message)


def point_space(size: int) -> Space:
    return Space(kind="points", shape=(size,))


class Conditional(Denoiser):
    """The exact denoiser of x_0 ~ N(gain c + offset, std^2) a coordinate, where c is the condition's embedding."""

    def __init__(self, gain: float, std: float, offset: float = 0.0) -> None:
        super().__init__()
        self.process, self.gain, self.std, self.offset = PROCESS, gain, std, offset
        self.log_snr_range = (-12.0, 12.0)

    def forward(
        self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
    ) -> Denoised:
        given = cond.embedding if cond is not None and cond.embedding is not None else torch.zeros_like(x_t)
        mean, alpha = self.gain * given + self.offset, per_row(PROCESS.alpha(t), x_t.double())
        total = alpha**2 * self.std**2 + per_row(PROCESS.sigma(t), x_t.double()) ** 2
        return Denoised((mean + alpha * self.std**2 / total * (x_t.double() - alpha * mean)).to(x_t.dtype))


@dataclass(frozen=True)
class Link(DenoisingStage):
    """A stage whose output is the condition of the next stage."""

    def for_next_stage(self, output: Tensor, requests: Sequence[Request]) -> list[Request]:
        return [
            replace(request, prompt=Condition(embedding=x[None])) for request, x in zip(requests, output, strict=True)
        ]


def cascade(sampler: str, streams: Sequence[int]) -> tuple[Tensor, ...]:
    """The residuals of x_1 ~ N(0, 0.5^2), x_2 ~ N(x_1, 0.4^2), x_3 ~ N(-0.5 x_2, 0.3^2), each of unit variance."""
    created: list[Tensor] = []

    class Noted(Link):
        def finish(self, rows: Rows) -> Tensor:
            created.append(super().finish(rows))
            return created[-1]

    parts = ((0.0, 0.5), (1.0, 0.4), (-0.5, 0.3))
    stages = [
        Noted(point_space(1), make_sampler(sampler), Conditional(gain, std), options(steps=20), stream=stream)
        for (gain, std), stream in zip(parts, streams, strict=True)
    ]
    run(Plan(tuple(stages)), [Request(seed) for seed in range(NUM)], batch_size=NUM)
    x_1, x_2, x_3 = (x.double()[:, 0] for x in created)
    return x_1 / 0.5, (x_2 - x_1) / 0.4, (x_3 + 0.5 * x_2) / 0.3


def correlation(a: Tensor, b: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


@pytest.mark.parametrize("sampler", [pytest.param("dpmpp_2m_sde", marks=pytest.mark.slow), "heun"])
def test_the_stages_of_a_cascade_have_noise_of_their_own(sampler: str) -> None:
    residuals = cascade(sampler, range(3))
    for one in residuals:
        assert abs(float(one.mean())) < 4 / math.sqrt(NUM) + 0.02 and abs(float(one.std()) - 1) < 0.08
    pairs = [(0, 1), (0, 2), (1, 2)]
    assert all(abs(correlation(residuals[i], residuals[j])) < 4 / math.sqrt(NUM) for i, j in pairs)
    repeated = cascade(sampler, (0, 0, 0))  # what one stream for all would do
    assert all(correlation(repeated[i], repeated[j]) > 0.9 for i, j in pairs)


def test_two_terms_are_the_conjunction_of_two_gaussians() -> None:
    """Near the data the score is that of N_1 N_2 / N_prior, whose precision and mean are in closed form."""
    prior, std = 2.0, 0.5

    class Prior(Conditional):
        def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
            assert cond is not None and cond.pooled is not None
            broad, narrow = (Conditional(1.0, s)(x_t, t, cond).x_0 for s in (prior, std))
            return Denoised(torch.where(cond.pooled > 0, narrow, broad))  # the negative has no condition

    def condition_on(mean: float) -> Condition:
        return Condition(embedding=torch.full((2, 1), mean).double(), pooled=torch.ones(2, 1))

    negative = Condition(embedding=torch.zeros(2, 1).double(), pooled=torch.zeros(2, 1))
    guidance = build_guidance([(condition_on(1.0), 1.0), (condition_on(0.2), 1.0)], 2, negative=negative)
    t, x = torch.full((2,), 1e-4, dtype=torch.float64), torch.tensor([[0.9], [-0.4]], dtype=torch.float64)
    message = Guided(Prior(1.0, 1.0), guidance)(x, t)
    alpha, sigma = PROCESS.alpha(t)[:, None], PROCESS.sigma(t)[:, None]
    score = (alpha * message.x_0 - x) / sigma**2
    precision = 2 / std**2 - 1 / prior**2
    mean = (1.0 / std**2 + 0.2 / std**2) / precision
    assert torch.allclose(score, -precision * (x - mean), rtol=2e-3)
    assert torch.as_tensor(message.nfe).tolist() == [3, 3]


def test_rows_with_more_terms_and_with_fewer_are_joined() -> None:
    def condition_on(count: int, mean: float) -> Condition:
        return Condition(embedding=torch.full((count, 1), mean).double())

    one = build_guidance([(condition_on(2, 1.0), 3.0)], 2)
    two = build_guidance([(condition_on(1, 1.0), 1.5), (condition_on(1, -2.0), 0.7)], 1)
    none = build_guidance([(condition_on(1, 1.0), 1.0)], 1)
    joined = Guidance.join([one, two, none])
    x, t = torch.linspace(-1, 1, 4).double()[:, None], torch.linspace(0.2, 0.8, 4).double()
    together = Guided(Conditional(1.0, 0.3), joined)(x, t)
    parts = [Guided(Conditional(1.0, 0.3), part) for part in (one, two, none)]
    rows = (slice(0, 2), slice(2, 3), slice(3, 4))
    alone = [part(x[row], t[row]).x_0 for part, row in zip(parts, rows, strict=True)]
    assert torch.equal(together.x_0, torch.cat(alone))
    assert torch.as_tensor(together.nfe).tolist() == [2, 2, 3, 1]


class Measured(Denoiser):
    """E[x_0 | x_t, y] for y = x_0 + noise of N(0, spread^2), by the gradient of log p(y | x_t) (diffusion posterior
    sampling with the exact variance of x_0 given x_t)."""

    def __init__(self, denoiser: Conditional, y: Tensor, spread: float) -> None:
        super().__init__()
        self.denoiser, self.y, self.spread, self.process = denoiser, y, spread, denoiser.process
        self.log_snr_range = denoiser.log_snr_range

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        alpha, sigma = (per_row(part, x_t.double()) for part in (PROCESS.alpha(t), PROCESS.sigma(t)))
        with torch.enable_grad():
            x = x_t.double().requires_grad_()
            x_0 = self.denoiser(x, t, cond).x_0
            variance = (self.denoiser.std * sigma) ** 2 / (alpha**2 * self.denoiser.std**2 + sigma**2)
            likelihood = -((self.y - x_0) ** 2 / (2 * (variance + self.spread**2))).sum()
            (slope,) = torch.autograd.grad(likelihood, x)
        return Denoised((x_0 + sigma**2 / alpha * slope).detach().to(x_t.dtype))


@dataclass(frozen=True)
class Measuring(DenoisingStage):
    y: float = 0.6
    gradients: bool = True

    def bind(self, rows: Rows) -> Denoiser:
        assert isinstance(self.network, Conditional)
        return Measured(self.network, torch.full_like(rows.x, self.y).double(), 0.25)


def test_a_stage_may_follow_gradients_through_its_denoiser() -> None:
    stage = Measuring(point_space(1), make_sampler("heun"), Conditional(0.0, 0.5), options(steps=40))
    x = run(Plan((stage,)), [Request(seed) for seed in range(NUM)], batch_size=NUM).x.double()
    precision = 1 / 0.5**2 + 1 / 0.25**2
    assert abs(float(x.mean()) - 0.6 / 0.25**2 / precision) < 4 * precision**-0.5 / math.sqrt(NUM)
    assert abs(float(x.std()) * precision**0.5 - 1) < 0.05


CORRELATION, KNOWN = 0.9, 1.2


class Correlated(Denoiser):
    """The exact denoiser of N(0, [[1, r], [r, 1]])."""

    process = PROCESS
    log_snr_range = (-12.0, 12.0)

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        covariance = torch.tensor([[1.0, CORRELATION], [CORRELATION, 1.0]], dtype=torch.float64)
        alpha, sigma = (part.reshape(-1, 1, 1) for part in (PROCESS.alpha(t), PROCESS.sigma(t)))
        total = alpha**2 * covariance + sigma**2 * torch.eye(2, dtype=torch.float64)
        x_0 = alpha * covariance @ torch.linalg.solve(total, x_t.double()[..., None])
        return Denoised(x_0[..., 0].to(x_t.dtype))


@dataclass(frozen=True)
class Inpainting(DenoisingStage):
    """The first coordinate is known; after each step back from a jump of ``jump`` it is put in place again."""

    jump: int = 0
    rounds: int = 0

    def advance(self, rows: Rows) -> Rows:
        rows = self._known(super().advance(rows))
        for turn in range(self.rounds if self.jump and int(rows.index[0]) % self.jump == 0 else 0):
            rows = jump_back(rows, self, self.network, self.jump, stream=1 + 100 * turn + int(rows.index[0]))
            for _ in range(self.jump):
                rows = self._known(super().advance(rows))
        return rows

    def _known(self, rows: Rows) -> Rows:
        s = rows.times.gather(1, rows.index[:, None])[:, 0]
        noise = torch.randn(len(rows), generator=torch.Generator().manual_seed(int(rows.index[0])))
        x = rows.x.clone()
        x[:, 0] = (PROCESS.alpha(s) * KNOWN + PROCESS.sigma(s) * noise).float()
        return replace(rows, x=x)


def test_jumps_back_bring_what_is_unknown_into_agreement_with_what_is_known() -> None:
    """The conditional mean is r times what is known; without jumps (RePaint, fig. 3) too little of that arrives."""

    def mean(jump: int, rounds: int) -> float:
        stage = Inpainting(
            point_space(2), make_sampler("dpmpp_2m_sde"), Correlated(), options(steps=30), jump=jump, rounds=rounds
        )
        return float(run(Plan((stage,)), [Request(seed) for seed in range(600)], batch_size=600).x[:, 1].mean())

    wanted = CORRELATION * KNOWN
    without, with_jumps = mean(0, 0), mean(3, 6)
    assert abs(with_jumps - wanted) < 0.35 * abs(without - wanted)


def test_a_jump_back_is_the_forward_process() -> None:
    stage = DenoisingStage(point_space(1), make_sampler("euler"), Conditional(0.0, 0.5), options(steps=10))
    rows = stage.start([Request(seed) for seed in range(NUM)])
    for _ in range(5):
        rows = stage.advance(rows)
    back = jump_back(rows, stage, stage.network, 1, stream=7)
    s, t = rows.times[0, 5], rows.times[0, 4]
    ratio = float(PROCESS.alpha(t) / PROCESS.alpha(s))
    fresh = (back.x - ratio * rows.x).double()
    deviation = math.sqrt(float(PROCESS.sigma(t)) ** 2 - (ratio * float(PROCESS.sigma(s))) ** 2)
    assert back.index.eq(4).all() and back.stream.eq(7).all()
    assert abs(float(fresh.std()) / deviation - 1) < 0.06
    assert abs(correlation(fresh[:, 0], rows.x[:, 0].double())) < 4 / math.sqrt(NUM)
    with pytest.raises(UsageError, match="cannot go 9 steps back: one of them has taken 5 steps"):
        jump_back(rows, stage, stage.network, 9, stream=8)


NETWORK = {"name": "mlp", "width": 16, "num_blocks": 1}


@pytest.fixture(scope="module")
def system() -> NetworkModel:
    """Points of two classes, random weights, and a guide that differs."""
    requested = {"network": NETWORK, "class_conditional": True, "guide_images": 10}
    built = validate(DiffusionConfig, requested).build((2,), ("a", "b")).model
    generator = torch.Generator().manual_seed(0)
    for parameter in built.parameters():
        parameter.data.normal_(0, 0.3, generator=generator)
    assert isinstance(built, NetworkModel)
    built.guide_seen.fill_(10)
    return built.eval()


def condition_on(label: int) -> Condition:
    return Condition(label=torch.tensor([label]))


class Hub:
    """Evaluates in one batch what greenlets need of the same network at the same time."""

    def __init__(self) -> None:
        self.batches: list[tuple[str, int, int]] = []
        self.main = getcurrent()

    def batching(self, name: str, denoiser: Denoiser) -> Denoiser:
        hub = self

        class Asking(Denoiser):
            process, log_snr_range = denoiser.process, denoiser.log_snr_range

            def forward(
                self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Evaluation | None = None
            ) -> Denoised:
                answer: Denoised = hub.main.switch((name, denoiser, x_t, t, cond))
                return answer

        return Asking()

    def run(self, works: Sequence[Callable[[], SamplerOutput]]) -> list[SamplerOutput]:
        created: dict[int, SamplerOutput] = {}
        waiting = {number: greenlet(work) for number, work in enumerate(works)}
        requested = {number: one.switch() for number, one in waiting.items()}
        while requested:
            for number in [number for number, one in waiting.items() if one.dead]:
                created[number] = requested.pop(number)
                del waiting[number]
            for name in sorted({question[0] for question in requested.values()}):
                together = {number: question for number, question in requested.items() if question[0] == name}
                for number, answer in self._answer(name, together).items():
                    requested[number] = waiting[number].switch(answer)
        return [created[number] for number in range(len(works))]

    def _answer(self, name: str, questions: dict[int, Any]) -> dict[int, Denoised]:
        parts = list(questions.values())
        joined = [torch.cat([part[number] for part in parts]) for number in (2, 3)]
        self.batches.append((name, len(parts), len(joined[0])))
        with torch.no_grad():
            message = FixedBatchDenoiser(parts[0][1], 1024)(*joined, Condition.join([part[4] for part in parts]))
        answers, start = {}, 0
        for number, part in questions.items():
            answers[number] = Denoised(message.x_0[start : start + len(part[2])])
            start += len(part[2])
        return answers


def test_a_hub_below_guidance_mixes_samplers_and_gives_each_what_it_gets_alone(system: NetworkModel) -> None:
    requested: list[dict[str, Any]] = [
        {"sampler": "rk45", "steps": 2},
        {"sampler": "heun", "steps": 5, "guidance": 2.0},
        {"sampler": "dpmpp_2m_sde", "steps": 7, "guidance": 1.5, "guidance_interval": (-3.0, 3.0)},
        {"sampler": "euler", "steps": 4, "autoguidance": 2.0, "temperature": 0.8},
    ]
    hub = Hub()

    def work(number: int) -> Callable[[], SamplerOutput]:
        plan = system.plan(SamplingOptions.of(**requested[number]), hub.batching)
        requests = [Request(10 * number + row, condition_on(row % 2)) for row in range(3)]
        return lambda: run(plan, requests)

    mixed = hub.run([work(number) for number in range(len(requested))])
    for number, message in enumerate(requested):
        cond = Condition(label=torch.tensor([0, 1, 0]))
        alone = system.sample(SampleRequest.of([10 * number + row for row in range(3)], cond=cond, **message))
        assert torch.equal(mixed[number].x, alone.x), message
    assert max(parts for name, parts, rows in hub.batches if name == "network") == 4
    assert any(name == "guide" for name, parts, rows in hub.batches)


def test_rows_of_one_plan_may_differ_in_all_but_what_is_bound(system: NetworkModel) -> None:
    requested: list[dict[str, Any]] = [
        {"steps": 3},
        {"steps": 6, "guidance": 2.0, "temperature": 0.7},
        {"steps": 4, "grid": "uniform", "autoguidance": 2.0},
        {"steps": 6, "guidance": 1.5, "guidance_interval": (-2.0, 2.0)},
    ]
    own = {"sampler": "dpmpp_2m_sde"}
    requests = [
        Request(seed, condition_on(seed % 2), SamplingOptions.of(**message)) for seed, message in enumerate(requested)
    ]
    together = run(system.plan(SamplingOptions.of(**own)), requests)
    for seed, message in enumerate(requested):
        alone = system.sample(SampleRequest.of([seed], cond=condition_on(seed % 2), **own, **message))
        assert torch.equal(together.x[seed], alone.x[0]), message
        assert int(together.nfe[seed]) == alone.nfe
    with pytest.raises(UsageError, match="all samples of a plan must have the same sampler"):
        run(
            system.plan(),
            [
                Request(0, condition_on(0), SamplingOptions.of(sampler="heun")),
                Request(1, condition_on(0), SamplingOptions.of(sampler="ddim")),
            ],
        )


def test_an_adaptive_solver_costs_a_row_the_same_in_any_company(system: NetworkModel) -> None:
    plan = system.plan(SamplingOptions.of(sampler="rk45", steps=2))
    requests = [Request(seed, condition_on(seed % 2), SamplingOptions.of(guidance=1.0 + seed)) for seed in range(4)]
    together = run(plan, requests)
    alone = [run(plan, [request]) for request in requests]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert together.nfe.tolist() == [int(one.nfe) for one in alone] and len(set(together.nfe.tolist())) > 1


def test_the_last_step_of_a_row_is_what_is_predicted_then() -> None:
    process = make_process("ve")  # which leaves noise at its end
    stage = DenoisingStage(
        point_space(1), make_sampler("euler"), Conditional(0.0, 0.5), options(steps=2), process=process
    )
    rows = stage.advance(stage.start([Request(0)]))
    assert not torch.equal(rows.x, rows.x_0)
    rows = stage.advance(rows)
    assert torch.equal(rows.x, rows.x_0) and bool(rows.done.all())


def test_rows_join_midway(system: NetworkModel) -> None:
    message = {"sampler": "unipc", "steps": 6, "guidance": 2.0}
    stage = system.plan(SamplingOptions.of(**message)).stages[0]
    with torch.no_grad():
        rows = stage.advance(stage.advance(stage.start([Request(1, condition_on(0)), Request(2, condition_on(1))])))
        rows = Rows.join([rows, stage.start([Request(3, condition_on(1))])])
        created: dict[int, Tensor] = {}
        while len(rows):
            rows = stage.advance(rows)
            arrived = rows.select(rows.done)
            created |= dict(zip(arrived.seeds, stage.finish(arrived), strict=True))
            rows = rows.select(~rows.done)
    alone = system.sample(
        SampleRequest.of(
            [1, 2, 3], cond=Condition(label=torch.tensor([0, 1, 1])), sampler="unipc", steps=6, guidance=2.0
        )
    )
    assert torch.equal(torch.stack([created[seed] for seed in (1, 2, 3)]), alone.x)


def test_a_run_stops_between_steps_and_keeps_what_was_taken(system: NetworkModel) -> None:
    taken, steps = list[int](), 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > 6

    with pytest.raises(SamplingStoppedError, match="after 2 of 4 steps"):
        run(
            system.plan(SamplingOptions.of(sampler="euler", steps=4)),
            [Request(seed, condition_on(0)) for seed in range(4)],
            batch_size=2,
            take=lambda first, created: taken.append(len(created.x)),
            stop=stop,
        )
    assert taken == [2]


def from_image(strength: float, seeds: Sequence[int], x_0: float = 0.7, steps: int = 60) -> Tensor:
    stage = DenoisingStage(
        point_space(1), make_sampler("heun"), Conditional(0.0, 0.5, 0.1), options(steps=steps, strength=strength)
    )
    return run(Plan((stage,)), [Request(seed, image=torch.tensor([x_0])) for seed in seeds], batch_size=len(seeds)).x


@pytest.mark.parametrize("strength", [0.25, 0.5, 0.75])
def test_from_an_image_noise_is_added_and_taken_away_again(strength: float) -> None:
    """Of N(m, s^2) the ODE takes x_t to m + s (x_t - alpha m) / sqrt(alpha^2 s^2 + sigma^2)."""
    x, steps, m, s = from_image(strength, range(NUM)).double(), 60, 0.1, 0.5
    from undiffuse.samplers.grids import time_grid

    t = time_grid("log_snr", PROCESS, steps, (-12.0, 12.0))[steps - round(strength * steps)]
    alpha, sigma = float(PROCESS.alpha(t)), float(PROCESS.sigma(t))
    scale = s / math.sqrt(alpha**2 * s**2 + sigma**2)
    assert abs(float(x.mean()) - (m + scale * alpha * (0.7 - m))) < 4 * scale * sigma / math.sqrt(NUM) + 2e-3
    assert abs(float(x.std()) / (scale * sigma) - 1) < 0.06


def test_strength_has_both_its_ends() -> None:
    assert torch.equal(from_image(0.0, range(3)), torch.full((3, 1), 0.7))
    stage = DenoisingStage(point_space(1), make_sampler("heun"), Conditional(0.0, 0.5, 0.1), options(steps=60))
    assert torch.equal(from_image(1.0, range(3)), run(Plan((stage,)), [Request(seed) for seed in range(3)]).x)


def test_a_strength_needs_an_image_that_fits(system: NetworkModel) -> None:
    with pytest.raises(UsageError, match=r"strength 0\.5 needs an initial image, and there is none"):
        system.sample(SampleRequest.of([0], strength=0.5))
    with pytest.raises(UsageError, match=r"must be float \(2,\), got torch\.float32 \(3,\)"):
        system.sample(SampleRequest.of([0], strength=0.5, images=torch.zeros(1, 3)))


def test_rows_that_begin_from_images_and_from_noise_go_together() -> None:
    mixture = GaussianMixture.ring(3).denoiser(PROCESS)
    stage = DenoisingStage(point_space(2), make_sampler("dpmpp_2m"), FixedBatchDenoiser(mixture, 8), options(steps=10))
    requests = [Request(0), Request(1, options=SamplingOptions.of(strength=0.4), image=torch.ones(2)), Request(2)]
    together = run(Plan((stage,)), requests)
    alone = [run(Plan((stage,)), [request]) for request in requests]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert together.nfe.tolist() == [10, 4, 10]


class Elsewhere(Denoiser):
    """What somebody else wrote: a network of their own under one of our processes."""

    def __init__(self) -> None:
        super().__init__()
        self.process, self.log_snr_range = PROCESS, (-8.0, 8.0)
        self.theirs = torch.nn.Sequential(torch.nn.Linear(5, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        inputs = torch.cat([x_t.flatten(1), t[:, None].to(x_t.dtype)], dim=1)
        return Denoised(self.theirs(inputs).reshape(x_t.shape))


def test_a_stranger_s_denoiser_is_sampled_saved_and_opened_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WrappedModel(Elsewhere(), Space.of_data((1, 2, 2)), sampling=SamplingConfig(sampler="unipc", num_steps=4))
    created = model.sample(SampleRequest.of(range(3))).x
    assert model.sample(SampleRequest.of(range(3), sampler="rk45", temperature=0.5)).x.isfinite().all()
    folder = save_wrapped(model, tmp_path / "theirs", "a test's own network")
    opened = load(folder, denoiser=Elsewhere())
    assert torch.equal(opened.module.sample(SampleRequest.of(range(3))).x, created)
    assert opened.sample(2).record["sampler"] == "unipc" and "theirs" in repr(opened)
    with pytest.raises(UsageError, match=r"load it in Python with undiffuse.load\(folder, denoiser"):
        load(folder)
    with pytest.raises(UsageError, match="the file has"):
        load(folder, denoiser=Wider())
    with pytest.raises(UsageError, match="was not saved with an external denoiser"):
        undiffuse.load("mnist", denoiser=Elsewhere())


class Wider(Elsewhere):
    def __init__(self) -> None:
        super().__init__()
        self.theirs = torch.nn.Sequential(torch.nn.Linear(5, 17), torch.nn.Tanh(), torch.nn.Linear(17, 4))


def test_terms_hold_what_they_are_given() -> None:
    guidance = build_guidance([(condition_on(0), 1.0)], 1)
    assert guidance.inactive and isinstance(guidance.terms[0], Term)
    assert not build_guidance([(condition_on(0), 2.0)], 1).inactive


@pytest.mark.parametrize("name", ["process", "cache_interval", "sampler"])
def test_what_is_bound_may_be_reported_again_and_not_changed(system: NetworkModel, name: str) -> None:
    own = {"process": "vp", "cache_interval": 1, "sampler": "euler"}
    stage = system.plan(SamplingOptions.of(process="vp", sampler="euler", steps=2)).stages[0]
    stage.start([Request(0, condition_on(0), SamplingOptions.of(**{name: own[name]}))])
    other = {"process": "ve", "cache_interval": 2, "sampler": "heun"}[name]
    with pytest.raises(UsageError, match=f"the same {name}; create another plan for {other!r}"):
        stage.start([Request(0, condition_on(0), SamplingOptions.of(**{name: other}))])


@pytest.mark.parametrize("sampler", ["heun", "edm:s_churn=4", "pc", "annealed_langevin", "unipc", "rk45"])
def test_a_row_costs_in_any_company_what_it_costs_alone(system: NetworkModel, sampler: str) -> None:
    plan = system.plan(SamplingOptions.of(sampler=sampler))
    requests = [Request(seed, condition_on(0), SamplingOptions.of(steps=steps)) for seed, steps in enumerate((3, 6, 2))]
    together, alone = run(plan, requests), [run(plan, [request]) for request in requests]
    assert torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert together.nfe.tolist() == [int(one.nfe) for one in alone]


def test_a_row_that_fails_is_known_and_takes_no_other_with_it(system: NetworkModel) -> None:
    stage = system.plan(SamplingOptions.of(sampler="euler", steps=2)).stages[0]
    rows = stage.start([Request(0, condition_on(0)), Request(1, condition_on(0))])
    rows = replace(rows, x=torch.stack([rows.x[0], torch.full_like(rows.x[1], torch.nan)]))
    with torch.no_grad():
        rows = stage.advance(stage.advance(rows))
        assert rows.failed.tolist() == [False, True]
        alone = run(Plan((stage,)), [Request(0, condition_on(0))]).x
        assert torch.equal(stage.finish(rows.select(~rows.failed)), alone)
        with pytest.raises(RunError, match="1 of 2 samples are not finite with sampler euler"):
            stage.finish(rows)


class Rough(Denoiser):
    """As smooth as can be for the first class, and of no slope at all for the second."""

    def __init__(self) -> None:
        super().__init__()
        self.process = FlowProcess()

    def forward(self, x_t: Tensor, t: Tensor, cond: Condition | None = None, evaluation: Any = None) -> Denoised:
        assert cond is not None and cond.label is not None
        return Denoised(torch.where((cond.label == 1)[:, None], 1e6 * torch.sin(1e9 * x_t), torch.zeros_like(x_t)))


def test_an_adaptive_solver_gives_up_a_row_and_takes_no_other_with_it() -> None:
    model = WrappedModel(Rough(), Space.of_data((2,)), ("smooth", "rough"))
    plan = model.plan(SamplingOptions.of(sampler="rk45:rtol=0.01", steps=3))
    stage = plan.stages[0]
    rows = stage.start([Request(0, condition_on(0)), Request(1, condition_on(1)), Request(2, condition_on(0))])
    with torch.no_grad():
        while not bool(rows.done.all()):
            rows = stage.advance(rows)
    assert rows.failed.tolist() == [False, True, False]
    alone = [run(plan, [Request(seed, condition_on(0))]) for seed in (0, 2)]
    assert torch.equal(stage.finish(rows.select(~rows.failed)), torch.cat([one.x for one in alone]))
    assert rows.nfe[~rows.failed].tolist() == [int(one.nfe) for one in alone]
    with pytest.raises(RunError, match="got stuck in 1 of 3 samples with sampler rk45; raise its tolerance"):
        stage.finish(rows)


def test_rows_that_report_nothing_join_those_that_report_something(system: NetworkModel) -> None:
    stage = system.plan(SamplingOptions.of(sampler="euler", steps=2, guidance=2.0)).stages[0]
    requests = [
        Request(0),
        Request(1, Prompt("a")),
        Request(2, condition_on(1)),
        Request(3, Prompt("b", negative=Prompt("a"))),
    ]
    with torch.no_grad():
        together = Rows.join([stage.start([request]) for request in requests])
        at_once = stage.start(requests)
        for _ in range(2):
            together, at_once = stage.advance(together), stage.advance(at_once)
        alone = [run(Plan((stage,)), [request]) for request in requests]
    assert torch.equal(together.x, at_once.x) and torch.equal(together.x, torch.cat([one.x for one in alone]))
    assert together.nfe.tolist() == [2, 4, 4, 4]  # no class is led away from nothing


def test_rows_of_one_term_and_of_two_join_and_weights_stay_on_the_cpu() -> None:
    stage = DenoisingStage(point_space(1), make_sampler("euler"), Conditional(1.0, 0.5), options(steps=2))
    one, two = (
        replace(
            stage.start([Request(seed)]),
            guidance={"classifier_free": build_guidance([(Condition(embedding=torch.ones(1, 1)), 2.0)] * count, 1)},
        )
        for seed, count in ((0, 1), (1, 2))
    )
    joined = Rows.join([one, two])
    guidance = joined.guidance["classifier_free"]
    assert isinstance(guidance, Guidance) and guidance.weights.tolist() == [[2.0, 2.0], [0.0, 2.0]]
    moved = joined.to("meta").guidance["classifier_free"]
    assert isinstance(moved, Guidance) and moved.low is not None and moved.low.device.type == "cpu"
    assert moved.terms[0].condition.embedding.device.type == "meta"  # type: ignore[union-attr]


def test_rows_that_bring_a_condition_are_not_mistaken_for_those_that_do_not() -> None:
    stage = DenoisingStage(point_space(1), make_sampler("euler"), Conditional(1.0, 0.5), options(steps=2))
    with pytest.raises(UsageError, match="1 of 2 samples have a condition"):
        stage.start([Request(0, Condition(embedding=torch.ones(1, 1))), Request(1)])


def test_what_is_taken_is_kept_no_longer(system: NetworkModel) -> None:
    created = run(
        system.plan(SamplingOptions.of(steps=1)), [Request(0, condition_on(0))], take=lambda first, part: None
    )
    assert created.x.untyped_storage().nbytes() == 0


def test_an_image_is_the_first_stage_s_alone() -> None:
    seen: list[Request] = []

    class Seeing(DenoisingStage):
        def start(self, requests: Sequence[Request]) -> Rows:
            seen.extend(requests)
            return super().start(requests)

    stages = [Seeing(point_space(1), make_sampler("euler"), Conditional(0.0, 0.5), options(steps=2)) for _ in range(2)]
    run(Plan(tuple(stages)), [Request(0, None, SamplingOptions.of(strength=0.5), torch.zeros(1))])
    assert seen[0].image is not None and seen[1].image is None and seen[1].options is None
    assert seen[1].previous is not None


def test_a_generator_obeys_no_option_and_reports_so_at_once() -> None:
    gan = undiffuse.load("mnist").module  # a stage of a generator needs no network here
    stage = GeneratorStage(gan.space, lambda seeds: torch.zeros(len(seeds), 2), lambda z, cond: z, check=reject)
    with pytest.raises(UsageError, match="none of that"):
        stage.start([Request(0, None, SamplingOptions.of(steps=3))])


def reject(options: SamplingOptions) -> None:
    raise UsageError("none of that")


def test_strength_0_is_the_image_under_every_process_and_little_is_one_step() -> None:
    for process in ("ve", "vp", "ddpm_linear"):
        stage = DenoisingStage(
            point_space(1),
            make_sampler("euler"),
            Conditional(0.0, 0.5),
            options(steps=10),
            process=make_process(process),
        )
        for strength, steps in ((0.0, 0), (0.01, 1), (0.05, 1), (0.25, 3), (1.0, 10)):
            request = Request(0, None, SamplingOptions.of(strength=strength), torch.full((1,), 0.7))
            created = run(Plan((stage,)), [request])
            assert created.nfe.tolist() == [steps], (process, strength)
            assert strength or torch.equal(created.x, torch.full((1, 1), 0.7))


def test_a_request_reports_as_much_of_each_seed() -> None:
    with pytest.raises(UsageError, match="3 images for 1 seeds"):
        SampleRequest.of([0], strength=0.5, images=torch.zeros(3, 2))
    with pytest.raises(UsageError, match="1 rows of label for 2 seeds"):
        SampleRequest.of([0, 1], cond=condition_on(0))
    with pytest.raises(UsageError, match="needs a strength"):
        SampleRequest.of([0], images=torch.zeros(1, 2))
