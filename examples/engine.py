"""A serving engine in miniature: requests come and go while others are on their way, and none is changed by another.

    python examples/engine.py

Each request has its own number of steps, guidance and seed. Those that are under way move together, one step of each at
a time; whoever arrives leaves, whoever comes joins. Every image equals that of ``model.sample`` bit for bit.
"""

from __future__ import annotations

import torch

import undiffuse
from undiffuse.conditioning.prompt import Prompt
from undiffuse.models.options import SamplingOptions
from undiffuse.samplers.plan import Plan, Request, advance_subset
from undiffuse.samplers.rows import Rows


class Engine:
    """Rows of one plan; requests of other samplers would have an engine of their own."""

    def __init__(self, plan: Plan) -> None:
        (self.stage,) = plan.stages
        self.waiting: list[Request] = []
        self.moving: Rows | None = None

    @torch.no_grad()
    def step(self) -> dict[int, torch.Tensor]:
        """One step of every row; returns what has arrived, by seed."""
        if self.waiting:
            new, self.waiting = self.stage.start(self.waiting), []
            self.moving = new if self.moving is None else Rows.join([self.moving, new])
        if self.moving is None:
            return {}
        rows = advance_subset(self.stage, self.moving, ~self.moving.done)
        done = rows.select(rows.done)
        self.moving = None if bool(rows.done.all()) else rows.select(~rows.done)
        return dict(zip(done.seeds, self.stage.finish(done), strict=True))


def main() -> None:
    model = undiffuse.load("mnist")
    requested = [{"steps": 4 + 2 * (seed % 3), "guidance": 1.0 + seed % 2} for seed in range(6)]
    prompt = Prompt(class_name="3")
    engine = Engine(model.module.plan(SamplingOptions.of(sampler="dpmpp_2m_sde")))
    made: dict[int, torch.Tensor] = {}
    coming = [Request(seed, prompt, SamplingOptions.of(**options)) for seed, options in enumerate(requested)]
    while len(made) < len(requested):
        engine.waiting, coming = coming[:1], coming[1:]  # one more comes at every step
        made |= engine.step()
    for seed, options in enumerate(requested):
        alone = model.sample(1, seed=seed, sampler="dpmpp_2m_sde", class_name="3", **options)
        assert torch.equal(model.finish(made[seed][None]), torch.as_tensor(alone))
    print(f"{len(made)} images, each as model.sample makes it")


if __name__ == "__main__":
    main()
