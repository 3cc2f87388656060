"""The command line. Heavy imports are inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from undiffuse.api import catalogue
from undiffuse.api.arguments import required_model
from undiffuse.api.configuration.parsing import parse_duration
from undiffuse.cli.checks import completion
from undiffuse.cli.checks.commands import checked
from undiffuse.cli.data import data_app
from undiffuse.cli.distill import distill
from undiffuse.cli.ema import ema
from undiffuse.cli.entry import run_program
from undiffuse.cli.export import export
from undiffuse.cli.lazy_commands import select_command
from undiffuse.cli.measure import compare, doctor, evaluate, report
from undiffuse.cli.options import (
    DataOptions,
    DeviceOption,
    DryRunOption,
    ModelArgument,
    ResumeOption,
    StopAfterOption,
    WeightsOption,
    list_rows,
)
from undiffuse.cli.sampling_flags import sampling_flags
from undiffuse.cli.seal import seal
from undiffuse.cli.study import study_app
from undiffuse.cores import limit_threads
from undiffuse.errors import UsageError
from undiffuse.locking import output_folder

app = typer.Typer(
    name="undiffuse",
    help="Train, sample and measure diffusion image generators.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

if TYPE_CHECKING:
    from undiffuse.models.options import SamplingOptions
app.add_typer(data_app, name="data")
app.add_typer(study_app, name="study")


def _version(value: bool) -> None:
    if value:
        from undiffuse.version import __version__

        typer.echo(__version__)
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
@checked("demo")
def demo(
    out: Annotated[Path, typer.Option(help="folder of the run")] = Path("runs/demo"),
    device: DeviceOption = "auto",
) -> None:
    """Show the bundled models, then train on digits, sample, evaluate and report: a few minutes, no download."""
    from undiffuse.cli.demo import run_demo

    run_demo(out, device)


@app.command()
@checked("train")
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            help="see 'undiffuse recipes'; chosen for the data if only --data is given",
            autocompletion=completion.recipes,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="such as num_images=50000")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="a folder of images or MNIST-format files, or a source's name", autocompletion=completion.data
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--config", help="train with the configuration in a run's config.json, with overrides if any"),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="fine-tune this model on --data: a run folder, a model folder or a bundled name",
            autocompletion=completion.models,
        ),
    ] = None,
    start_weights: Annotated[
        str, typer.Option("--from-weights", help="ema, the averaged weights of --from, or raw, those of its last step")
    ] = "ema",
    out: Annotated[Path | None, typer.Option(help="folder of the run; runs/RECIPE-NNN by default")] = None,
    resume: ResumeOption = False,
    stop_after: StopAfterOption = None,
    dry_run: DryRunOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Train a model on your own images (--data alone chooses a recipe), or from a recipe with overrides."""
    if recipe is not None and "=" in recipe:
        overrides, recipe = [recipe, *(overrides or [])], None
    seconds = parse_duration(stop_after) if stop_after is not None else None
    from undiffuse.api import extension
    from undiffuse.api.configuration.runs import configure
    from undiffuse.api.training import train as train_model
    from undiffuse.cli.training_summary import print_summary

    config = configure(recipe, overrides or [], data, out, resume, device, file, start, start_weights)
    if dry_run:
        from undiffuse.cli.tables import show_plan

        show_plan(config, device)
        return
    if resume and out is None:
        raise UsageError("--resume needs --out DIR, the folder of the run to resume")
    was_finished = resume and out is not None and extension.is_finished(out, config)
    run = train_model(config, out=out, resume=resume, stop_after_seconds=seconds, device=device)
    print_summary(run)
    if was_finished:
        typer.echo(extension.extension_advice(run.folder, config))


app.command()(distill)
app.command()(export)
app.command()(ema)
app.command()(seal)


@app.command()
@checked("sample")
@sampling_flags
def sample(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            help="a run folder, a model folder or a bundled name; with --from the recorded one by default",
            autocompletion=completion.models,
        ),
    ] = None,
    num: Annotated[
        int | None,
        typer.Option("-n", "--num", help="number of samples; 16, of several prompts one each, with --from 1"),
    ] = None,
    *,
    options: SamplingOptions,
    seed: Annotated[
        int | None,
        typer.Option(help="seed of the first image; image i has seed + i; 0, with --from the recorded seed"),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="images per batch; does not change the samples")] = 64,
    class_name: Annotated[
        list[str] | None,
        typer.Option(
            "--class", help="class to sample; repeat to alternate between classes", autocompletion=completion.classes
        ),
    ] = None,
    no_class: Annotated[
        bool, typer.Option("--no-class", help="sample without a class; with --class, alternate with it")
    ] = False,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt",
            help="text to sample for, such as 'a (red:1.3) {circle|ring}'; repeat to alternate",
        ),
    ] = None,
    negative: Annotated[
        list[str] | None, typer.Option("--negative", help="text that guidance leads away from; repeat to alternate")
    ] = None,
    prompt_file: Annotated[
        Path | None,
        typer.Option("--prompt-file", help="file of prompts: one per line, or JSON lines with prompt and negative"),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option(
            help="initial image, or a folder or other data to cycle through; needs --strength",
            autocompletion=completion.data,
        ),
    ] = None,
    from_image: Annotated[
        Path | None,
        typer.Option("--from", metavar="IMAGE", help="repeat this image from its record; other options vary it"),
    ] = None,
    allow_other_model: Annotated[
        bool, typer.Option("--allow-other-model", help="repeat --from with other weights than recorded")
    ] = False,
    progressive: Annotated[bool, typer.Option("--progressive", help="save x_0-hat over time")] = False,
    shown: Annotated[int, typer.Option("--shown", help="number of images in grid.png")] = 256,
    out: Annotated[Path | None, typer.Option(help="folder; samples/MODEL-NNN by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --out")] = False,
    no_record: Annotated[
        bool, typer.Option("--no-record", help="write images without their record; samples.json still has all")
    ] = False,
    weights: Annotated[
        str | None,
        typer.Option(
            help="ema: the averaged weights, the default without --from; raw: the weights of the last step",
            autocompletion=completion.weights,
        ),
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Generate samples: numbered PNGs, grid.png, and samples.json with seed, sampler and model hash of each."""
    from undiffuse.api import loading, sampling
    from undiffuse.api.prompt_file import requested_prompts, requested_texts
    from undiffuse.api.repeating.request import repeated

    classes = [*(class_name or []), *([None] if no_class else [])] or None
    texts, negatives = requested_prompts(prompt, negative, prompt_file)
    repetition = None
    if from_image is None:
        loaded = loading.load(required_model(model), device, weights or "ema")
    else:
        loaded, repetition = repeated(
            *(from_image, model, options, num, seed, classes),
            prompt=texts,
            negative=negatives,
            image=image,
            weights=weights,
            device=device,
            allow_other_model=allow_other_model,
        )
        options, classes, num, seed = repetition.options, repetition.class_name, repetition.num, repetition.seed
        texts, negatives = repetition.prompt, repetition.negative
    with output_folder(out, Path("samples"), loaded.path.resolve().name) as folder:
        written = sampling.sample_to_folder(
            loaded,
            folder,
            num=num,
            options=options,
            seed=seed or 0,
            batch_size=batch_size,
            class_name=classes,
            texts=requested_texts(texts),
            negatives=requested_texts(negatives, "negative"),
            progressive=progressive,
            image=image,
            shown=shown,
            overwrite=overwrite,
            record=not no_record,
        )
    if repetition is not None:
        repetition.compare(written.first(), written.shared)


app.command()(evaluate)
app.command()(compare)


@app.command()
@checked("invert")
def invert(
    model: ModelArgument,
    source: Annotated[
        str,
        typer.Argument(
            metavar="SRC", help="a source's name, a folder, or an MNIST-format file", autocompletion=completion.data
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder")],
    options: DataOptions = None,
    num: Annotated[int, typer.Option("-n", "--num", help="number of images, evenly spaced over the source")] = 16,
    sampler: Annotated[str, typer.Option(help="solver: rk45, adaptive, or heun with --steps")] = "rk45",
    steps: Annotated[int | None, typer.Option(help="steps of heun, uniform in the log-SNR; 50 by default")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace what is in --out")] = False,
    weights: WeightsOption = "ema",
    device: DeviceOption = "auto",
) -> None:
    """Encode images to latents by the probability-flow ODE, and decode them to measure the error."""
    from undiffuse.api import inverting

    inverting.invert(
        model,
        source,
        out,
        num=num,
        sampler=sampler,
        steps=steps,
        overwrite=overwrite,
        options=options or [],
        weights=weights,
        device=device,
    )


app.command()(report)
app.command()(doctor)


@app.command()
@checked("models")
def models(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="show the card of this model", autocompletion=completion.models)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """List the bundled models, or show the card of one."""
    from undiffuse.cli.bundled import list_models

    list_models(name, json)


@app.command()
def recipes() -> None:
    """List the recipes."""
    list_rows(catalogue.recipes())


@app.command()
def samplers() -> None:
    """List the samplers and time grids."""
    list_rows(catalogue.samplers())
    typer.echo(f"time grids: {', '.join(catalogue.time_grids())}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line with the parser imported; the console script in ``undiffuse.__main__`` imports it lazily."""
    run_program(run, arguments)


def run(arguments: list[str]) -> int:
    """Parse and execute a command line; the exit code.

    Raises:
        UsageError: the parser rejects it.
        KeyboardInterrupt: Ctrl-C.
    """
    limit_threads()
    try:
        code = select_command(app, arguments)(arguments, prog_name="undiffuse", standalone_mode=False)
    except typer.Exit as stop:
        code = stop.exit_code
    except typer.Abort:  # the parser's exception for Ctrl-C
        raise KeyboardInterrupt from None
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(str(error))
            return 2
        if not hasattr(error, "format_message"):
            raise
        raise UsageError(_parser_message(error, arguments)) from error
    return code if isinstance(code, int) else 0


def _parser_message(error: Any, arguments: list[str]) -> str:
    """The parser's message, with the received value and a pointer to the help."""
    context = getattr(error, "ctx", None)
    command = " ".join(["undiffuse", *(context.command_path.split()[1:] if context is not None else [])])
    given = ""
    for option in getattr(getattr(error, "param", None), "opts", []):
        for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
            if argument == option or argument.startswith(f"{option}="):
                given = f", got {following if argument == option else argument.partition('=')[2]!r}"
    return f"{error.format_message().strip().rstrip('.')}{given}; see '{command} --help'"
