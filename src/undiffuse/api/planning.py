"""Plan of a training, with its cost measured on a few steps; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from undiffuse.api.loading import pick_device
from undiffuse.api.residual_signal import note_residual_signal
from undiffuse.api.short_runs import note_short_run
from undiffuse.api.training import note_late_guide, split_data
from undiffuse.observer import stage
from undiffuse.training.config import RunConfig
from undiffuse.training.cost import Cost as Cost
from undiffuse.training.cost import measured_cost
from undiffuse.training.trainer import Trainer


@dataclass(frozen=True)
class TrainingPlan:
    """Plan of a training.

    Attributes:
        config: of the run.
        data: name of the data.
        num_training, num_held_out: items of both parts.
        shape: of an item, (C, H, W) or (D,).
        class_names: of the data; empty without classes.
        num_parameters: number of trainable parameters.
        cost: of its steps, measured on this machine.
        device: it would run on.
    """

    config: RunConfig
    data: str
    num_training: int
    num_held_out: int
    shape: tuple[int, ...]
    class_names: tuple[str, ...]
    num_parameters: int
    cost: Cost
    device: str


def plan_training(config: RunConfig, device: str = "auto") -> TrainingPlan:
    """Plan a run and measure its cost.

    Args:
        config: of the run.
        device: ``cpu``, ``cuda`` or ``auto``.
    Raises:
        UsageError: unreadable data, or an unavailable device.
    """
    note_late_guide(config)
    training, held_out = split_data(config)
    note_residual_signal(config.system, training)
    with TemporaryDirectory() as folder, stage("measuring") as observer:  # a loss that is not finite leaves evidence
        trainer = Trainer(config, training, held_out, Path(folder), pick_device(device))
        parameters = sum(value.numel() for value in trainer.objective.model.parameters() if value.requires_grad)
        try:
            cost = measured_cost(trainer, observer)
        finally:
            trainer.loader.close()
    note_short_run(config)
    return TrainingPlan(
        config=config,
        data=training.name,
        num_training=len(training),
        num_held_out=len(held_out),
        shape=training.shape,
        class_names=tuple(training.class_names),
        num_parameters=parameters,
        cost=cost,
        device=trainer.device.type,
    )
