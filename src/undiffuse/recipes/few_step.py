"""Few-step models, sampled in one to four steps: trained from data, or distilled from a trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from undiffuse.core.processes import PROCESSES
from undiffuse.data.config import IdxConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.models.denoising import DenoisingConfig
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.objectives.consistency import ConsistencyConfig
from undiffuse.objectives.distribution_matching import STUDENT, DistributionMatchingConfig
from undiffuse.objectives.mean_flow import MeanFlowConfig
from undiffuse.objectives.progressive import ProgressiveConfig
from undiffuse.objectives.teacher import TeacherConfig
from undiffuse.recipes.parts import row
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig


def ct_mnist() -> RunConfig:
    """Consistency training (Song & Dhariwal 2023, arXiv:2310.14189) on MNIST-format files, without a teacher.

    Log-normal noise levels as in the paper (mean -1.1, standard deviation 2); the discretisation doubles seven times,
    after each eighth of the run; fp32, because the difference of adjacent outputs is below the precision of bf16.
    """
    num_images = 400_000
    system = ConsistencyConfig(
        process=row(PROCESSES, "edm"),
        parameterization="edm",
        knot_grid="karras",
        first_knots=10,
        last_knots=1280,
        doubling_images=num_images // 8,
        time_density=row(TIME_DENSITIES, "log_normal", mean=-1.1, std=2.0),
        network=UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1, patch_size=2, dropout=0.1),
    )
    return RunConfig(
        recipe="ct-mnist",
        data=IdxConfig(path="data/mnist", validation_fraction=0.02),
        system=system,
        optimizer=OptimizerConfig(name="muon", learning_rate=1e-3, warmup_images=3_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=num_images,
        batch_images=64,
        validate_every_images=100_000,
        preview_every_images=100_000,
    )


def consistency_distillation(
    teacher: TeacherConfig, run: RunConfig, steps: int, num_images: int = 140_000
) -> RunConfig:
    """Consistency distillation of a trained model, with its data, network and classes.

    Args:
        teacher: the teacher model.
        run: its training configuration.
        steps: default number of sampling steps of the student, 1 to 4.
        num_images: number of training images.
    Raises:
        UsageError: a parameterization without a consistency function, such as ``eps``.
    """
    system = ConsistencyConfig(
        **_teacher_options(run),
        teacher=teacher,
        knot_grid="angle",
        first_knots=8,
        last_knots=32,
        doubling_images=max(num_images // 3, 1),
        weighting="output",
        time_density=row(TIME_DENSITIES, "uniform"),
        sampling=_sampling(run, "consistency", steps, "angle"),
    )
    return _distillation_run(run, system, num_images)


def meanflow_mnist() -> RunConfig:
    """MeanFlow (Geng et al. 2025, arXiv:2505.13447) on MNIST-format files, without a teacher; times as in the paper.

    Fourier time features with about one period over [0, 1]: the loss needs du/dt, which the features of a diffusion
    model, with a hundred periods and more, make too noisy. Adam instead of Muon, whose updates have the same scale for
    high and low frequencies.
    """
    network = UNetConfig(
        channels=48, multipliers=(1, 2), num_blocks=1, patch_size=2, time_features="fourier", fourier_scale=0.001
    )
    run = ct_mnist()
    return run.model_copy(
        update={
            "recipe": "meanflow-mnist",
            "system": MeanFlowConfig(network=network, equal_share=0.5),
            "optimizer": OptimizerConfig(learning_rate=1e-3, warmup_images=10_000, decay="cosine"),
        }
    )


def progressive_mnist() -> RunConfig:
    """A flow of 16 steps on MNIST-format files, halved to one (Salimans & Ho 2022, arXiv:2202.00512)."""
    run = ct_mnist()
    system = ProgressiveConfig(
        network=UNetConfig(channels=48, multipliers=(1, 2), num_blocks=1, patch_size=2),
        precision="bf16",
        base_images=200_000,
        start_steps=8,
        end_steps=1,
        stage_images=40_000,
        time_density=row(TIME_DENSITIES, "logit_normal", mean=0.3, std=1.1),
    )
    return run.model_copy(
        update={
            "recipe": "progressive-mnist",
            "system": system,
            "optimizer": OptimizerConfig(name="muon", learning_rate=3e-3, warmup_images=3_000, decay="cosine"),
        }
    )


def progressive_distillation(
    teacher: TeacherConfig, run: RunConfig, steps: int, num_images: int = 100_000
) -> RunConfig:
    """Progressive distillation of a trained model, from 8 student steps down to ``steps``.

    Arguments as of ``consistency_distillation``.

    The last stage is twice as long as the other ones.
    """
    start = max(8, steps)
    stages = (start // steps).bit_length()
    system = ProgressiveConfig(
        **_teacher_options(run),
        teacher=teacher,
        start_steps=start,
        end_steps=steps,
        stage_images=max(num_images // (stages + 1), 1),
        sampling=_sampling(run, "ddim", steps, "uniform"),
    )
    return _distillation_run(run, system, num_images)


def mean_flow_distillation(teacher: TeacherConfig, run: RunConfig, steps: int, num_images: int = 100_000) -> RunConfig:
    """MeanFlow distillation from a trained model's ODE; arguments as of ``consistency_distillation``.

    The target has no derivative with respect to time, so the student can have the teacher's time features. One-step
    sampling is learned last; on 2-D points it was far worse with Muon, which the other methods use, than with Adam.
    """
    options = _teacher_options(run) | {"process": row(PROCESSES, "flow"), "parameterization": "flow"}
    system = MeanFlowConfig(
        **options,
        teacher=teacher,
        equal_share=0.25,
        time_density=row(TIME_DENSITIES, "uniform"),
        sampling=_sampling(run, "mean_velocity", steps, "uniform").model_copy(update={"clip_x_0": False}),
    )
    optimizer = OptimizerConfig(learning_rate=2e-3, warmup_images=2_000, decay="cosine")
    return _distillation_run(run, system, num_images).model_copy(update={"optimizer": optimizer})


def distribution_matching_distillation(
    teacher: TeacherConfig, run: RunConfig, steps: int, num_images: int = 60_000
) -> RunConfig:
    """Distribution matching distillation; arguments as of ``consistency_distillation``, whose student is a good start.

    The learning rate of the student is a fifth of that of the fake score, which has to track the student: at equal
    rates the samples get specks and faint strokes.
    """
    options = _teacher_options(run)
    if options["process"].name != "flow":  # uniform times are for flow; other processes keep those of their training
        options |= {key: getattr(run.system, key) for key in ("time_density", "weighting") if hasattr(run.system, key)}
    system = DistributionMatchingConfig(
        **options,
        teacher=teacher,
        sampling=_sampling(run, "consistency", steps, "angle"),
    )
    config = _distillation_run(run, system, num_images)
    rates = {"phase_learning_rates": {STUDENT: config.optimizer.learning_rate / 5}}
    optimizer = config.optimizer.model_copy(update=rates)
    return config.model_copy(update={"optimizer": optimizer})


def _teacher_options(run: RunConfig) -> dict[str, Any]:
    """The options that a student shares with its teacher: process, parameterization, network, precision, classes."""
    return {key: getattr(run.system, key) for key in DenoisingConfig.model_fields if key not in ("name", "sampling")}


def _sampling(run: RunConfig, sampler: str, steps: int, grid: str) -> SamplingConfig:
    """Sampling options of the student, with the teacher's clipping and temperature."""
    teacher: SamplingConfig = run.system.sampling  # type: ignore[attr-defined]
    shared = {"clip_x_0": teacher.clip_x_0, "temperature": teacher.temperature}
    return SamplingConfig(sampler=sampler, num_steps=steps, grid=grid, **shared)


def _distillation_run(run: RunConfig, system: DenoisingConfig, num_images: int) -> RunConfig:
    return run.model_copy(
        update={
            "recipe": f"distilled-{run.recipe}",
            "system": system,
            "optimizer": OptimizerConfig(name="muon", learning_rate=1e-3, warmup_images=2_000, decay="cosine"),
            "ema": EMAConfig(halflife_images=4_000),
            "num_images": num_images,
            "quality_every_images": 0,
        }
    )


#: Distillation methods: (teacher, its training configuration, steps) -> configuration of the student's run.
DISTILLATIONS: dict[str, Callable[[TeacherConfig, RunConfig, int], RunConfig]] = {
    "consistency": consistency_distillation,
    "progressive": progressive_distillation,
    "mean_flow": mean_flow_distillation,
    "distribution_matching": distribution_matching_distillation,
}
