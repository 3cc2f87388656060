"""The commands evaluate, compare, report and doctor. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from undiffuse.api.configuration.parsing import named_metrics, parse_counts
from undiffuse.cli.checks import completion
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.checks.names import REGISTRIES
from undiffuse.cli.options import (
    DataOptions,
    DeviceOption,
    FeaturesOption,
    ModelArgument,
    MovedDataOption,
    NoCacheOption,
    RecipeReadsOption,
    SeedOption,
    WeightsOption,
)
from undiffuse.cli.sampling_flags import sampling_flags

if TYPE_CHECKING:
    from undiffuse.models.options import SamplingOptions


@checked("evaluate")
@sampling_flags
def evaluate(
    model: ModelArgument,
    data_options: DataOptions = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="other held-out images than the run's, or the new location of the run's if they moved",
            autocompletion=completion.data,
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="comma-separated: nll, vlb, vlb_random, continuous_bound, frechet, kernel, inception_score, "
            "precision_recall, lpips_diversity, accuracy, classes, copying, sliced_wasserstein, caption_agreement, "
            "text_retrieval, class_agreement, class_distances; of other models noisy_accuracy, retrieval, "
            "zero_shot_accuracy",
            autocompletion=completion.several(REGISTRIES["metric"]),
        ),
    ] = None,
    num: Annotated[int, typer.Option(help="number of samples")] = 1000,
    *,
    options: SamplingOptions,
    seed: SeedOption = 0,
    features: FeaturesOption = "auto",
    evaluator: Annotated[
        Path | None,
        typer.Option(
            help="folder of a contrastive model or a classifier that evaluates samples, for text_retrieval and "
            "class_agreement"
        ),
    ] = None,
    gallery: Annotated[int, typer.Option(help="largest number of captions in a retrieval")] = 200,
    template: Annotated[
        str, typer.Option(help="text of a class for an evaluator of texts, such as 'a photo of a {}'")
    ] = "{}",
    bound_images: Annotated[int, typer.Option(help="held-out images for vlb and continuous_bound")] = 64,
    bound_random_images: Annotated[int, typer.Option(help="held-out images for vlb_random")] = 10_000,
    likelihood_images: Annotated[int, typer.Option(help="held-out images for nll")] = 64,
    likelihood_probes: Annotated[int, typer.Option(help="random vectors per image for the trace estimate of nll")] = 1,
    batch_size: Annotated[int, typer.Option(help="images per batch; does not change the results")] = 256,
    out: Annotated[Path | None, typer.Option(help="JSON file; MODEL/evaluation.json by default")] = None,
    no_cache: NoCacheOption = False,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Evaluate a model; the JSON file has every number together with its protocol."""
    names = named_metrics(metrics)
    from undiffuse.api import evaluating, loading
    from undiffuse.api.evaluating import Protocol
    from undiffuse.cli.tables import results_table

    loaded = loading.load(model, device, weights)
    protocol = Protocol(
        num=num,
        seed=seed,
        options=options,
        batch_size=batch_size,
        features=features,
        gallery=gallery,
        template=template,
        bound_images=bound_images,
        bound_random_images=bound_random_images,
        likelihood_images=likelihood_images,
        likelihood_probes=likelihood_probes,
    )
    path = out or loading.results_folder(loaded.path) / "evaluation.json"
    results_table(
        evaluating.evaluate_to_file(
            loaded,
            protocol,
            names,
            data,
            path,
            use_cache=not no_cache,
            options=data_options or [],
            evaluator=None if evaluator is None else loading.load(str(evaluator), device, "ema"),
        )
    )


@checked("compare")
def compare(
    images: Annotated[
        str,
        typer.Argument(
            metavar="A", help="images to measure: a folder, an MNIST-format file, ...", autocompletion=completion.data
        ),
    ],
    reference: Annotated[
        str,
        typer.Argument(metavar="B", help="the real images to compare them with", autocompletion=completion.data),
    ],
    options: DataOptions = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="comma-separated: frechet, kernel, inception_score, precision_recall, lpips_diversity, accuracy, "
            "classes, copying",
            autocompletion=completion.several(REGISTRIES["pair metric"]),
        ),
    ] = None,
    num: Annotated[
        int | None, typer.Option(help="maximum number of images of each set, evenly spaced; all by default")
    ] = None,
    counts: Annotated[
        str | None, typer.Option(help="measure at several counts, such as 250,500,1000, to see the bias of a metric")
    ] = None,
    features: FeaturesOption = "auto",
    size: Annotated[
        str | None, typer.Option(help="resize both to this size, such as 28 or 48x64; that of B by default")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file; none by default")] = None,
    no_cache: NoCacheOption = False,
) -> None:
    """Measure a set of images, from any generator, against real ones."""
    names = named_metrics(metrics)
    at_counts = parse_counts(counts)
    from undiffuse.api import comparing
    from undiffuse.cli.tables import print_by_count, results_table

    result = comparing.compare(
        images,
        reference,
        names,
        num=num,
        counts=at_counts,
        features=features,
        size=size,
        out=out,
        use_cache=not no_cache,
        options=options or [],
    )
    results_table(result, f"{images} against {reference}")
    if "by_count" in result:
        print_by_count(result)


@checked("report")
def report(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="a run folder, or several to compare", autocompletion=completion.models
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="HTML file; report.html in the run's folder, comparison.html here for several")
    ] = None,
    study: Annotated[
        list[Path] | None, typer.Option("--study", help="folder of a study to include; may be repeated")
    ] = None,
    data: MovedDataOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write one HTML page of a run: curves, quality, samples, studies, metrics; of several runs, a comparison."""
    from undiffuse.api import reporting

    typer.echo(f"report: {reporting.report(models, out, study or [], device, data)}")


@checked("doctor")
def doctor(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="DATA|RUN",
            help="a folder of images, MNIST-format files, a source's name, or a run",
            autocompletion=completion.subjects,
        ),
    ],
    options: DataOptions = None,
    against: Annotated[
        str | None,
        typer.Option(
            help="data that must have no image in common with it, such as a test set", autocompletion=completion.data
        ),
    ] = None,
    recipe: RecipeReadsOption = None,
    data: Annotated[str | None, typer.Option(help="run: new location of its training data, if it was moved")] = None,
    near: Annotated[
        float | None,
        typer.Option(help="data: maximum distance of near-duplicates, relative to their contrast; 0.07 by default"),
    ] = None,
    num: Annotated[
        int | None, typer.Option(help="run: number of samples; 256 by default, fewer for a slow model")
    ] = None,
    seed: SeedOption = 0,
    json: Annotated[Path | None, typer.Option(help="JSON file; of a run, RUN/doctor.json by default")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with code 1 on a warning or a problem")] = False,
    device: DeviceOption = "auto",
) -> None:
    """Examine data or a run: what is wrong, the numbers that show it, and what to do."""
    from undiffuse.api import examining
    from undiffuse.cli.tables import print_diagnosis

    diagnosis = examining.doctor(
        subject,
        against=against,
        options=options or [],
        recipe=recipe,
        data=data,
        near=near,
        num=num,
        seed=seed,
        out=json,
        device=device,
    )
    print_diagnosis(diagnosis)
    if diagnosis.file is not None:
        typer.echo(f"all numbers and names: {diagnosis.file}")
    if strict and not diagnosis.is_well:
        raise typer.Exit(1)
