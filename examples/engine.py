"""A minimal serving engine with continuous batching: requests join and leave the batch between sampling steps.

    python examples/engine.py

Each request has its own number of steps, guidance and seed. All active requests advance together, one step at a time;
finished requests leave the batch, new requests join it. Every image is bitwise identical to that of ``model.sample``.
"""

from __future__ import annotations

import torch

import undiffuse
from undiffuse.conditioning.prompt import Prompt
from undiffuse.models.options import SamplingOptions
from undiffuse.samplers.plan import Plan, Request, advance_subset
from undiffuse.samplers.rows import Rows


class Engine:
    """Generates the samples of one plan; other samplers need a separate engine."""

    def __init__(self, plan: Plan) -> None:
        (self.stage,) = plan.stages
        self.waiting: list[Request] = []
        self.active: Rows | None = None

    @torch.no_grad()
    def step(self) -> dict[int, torch.Tensor]:
        """Advance every sample by one step; returns the finished samples by seed."""
        if self.waiting:
            new, self.waiting = self.stage.start(self.waiting), []
            self.active = new if self.active is None else Rows.join([self.active, new])
        if self.active is None:
            return {}
        rows = advance_subset(self.stage, self.active, ~self.active.done)
        done = rows.select(rows.done)
        self.active = None if bool(rows.done.all()) else rows.select(~rows.done)
        return dict(zip(done.seeds, self.stage.finish(done), strict=True))


def main() -> None:
    model = undiffuse.load("mnist")
    requested = [{"steps": 4 + 2 * (seed % 3), "guidance": 1.0 + seed % 2} for seed in range(6)]
    prompt = Prompt(class_name="3")
    engine = Engine(model.module.plan(SamplingOptions.of(sampler="dpmpp_2m_sde")))
    samples: dict[int, torch.Tensor] = {}
    pending = [Request(seed, prompt, SamplingOptions.of(**options)) for seed, options in enumerate(requested)]
    while len(samples) < len(requested):
        engine.waiting, pending = pending[:1], pending[1:]  # one new request per step
        samples |= engine.step()
    for seed, options in enumerate(requested):
        expected = model.sample(1, seed=seed, sampler="dpmpp_2m_sde", class_name="3", **options)
        assert torch.equal(model.finish(samples[seed][None]), torch.as_tensor(expected))
    print(f"{len(samples)} images, identical to those of model.sample")


if __name__ == "__main__":
    main()
