"""Studies: experiments that show what a model does and what the theory says, as pictures and numbers.

Listing them imports nothing. The rows of ``MODEL_STUDIES`` look at a trained model of pictures and share one command
line and one way of writing (``studies.run``); the other studies have a command of their own.
"""

from __future__ import annotations

from typing import NamedTuple


class ModelStudy(NamedTuple):
    """A study of a trained model of pictures.

    Attributes:
        summary: what it shows, in a line.
        run: ``module:function`` of ``(PictureSubject, options, folder, tell) -> list[Plate]``; writes the plates' PNGs
            into the folder, which exists, and calls ``tell(done, total)`` as it goes.
        options: ``module:Model`` of its options, a frozen pydantic model whose docstring says what each one is.
        denoises: it asks the model's denoiser; without, samples are enough, whatever makes them.
    """

    summary: str
    run: str
    options: str
    denoises: bool = True


MODEL_STUDIES: dict[str, ModelStudy] = {
    "forward": ModelStudy(
        "the forward process on real pictures: single steps composed beside the closed form, with mean and variance",
        "undiffuse.studies.forward:study_forward",
        "undiffuse.studies.forward:ForwardOptions",
    ),
    "progressive": ModelStudy(
        "progressive generation: x_t and x_0-hat over time, and when large features and details appear",
        "undiffuse.studies.progressive:study_progressive",
        "undiffuse.studies.progressive:ProgressiveOptions",
    ),
    "shared-latent": ModelStudy(
        "samples that share one x_t at several t: what is decided by then, and what is still open",
        "undiffuse.studies.shared_latent:study_shared_latent",
        "undiffuse.studies.shared_latent:SharedLatentOptions",
    ),
    "interpolation": ModelStudy(
        "two real pictures encoded to time t, mixed and decoded; coarse to fine over t",
        "undiffuse.studies.interpolation:study_interpolation",
        "undiffuse.studies.interpolation:InterpolationOptions",
    ),
    "prior-interpolation": ModelStudy(
        "samples of noise between the noises of two seeds, mixed spherically or linearly; of a GAN, of its latents",
        "undiffuse.studies.prior_interpolation:study_prior_interpolation",
        "undiffuse.studies.prior_interpolation:PriorInterpolationOptions",
        denoises=False,
    ),
    # trained models beside their data
    "noise-prediction": ModelStudy(
        "predicted noise beside true noise over t, with means and deviations, before and after training",
        "undiffuse.studies.noise_prediction:study_noise_prediction",
        "undiffuse.studies.noise_prediction:NoisePredictionOptions",
    ),
    "neighbours": ModelStudy(
        "samples beside their nearest training pictures, in pixels, in features and on a crop",
        "undiffuse.studies.neighbours:study_neighbours",
        "undiffuse.studies.neighbours:NeighboursOptions",
        denoises=False,
    ),
    "selection": ModelStudy(
        "the best samples by LPIPS to the nearest training picture, with likely copies marked",
        "undiffuse.studies.selection:study_selection",
        "undiffuse.studies.selection:SelectionOptions",
        denoises=False,
    ),
    "sweep": ModelStudy(
        "samplers and numbers of steps: quality against network evaluations and against seconds",
        "undiffuse.studies.sweep:study_sweep",
        "undiffuse.studies.sweep:SweepOptions",
    ),
    "levels": ModelStudy(
        "the denoising error by noise level, on training and on held-out pictures",
        "undiffuse.studies.levels:study_levels",
        "undiffuse.studies.levels:LevelsOptions",
    ),
}

#: Name of a study and what it shows.
STUDIES = {
    "theory": "a model of points in the plane beside the exact truth: scores, paths, likelihood, samplers",
    "parameterization": "{posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}, trained alike",
    "one-class": "one class against several at an equal budget of training: fidelity and variety of each",
    "small-data": "a recipe on 1,000 pictures, with and without augmentation: quality and overfitting against epochs",
    **{name: study.summary for name, study in MODEL_STUDIES.items()},
}
