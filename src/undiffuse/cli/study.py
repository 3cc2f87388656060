"""The commands ``undiffuse study ...``. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from undiffuse.api import catalogue
from undiffuse.cli import terminal
from undiffuse.cli.checks import completion
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.options import (
    DataOptions,
    DeviceOption,
    FeaturesOption,
    MetricOption,
    ModelArgument,
    MovedDataOption,
    SeedOption,
    WeightsOption,
    list_rows,
)

study_app = typer.Typer(help="Experiments that illustrate the theory.", rich_markup_mode=None)


@study_app.callback(invoke_without_command=True)
def study(context: typer.Context) -> None:
    """Experiments that illustrate the theory; without a name, lists them."""
    if context.invoked_subcommand is None:
        list_rows(catalogue.studies())


@study_app.command("theory")
@checked("study theory")
def study_theory(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="a run folder of points, or exact:swissroll, rings, gaussians, gaussian_ring"
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="folder; studies/theory-MODEL by default")] = None,
    process: Annotated[
        str | None, typer.Option(help="process of exact:NAME, such as ve or vp:beta_max=10; vp by default")
    ] = None,
    num: Annotated[int, typer.Option(help="points in each of the sets that are compared")] = 1000,
    seed: SeedOption = 0,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Plot score fields, paths of all samplers, filmstrips and likelihood of a model next to the exact ones."""
    from undiffuse.api import studying
    from undiffuse.cli.tables import print_theory

    print_theory(studying.theory(model, out, process=process, num=num, seed=seed, weights=weights, device=device))


@study_app.command("parameterization")
@checked("study parameterization")
def study_parameterization(
    options: DataOptions = None,
    data: Annotated[
        str | None, typer.Option(help="a source's name or a folder; digits by default", autocompletion=completion.data)
    ] = None,
    out: Annotated[Path, typer.Option(help="folder; resumes a study there")] = Path("studies/parameterization"),
    images: Annotated[int | None, typer.Option(help="training images of each of the nine runs")] = None,
    num: Annotated[int, typer.Option(help="samples per cell")] = 500,
    seed: Annotated[int, typer.Option(help="seed of the training runs")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train {posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde}, and compare them in a table."""
    from undiffuse.experiments import parameterization

    result = parameterization.parameterization(
        data, out, images=images, samples=num, seed=seed, device=device, options=options or []
    )
    terminal.table(*parameterization.summary(result))
    terminal.print_line(f"study: {out / 'table.md'}")


@study_app.command("one-class")
@checked("study one-class")
def study_one_class(
    data: Annotated[
        str,
        typer.Option(help="a source of images with classes, a few hundred of each", autocompletion=completion.data),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="overrides of the recipe, such as system.precision=fp32"),
    ] = None,
    class_name: Annotated[
        str | None, typer.Option("--classes", help="the class to compare with all; the first one by default")
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="recipe to train, see 'undiffuse recipes'", autocompletion=completion.recipes)
    ] = "flow-mnist",
    images: Annotated[int, typer.Option(help="training images of each of the three runs")] = 30_000,
    num: Annotated[int, typer.Option(help="samples per set")] = 500,
    features: FeaturesOption = "auto",
    metric: MetricOption = "frechet",
    out: Annotated[Path, typer.Option(help="folder; resumes a study there")] = Path("studies/one-class"),
    seed: Annotated[int, typer.Option(help="seed of the training runs")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train one recipe on one class, on all classes, and class-conditionally on all, and compare the samples."""
    from undiffuse.experiments import one_class

    result = one_class.one_class(
        data,
        out,
        class_name=class_name,
        recipe=recipe,
        overrides=overrides or [],
        images=images,
        samples=num,
        features=features,
        metric=metric,
        seed=seed,
        device=device,
    )
    terminal.table(*one_class.summary(result))
    terminal.print_line(f"study: {out / 'table.md'}")


@study_app.command("small-data")
@checked("study small-data")
def study_small_data(
    data: Annotated[
        str, typer.Option(help="a source with more images than are trained on", autocompletion=completion.data)
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="overrides of the recipe, such as system.precision=fp32"),
    ] = None,
    recipe: Annotated[
        str, typer.Option(help="recipe to train, see 'undiffuse recipes'", autocompletion=completion.recipes)
    ] = "dcgan-mnist",
    augment: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="overrides of the augmented run; by default, those that suit the recipe"
        ),
    ] = None,
    images: Annotated[int, typer.Option(help="training images")] = 1000,
    epochs: Annotated[int, typer.Option(help="passes over the images")] = 100,
    every: Annotated[int, typer.Option(help="epochs between two measurements, more if they are too expensive")] = 10,
    features: FeaturesOption = "auto",
    metric: MetricOption = "frechet",
    out: Annotated[Path, typer.Option(help="folder; resumes a study there")] = Path("studies/small-data"),
    seed: Annotated[int, typer.Option(help="seed of the training runs")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train a recipe on few images, with and without augmentation, and track quality and overfitting."""
    from undiffuse.experiments import small_data

    result = small_data.small_data(
        data,
        out,
        recipe=recipe,
        overrides=overrides or [],
        augmentation=augment or [],
        images=images,
        epochs=epochs,
        every=every,
        features=features,
        metric=metric,
        seed=seed,
        device=device,
    )
    terminal.table(*small_data.summary(result))
    terminal.print_line(result["conclusion"])
    terminal.print_line(f"study: {out / 'table.md'}")


def _add_model_study(name: str, summary: str, hidden: bool = False) -> None:
    """Add a command for a row of ``MODEL_STUDIES``; all of them have the same arguments."""

    @checked(f"study {name}")
    def command(
        model: ModelArgument,
        options: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="options of the study, see the guide")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="folder; studies/STUDY-MODEL by default")] = None,
        data: MovedDataOption = None,
        seed: SeedOption = 0,
        weights: WeightsOption = "ema",
        device: DeviceOption = "auto",
    ) -> None:
        from undiffuse.api import studying

        studying.study(name, model, out, options or [], seed=seed, weights=weights, device=device, data=data)

    study_app.command(name, help=f"{summary[:1].upper()}{summary[1:]}.", hidden=hidden)(command)


for _name, _summary in catalogue.model_studies().items():
    _add_model_study(_name, _summary)
for _old, _name in catalogue.renamed_studies().items():
    _add_model_study(_old, catalogue.model_studies()[_name], hidden=True)
