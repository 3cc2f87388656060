"""Studies: experiments that compare the behaviour of a model with theory, as figures and numbers.

Listing them imports nothing. The entries of ``MODEL_STUDIES`` examine a trained model of images and share one command
line and one output format (``studies.run``); each other study has a separate command.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelStudy(NamedTuple):
    """A study of a trained model of images.

    Attributes:
        summary: what it shows, in one line. run: ``module:function`` of ``(ImageStudyContext, options, folder,
            on_progress) -> list[StudyFigure]``; writes the figures' PNGs into the existing folder and calls
            ``on_progress(done, total)``.
        options: ``module:Model`` of its options, a frozen pydantic model whose docstring describes each option.
        denoises: whether it needs the model's denoiser; otherwise only samples are needed.
    """

    summary: str
    run: str
    options: str
    denoises: bool = True


MODEL_STUDIES: dict[str, ModelStudy] = {
    "forward": ModelStudy(
        "the forward process on real images: single steps composed against the closed form, with mean and variance",
        "undiffuse.studies.images.forward:study_forward",
        "undiffuse.studies.images.forward:ForwardOptions",
    ),
    "denoising-trajectory": ModelStudy(
        "x_t and x_0-hat along the sampling trajectory, and when large features and details appear",
        "undiffuse.studies.images.denoising_trajectory:study_denoising_trajectory",
        "undiffuse.studies.images.denoising_trajectory:DenoisingTrajectoryOptions",
    ),
    "shared-latent": ModelStudy(
        "samples that share one x_t at several t: what is determined by then, and what still varies",
        "undiffuse.studies.images.shared_latent:study_shared_latent",
        "undiffuse.studies.images.shared_latent:SharedLatentOptions",
    ),
    "interpolation": ModelStudy(
        "two real images encoded to time t, mixed and decoded; coarse to fine over t",
        "undiffuse.studies.images.interpolation:study_interpolation",
        "undiffuse.studies.images.interpolation:InterpolationOptions",
    ),
    "prior-interpolation": ModelStudy(
        "samples from noise interpolated between two seeds, spherically or linearly; for a GAN, from its latents",
        "undiffuse.studies.images.prior_interpolation:study_prior_interpolation",
        "undiffuse.studies.images.prior_interpolation:PriorInterpolationOptions",
        denoises=False,
    ),
    # trained models and their data
    "noise-prediction": ModelStudy(
        "predicted noise against true noise over t, with means and deviations, before and after training",
        "undiffuse.studies.images.noise_prediction:study_noise_prediction",
        "undiffuse.studies.images.noise_prediction:NoisePredictionOptions",
    ),
    "neighbours": ModelStudy(
        "samples with their nearest training images, in pixels, in features and on a crop",
        "undiffuse.studies.images.neighbours:study_neighbours",
        "undiffuse.studies.images.neighbours:NeighboursOptions",
        denoises=False,
    ),
    "selection": ModelStudy(
        "the best samples by LPIPS to the nearest training image, with likely copies marked",
        "undiffuse.studies.images.selection:study_selection",
        "undiffuse.studies.images.selection:SelectionOptions",
        denoises=False,
    ),
    "sweep": ModelStudy(
        "samplers and numbers of steps: quality against NFE and against seconds",
        "undiffuse.studies.images.sweep:study_sweep",
        "undiffuse.studies.images.sweep:SweepOptions",
    ),
    "noise-levels": ModelStudy(
        "the denoising error by noise level, on training and on held-out images",
        "undiffuse.studies.images.noise_levels:study_noise_levels",
        "undiffuse.studies.images.noise_levels:NoiseLevelsOptions",
    ),
}

#: Former names of studies, which the command line still accepts -> current names.
RENAMED_STUDIES = {"progressive": "denoising-trajectory", "levels": "noise-levels"}

#: Name of each study and its summary.
STUDIES = {
    "theory": "a model of points in the plane against the exact distribution: scores, paths, likelihood, samplers",
    "parameterization": "{posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}, with equal training",
    "one-class": "one class against several at an equal training budget: fidelity and diversity of each",
    "small-data": "a recipe on 1,000 images, with and without augmentation: quality and overfitting against epochs",
    **{name: study.summary for name, study in MODEL_STUDIES.items()},
}
