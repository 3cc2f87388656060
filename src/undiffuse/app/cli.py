"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from undiffuse.errors import UndiffuseError, UsageError
from undiffuse.studies import MODEL_STUDIES

app = typer.Typer(
    name="undiffuse",
    help="Train, sample and measure diffusion image generators.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")
study_app = typer.Typer(help="Experiments that show what the theory says.", rich_markup_mode=None)
app.add_typer(study_app, name="study")

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="a run folder, a model folder or a bundled name")]
WeightsOption = Annotated[str, typer.Option(help="ema, the averaged weights, or raw, those that training moved")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
SamplerOption = Annotated[str | None, typer.Option(help="such as heun or ddim:eta=0.5; the model's own by default")]
StepsOption = Annotated[int | None, typer.Option(help="steps of the time grid")]
GridOption = Annotated[str | None, typer.Option(help="time grid: uniform, quadratic, log_snr, karras or karras:rho=5")]
ProcessOption = Annotated[
    str | None,
    typer.Option(help="sample under another process, ve, ve:sigma_max=80, ...; the model's own by default"),
]
SeedOption = Annotated[int, typer.Option(help="seed of the first picture; picture i has seed + i")]


def _version(value: bool) -> None:
    if value:
        import undiffuse

        typer.echo(undiffuse.__version__)
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="show the version")
    ] = False,
) -> None:
    """Train, sample and measure diffusion image generators."""


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    device: DeviceOption = "auto",
) -> None:
    """Train on handwritten digits, sample, measure, and write a report: a few minutes, no download."""
    from undiffuse.app.demo import run_demo

    run_demo(out, device)


@app.command()
def train(
    recipe: Annotated[str | None, typer.Argument(help="see 'undiffuse recipes'")] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as num_images=50000")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="a folder of pictures or MNIST-format files, or a source's name")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/RECIPE-NNN by default")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on from the newest sound checkpoint in --out")] = False,
    stop_after: Annotated[str | None, typer.Option(help="stop with a checkpoint after 90s, 10m, 1.5h")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="show configuration, size and cost; write nothing")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Train a model from a recipe; any key of its configuration can be overridden."""
    from undiffuse.app import training

    if recipe is not None and "=" in recipe:
        overrides, recipe = [recipe, *(overrides or [])], None
    seconds = training.parse_duration(stop_after) if stop_after is not None else None
    config = training.configure(recipe, overrides or [], data, out, resume)
    if dry_run:
        training.dry_run(config, device)
        return
    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to go on with")
    folder = out or training.next_free(Path("runs"), config.recipe)
    if training.train(config, folder, resume=resume, stop_after_seconds=seconds, device=device):
        typer.echo(f"done: {folder}; next: undiffuse sample {folder} -n 64")


@app.command()
def sample(
    model: ModelArgument,
    num: Annotated[int, typer.Option("-n", "--num", help="how many")] = 16,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    grid: GridOption = None,
    process: ProcessOption = None,
    seed: SeedOption = 0,
    batch_size: Annotated[int, typer.Option(help="pictures at a time; changes no bit of any")] = 64,
    class_name: Annotated[
        list[str] | None, typer.Option("--class", help="class to draw; repeat for several in turn")
    ] = None,
    progressive: Annotated[bool, typer.Option("--progressive", help="keep x_0-hat over time")] = False,
    out: Annotated[Path | None, typer.Option(help="folder; samples/MODEL-NNN by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --out")] = False,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Draw samples: numbered PNGs, grid.png, and samples.json with seed, sampler and model hash of each."""
    from undiffuse.app import models, sampling, training

    loaded = models.load(model, device, weights)
    sampling.sample_to_folder(
        loaded,
        out or training.next_free(Path("samples"), loaded.path.resolve().name),
        num=num,
        sampler=sampler,
        steps=steps,
        grid=grid,
        process=process,
        seed=seed,
        batch_size=batch_size,
        class_names=class_name or [],
        progressive=progressive,
        overwrite=overwrite,
    )


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[str | None, typer.Option(help="other held-out pictures than the run's own")] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            help="comma-separated: nll, vlb, vlb_random, continuous_bound, frechet, classes, copying, "
            "sliced_wasserstein"
        ),
    ] = None,
    num: Annotated[int, typer.Option(help="samples to draw")] = 1000,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    grid: GridOption = None,
    process: ProcessOption = None,
    seed: SeedOption = 0,
    features: Annotated[str, typer.Option(help="auto, handwriting, fashion or pixels")] = "auto",
    bound_images: Annotated[int, typer.Option(help="held-out pictures for vlb and continuous_bound")] = 64,
    bound_random_images: Annotated[int, typer.Option(help="held-out pictures for vlb_random")] = 10_000,
    likelihood_images: Annotated[int, typer.Option(help="held-out pictures for nll")] = 64,
    likelihood_probes: Annotated[int, typer.Option(help="random vectors a picture that nll's trace is taken with")] = 1,
    batch_size: Annotated[int, typer.Option(help="pictures at a time; changes no number")] = 256,
    out: Annotated[Path | None, typer.Option(help="JSON file; MODEL/evaluation.json by default")] = None,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Measure a model; every number goes into the JSON file with the protocol that made it."""
    from undiffuse.app import evaluating, models
    from undiffuse.evaluation import Protocol

    loaded = models.load(model, device, weights)
    protocol = Protocol(
        num=num,
        seed=seed,
        sampler=sampler,
        steps=steps,
        grid=grid,
        process=process,
        batch_size=batch_size,
        features=features,
        bound_images=bound_images,
        bound_random_images=bound_random_images,
        likelihood_images=likelihood_images,
        likelihood_probes=likelihood_probes,
    )
    names = [name.strip() for name in (metrics or "").split(",") if name.strip()]
    if metrics is not None and not names:
        raise UsageError(f"--metrics names no metric, got {metrics!r}; leave it out for the default ones")
    evaluating.evaluate_to_file(loaded, protocol, names, data, out or loaded.path / "evaluation.json")


@app.command()
def encode(
    model: ModelArgument,
    source: Annotated[str, typer.Argument(metavar="SRC", help="a source's name, a folder, or an MNIST-format file")],
    out: Annotated[Path, typer.Option(help="folder")],
    num: Annotated[int, typer.Option("-n", "--num", help="how many, evenly spaced over the source")] = 16,
    sampler: Annotated[str, typer.Option(help="solver: rk45, adaptive, or heun with --steps")] = "rk45",
    steps: Annotated[int | None, typer.Option(help="steps of heun, even in the log-SNR; 50 by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --out")] = False,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Turn pictures into their latents by the probability-flow ODE, and back, to see what is lost."""
    from undiffuse.app import encoding, models

    encoding.encode_to_folder(
        models.load(model, device, weights), source, out, num=num, sampler=sampler, steps=steps, overwrite=overwrite
    )


@app.command()
def report(model: ModelArgument, device: DeviceOption = "auto") -> None:
    """Write report.html into a run's folder: curves, samples beside data, filmstrip, metrics, configuration."""
    from undiffuse.app import models, reporting

    typer.echo(f"report: {reporting.report_run(models.load(model, device))}")


@app.command()
def recipes() -> None:
    """List the recipes."""
    from undiffuse.recipes import RECIPES

    _list({name: recipe.summary for name, recipe in RECIPES.items()})


@app.command()
def samplers() -> None:
    """List the samplers and time grids."""
    from undiffuse.samplers import SAMPLERS, make_sampler
    from undiffuse.samplers.grids import GRIDS

    rows = {name: make_sampler(name) for name in SAMPLERS}
    _list(
        {
            name: f"order {row.order}, up to {row.max_nfe_per_step} evaluations a step, "
            f"{'stochastic' if row.stochastic else 'deterministic'}, {row.source}"
            for name, row in rows.items()
        }
    )
    typer.echo(f"time grids: {', '.join(GRIDS)}")


@data_app.command("list")
def data_list() -> None:
    """List the data sources."""
    from undiffuse.data.config import SOURCES

    _list({name: (model.__doc__ or "").strip().splitlines()[0] for name, model in SOURCES.items()})


@data_app.command("info")
def data_info(
    source: Annotated[str, typer.Argument(metavar="SRC", help="a source's name, a folder, or an MNIST-format file")],
    sheet: Annotated[Path | None, typer.Option(help="write a contact sheet of 64 items here (PNG)")] = None,
) -> None:
    """Say what is in a data set: counts, shape, classes, split, fingerprint."""
    from undiffuse.app.looking import show_data

    show_data(source, sheet)


@study_app.callback(invoke_without_command=True)
def study(context: typer.Context) -> None:
    """Experiments that show what the theory says; without a name, lists them."""
    from undiffuse.studies import STUDIES

    if context.invoked_subcommand is None:
        _list(STUDIES)


@study_app.command("theory")
def study_theory(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="a run folder of points, or exact:swissroll, rings, gaussians")
    ],
    out: Annotated[Path | None, typer.Option(help="folder; studies/theory-MODEL by default")] = None,
    process: Annotated[str | None, typer.Option(help="of exact:NAME, such as ve or vp:beta_max=10; vp if none")] = None,
    num: Annotated[int, typer.Option(help="points in the clouds whose distance is taken")] = 1000,
    seed: SeedOption = 0,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Draw score fields, paths of all samplers, filmstrips and likelihood of a model beside the exact truth."""
    from undiffuse.app import studying

    studying.theory(model, out, process=process, num=num, seed=seed, weights=weights, device=device)


@study_app.command("parameterization")
def study_parameterization(
    data: Annotated[str | None, typer.Option(help="a source's name or a folder; digits by default")] = None,
    out: Annotated[Path, typer.Option(help="folder; goes on with a study there")] = Path("studies/parameterization"),
    images: Annotated[int | None, typer.Option(help="seen by each of the nine trainings")] = None,
    num: Annotated[int, typer.Option(help="samples drawn in each cell")] = 500,
    seed: Annotated[int, typer.Option(help="of the trainings")] = 0,
    device: DeviceOption = "auto",
) -> None:
    """Train {posterior mean, x0, eps} x {variational, simple} x {beta, beta-tilde} alike, and compare as a table."""
    from undiffuse.app import parameterizing

    parameterizing.parameterization(data, out, images=images, samples=num, seed=seed, device=device)


def _add_model_study(name: str, summary: str) -> None:
    """A command for a row of ``MODEL_STUDIES``; all of them take the same things."""

    def command(
        model: ModelArgument,
        options: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="options of the study, see the guide")
        ] = None,
        out: Annotated[Path | None, typer.Option(help=f"folder; studies/{name}-MODEL by default")] = None,
        seed: SeedOption = 0,
        weights: WeightsOption = "ema",
        device: DeviceOption = "auto",
    ) -> None:
        from undiffuse.app import studying

        studying.study(name, model, out, options or [], seed=seed, weights=weights, device=device)

    study_app.command(name, help=f"{summary[:1].upper()}{summary[1:]}.")(command)


for _name, _study in MODEL_STUDIES.items():
    _add_model_study(_name, _study.summary)


def _list(rows: dict[str, str]) -> None:
    width = max(map(len, rows))
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: exit code 2 for what the user can mend, 1 for a failure while running."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments  # understood anywhere on the line
    arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        code = app(arguments, standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:  # the parser's word for Ctrl-C
        typer.echo("interrupted", err=True)
        code = 130
    except UndiffuseError as error:
        code = _complain(error, error.exit_code, debug)
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        code = 130
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            code = 2
        elif hasattr(error, "format_message"):
            code = _complain(error, 2, debug, _parser_message(error, arguments))
        elif _out_of_memory(error):
            code = _complain(
                error, 1, debug, "out of memory; lower --batch-size, or batch_images or micro_batch_images"
            )
        else:
            code = _complain(error, 1, debug, f"unexpected {type(error).__name__}: {error} (--debug shows where)")
    sys.exit(code if isinstance(code, int) else 0)


def _parser_message(error: Any, arguments: list[str]) -> str:
    """The parser's own words about the command line, what it was given, and where to read on."""
    context = getattr(error, "ctx", None)
    command = " ".join(["undiffuse", *(context.command_path.split()[1:] if context is not None else [])])
    given = ""
    for option in getattr(getattr(error, "param", None), "opts", []):
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
            if argument == option or argument.startswith(f"{option}="):
                given = f", got {following if argument == option else argument.partition('=')[2]!r}"
    return f"{error.format_message().strip().rstrip('.')}{given}; see '{command} --help'"


def _out_of_memory(error: Exception) -> bool:
    """Python's own error, or torch's for the CPU or the GPU."""
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def _complain(error: BaseException, code: int, debug: bool, text: str | None = None) -> int:
    if debug:
        raise error
    line = " ".join((text if text is not None else str(error)).split())
    typer.echo(f"undiffuse: {line}", err=True)
    return code
