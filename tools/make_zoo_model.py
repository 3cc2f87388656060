"""Add a trained model to the package, so that ``undiffuse sample NAME`` works right after installation.

    python tools/make_zoo_model.py runs/mnist mnist --title "handwritten digits" --set mnist --images 210048
    python tools/make_zoo_model.py src/undiffuse/zoo/flowers flowers --sampling guidance=2 --num 500
    python tools/make_zoo_model.py src/undiffuse/zoo/flowers flowers --int8 --num 500 --metrics kernel,precision_recall
    python tools/make_zoo_model.py --tables

The first form writes src/undiffuse/zoo/NAME: the averaged weights in bfloat16, or large ones in int8, config.json
without local paths and with a card, model_card.md, samples.png. The metrics of the card are measured on the stored
weights, with the data at the path of the run. RUN is the folder of a run, of an exported model, or of a bundled model,
whose card then provides the defaults: so its sampling can be changed (--sampling), and its metrics and samples are
updated. Then, or only with --tables, the tables of LICENSES.md and docs/guides/zoo.md are regenerated from the cards of
all bundled models; a test compares them.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import torch
from torch import Tensor

from undiffuse.api.configuration.overrides import apply_overrides
from undiffuse.api.evaluating import evaluate_to_file
from undiffuse.api.reproducing import reproducing_command
from undiffuse.config import validate
from undiffuse.data.download import SETS, PublicSet
from undiffuse.errors import UsageError
from undiffuse.evaluation import Protocol
from undiffuse.files import replacing, write_text
from undiffuse.images import fill_png, grid_of
from undiffuse.models.files.components import with_sampling
from undiffuse.models.files.int8 import as_int8
from undiffuse.models.files.record import REPLACES, write_record
from undiffuse.models.files.weights import WEIGHTS, save_weights
from undiffuse.models.request import SampleRequest
from undiffuse.models.saved import Model, load
from undiffuse.registry import lookup
from undiffuse.training.config import RunConfig
from undiffuse.training.metrics_log import read_metrics
from undiffuse.version import __version__
from undiffuse.zoo import FOLDER, bundled_models
from undiffuse.zoo.card import ALL_BYTES, MODEL_BYTES, Bundled, Card, Measured, TrainedOn, bundled, card_text

ROOT = Path(__file__).resolve().parents[1]
TERMS = (
    "The file holds numbers and no images. Whoever holds that weights inherit the terms of their data should treat "
    "it as under those"
)
#: Sources whose images are computed, which nobody holds rights to.
COMPUTED = {
    "scenes": TrainedOn(
        name="scenes",
        about="computed scenes of coloured shapes with captions",
        licence="none, the images are computed",
        url="docs/guides/data.md#scenes",
    )
}
#: Rows of the sample grid, and its columns if a model has no classes or many.
ROWS, COLUMNS = 6, 12
#: Markers of the start and end of the tables in the pages.
BEGIN, END = "<!-- made by tools/make_zoo_model.py: {name} -->", "<!-- end: {name} -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, help="a run folder or an exported model")
    parser.add_argument("name", nargs="?", help="name of the model")
    parser.add_argument("--title", help="short description of its samples")
    parser.add_argument(
        "--set", dest="sets", action="append", default=[], help="name of a set of 'undiffuse data get'; repeatable"
    )
    parser.add_argument(
        "--command", help="command that reproduces the training; derived from recipe and overrides if possible"
    )
    parser.add_argument("--sampling", action="append", default=[], help="KEY=VALUE of its default sampling; repeatable")
    parser.add_argument("--prompt", action="append", default=[], help="an example prompt of a text model; repeatable")
    parser.add_argument("--int8", action="store_true", help="store large weights as 8-bit integers; kept for a copy")
    parser.add_argument(
        "--images",
        type=int,
        help="images seen in training; by default from the metrics log, else from the configuration",
    )
    parser.add_argument("--terms", help="note on the data's terms; by default a sentence on inheriting them")
    parser.add_argument("--licence", default="Apache-2.0", help="licence of the weights")
    parser.add_argument("--data-path", help="path of the data in config.json; by default data/ and its last part")
    parser.add_argument("--num", type=int, default=2000, help="number of samples to measure; 0 for none")
    parser.add_argument("--metrics", default="frechet,precision_recall,copying", help="the first one is the headline")
    parser.add_argument("--features", default="auto")
    parser.add_argument("--tables", action="store_true", help="only regenerate the tables of the pages")
    args = parser.parse_args()
    if not args.tables:
        take_from_card(args)
        if args.run is None or not args.name or not args.title or not args.sets:
            parser.error("needs RUN NAME --title TITLE --set SET, or --tables alone")
        print(make(args))
    for page, text in pages().items():
        write_text(page, text)


def make(args: argparse.Namespace) -> Path:
    """Write the bundled folder of a trained model atomically.

    Raises:
        UsageError: if a set is unknown, a local path remains, or the model is too large.
    """
    sets = tuple(trained_on(name) for name in args.sets)
    original = with_examples(sampling_by(load(args.run), args.sampling), args.prompt)
    with tempfile.TemporaryDirectory() as scratch:
        model = as_stored(original, Path(scratch) / args.name, args.int8)
        metrics = measured(model, args.num, args.metrics.split(","), args.features) if args.num else ()
        grid, nfe = sampled_grid(model)
        record = portable_record(original.config, args.data_path)
        card = card_of(args, model, record, sets, metrics, nfe)
        record["card"] = card.model_dump(mode="json")
        if local := absolute_paths(record):
            raise UsageError(f"config.json would contain local paths: {', '.join(local)}; give --data-path, --command")
        folder = FOLDER / args.name
        with replacing(folder) as place:
            place.mkdir()
            shutil.copyfile(model.path / WEIGHTS["ema"], place / WEIGHTS["ema"])
            write_record(place, record)
            (place / "model_card.md").write_text(card_text(args.name, card, record), encoding="utf-8")
            fill_png(place / "samples.png", grid)
            check_sizes(args.name, place)
    return folder


def card_of(
    args: argparse.Namespace,
    model: Model,
    record: Mapping[str, Any],
    sets: tuple[TrainedOn, ...],
    metrics: tuple[Measured, ...],
    nfe: int,
) -> Card:
    """The card of the model, from the arguments and the records of the model and its run."""
    sampling = model.module.sampling_record()
    if "autoguidance" in sampling:
        raise UsageError("a bundled model has no guide (ADR 0034); train it with system.guide_images=null")
    licences = "; ".join(one.licence for one in sets)
    return Card(
        title=args.title,
        sets=sets,
        licence=args.licence,
        terms=f"{TERMS} ({licences})." if args.terms is None else args.terms,
        command=args.command
        or reproducing_command(record)
        or _raise_missing("--command", "no recipe gives this model"),
        images=args.images or images_seen(args.run, record),
        parameters=sum(value.numel() for value in model.module.parameters()),
        sampler=str(sampling["sampler"]),
        steps=sampling["steps"],
        grid=str(sampling["grid"]),
        evaluations=nfe,
        temperature=sampling.get("temperature", 1.0),
        guidance=sampling.get("guidance", 1.0),
        guidance_interval=sampling.get("guidance_interval", ""),
        metrics=metrics,
        stored="int8" if args.int8 else "bfloat16",
        weights_sha256=model.weights_sha256,
        made_with=f"undiffuse {__version__}, torch {torch.__version__}",
    )


def take_from_card(args: argparse.Namespace) -> None:
    """Fill arguments that are not given from the card of a bundled model."""
    path = args.run / "config.json" if args.run is not None else None
    if path is None or not path.is_file():
        return
    card = json.loads(path.read_text(encoding="utf-8")).get("card")
    if card is None:
        return
    args.title = args.title or card["title"]
    args.sets = args.sets or [one["name"] for one in card["sets"]]
    args.images = args.images or card["images"]
    args.terms = card["terms"] if args.terms is None else args.terms
    args.int8 = args.int8 or card.get("stored") == "int8"


def sampling_by(model: Model, options: Sequence[str]) -> Model:
    """The same weights with ``key=value`` of ``system.sampling`` changed permanently."""
    if not options:
        return model
    config = validate(RunConfig, model.config["config"])
    changed = apply_overrides(config, [f"system.sampling.{option}" for option in options])
    sampling = changed.model_dump(mode="json")["system"]["sampling"]
    record = with_sampling({**model.config, "config": changed.model_dump(mode="json")}, sampling)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / model.path.name
        place.mkdir()
        write_record(place, without_card(record))
        save_weights(place / WEIGHTS["ema"], dict(model.module.state_dict()))
        return load(place)


def with_examples(model: Model, texts: Sequence[str]) -> Model:
    """The same model with these prompts as its examples; its own if there are none."""
    if not texts:
        return model
    return replace(model, config={**model.config, "model": {**model.config["model"], "prompts": list(texts)}})


def without_card(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record without a card, since the card contains the hash of the original's weights."""
    return {key: value for key, value in record.items() if key != "card"}


def _raise_missing(option: str, reason: str) -> str:
    raise UsageError(f"{reason}; give {option}")


def trained_on(name: str) -> TrainedOn:
    """Description, licence and URL of a set of ``undiffuse data get``, or of a computed source."""
    if name in COMPUTED:
        return COMPUTED[name]
    public: PublicSet = lookup(SETS, name, "public data set")
    first = public.files[0]
    url = first.urls[0] if first.urls else first.page
    url = url.rsplit("/", 1)[0] + "/" if len(public.files) > 1 else url
    return TrainedOn(name=name, about=public.about, licence=public.licence, url=url)


def as_stored(model: Model, folder: Path, int8: bool) -> Model:
    """A copy of a model with parameters in bfloat16, or large ones in int8; buffers are unchanged."""
    tensors = model.module.state_dict()
    parameters = dict(model.module.named_parameters())
    halves: dict[str, Tensor] = {
        key: value.bfloat16() if key in parameters and value.is_floating_point() else value
        for key, value in tensors.items()
    }
    folder.mkdir()
    write_record(folder, without_card(model.config))
    save_weights(folder / WEIGHTS["ema"], as_int8(model.module, tensors) if int8 else halves)
    return load(folder)


def measured(model: Model, num: int, metrics: Sequence[str], features: str) -> tuple[Measured, ...]:
    """Metrics of the stored weights, against the training images of the run."""
    protocol = Protocol(num=num, features=features)
    result = evaluate_to_file(model, protocol, metrics, None, model.path / "evaluation.json")
    return tuple(
        Measured(
            **{key: row[key] for key in ("metric", "value", "uncertainty", "unit", "better")},
            protocol=protocol_text(row["protocol"]),
        )
        for row in result["results"]
    )


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A short description of a metric's protocol."""
    samples, real = protocol.get("samples"), protocol.get("reference_images", protocol.get("training_images"))
    held_out = protocol.get("held_out_images", protocol.get("tested"))
    parts = [
        samples and f"{samples['num']:,} samples of seeds from {samples['seed']}, classes {samples['classes']}",
        real and f"{real:,} training images",
        held_out and f"{held_out:,} held-out images",
        protocol.get("extractor") and f"{protocol['extractor']} features",
        protocol.get("classifier"),
    ]
    return ", ".join(filter(None, parts)) or "see docs/guides/evaluation.md"


def portable_record(record: Mapping[str, Any], data_path: str | None = None) -> dict[str, Any]:
    """``config.json`` with every local path reduced to a name, and the path of the data to ``data/NAME``."""
    clean: dict[str, Any] = _without_folders(json.loads(json.dumps(dict(record))))
    for key in ("card", REPLACES):
        clean.pop(key, None)
    path = clean["config"]["data"].get("path")
    if isinstance(path, str):
        clean["config"]["data"]["path"] = data_path or f"data/{PurePath(path).name}"
    return clean


def _without_folders(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_folders(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_folders(entry) for entry in value]
    return PurePath(value).name if isinstance(value, str) and _is_local(value) else value


def absolute_paths(value: Any) -> list[str]:
    """Strings in a configuration that contain a local path."""
    if isinstance(value, dict | list):
        entries = value.values() if isinstance(value, dict) else value
        return [path for entry in entries for path in absolute_paths(entry)]
    return [value] if isinstance(value, str) and re.search(r"(?<![\w./:])(~|/\w+)/", value) else []


def _is_local(text: str) -> bool:
    return PurePath(text).is_absolute() or text.startswith("~")


def sampled_grid(model: Model) -> tuple[Any, int]:
    """Samples of consecutive seeds, one column per class, and the NFE."""
    num_classes = len(model.class_names)
    columns = num_classes if 5 <= num_classes <= 16 else COLUMNS
    count = ROWS * columns
    prompts = model.prompts(count) or None
    sampled = model.module.sample(SampleRequest.of(seeds=range(count), prompts=prompts))
    return grid_of(model.finish(sampled.x).numpy(), columns=columns), sampled.nfe


def images_seen(run: Path, record: Mapping[str, Any]) -> int:
    """The last count in the run's metrics log, or the number of images in the configuration."""
    return int(max((row["images"] for row in read_metrics(run)), default=record["config"]["num_images"]))


def check_sizes(name: str, folder: Path) -> None:
    """Check the size of a model and of all bundled models together.

    Raises:
        UsageError: if a limit is exceeded.
    """
    weights = (folder / WEIGHTS["ema"]).stat().st_size
    own = sum(path.stat().st_size for path in folder.iterdir())
    together = own + sum(bundled(other).num_bytes for other in bundled_models() if other != name)
    if weights > MODEL_BYTES or together > ALL_BYTES:
        raise UsageError(
            f"{name} takes {weights:,} bytes of {MODEL_BYTES:,}, all models {together:,} of {ALL_BYTES:,}; give "
            "--int8, use a smaller network, or remove another model"
        )


def pages() -> dict[Path, str]:
    """The pages with tables of bundled models, generated from the current cards."""
    models = [bundled(name) for name in bundled_models()]
    made = {ROOT / "LICENSES.md": ("zoo licences", licence_table(models))}
    made[ROOT / "docs" / "guides" / "zoo.md"] = ("zoo models", model_table(models))
    return {page: _with_table(page.read_text(encoding="utf-8"), name, table) for page, (name, table) in made.items()}


def _with_table(text: str, name: str, table: str) -> str:
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise UsageError(f"a page lacks the lines {begin!r} and {end!r}; insert them at the place of its table")
    return f"{before}{begin}\n\n{table}\n\n{end}{after}"


def licence_table(models: Sequence[Bundled]) -> str:
    """One row per set that a model was trained on."""
    rows = [
        f"| `{one.name}` | {data.about} ({data.url}) | {data.licence} | {one.card.licence} |"
        for one in models
        for data in one.card.sets
    ]
    head = ["| model in `src/undiffuse/zoo/` | trained on | licence of that data | licence of the weights |"]
    return "\n".join([*head, "|---|---|---|---|", *rows])


def model_table(models: Sequence[Bundled]) -> str:
    """One row per model."""
    rows = [
        f"| [`{one.name}`](../../src/undiffuse/zoo/{one.name}/model_card.md) | {one.card.title} "
        f"| {' × '.join(map(str, one.shape))} | {len(one.class_names) or 'none'} | {one.card.parameters / 1e6:.1f} M "
        f"| {one.card.evaluations} | {one.card.headline or 'not measured'} | {one.num_bytes / 1e6:.1f} MB |"
        for one in models
    ]
    head = "| model | makes | shape | classes | parameters | NFE | measured | size |"
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    main()
