"""Saved models: a folder with ``config.json``, ``model.safetensors`` (EMA weights) and ``model_card.md``.

A run's own folder is one, which has ``raw.safetensors``, the weights without averaging, as well. Loading needs nothing
else, builds no code from data and unpickles nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.compute.memory import keep_freed_memory
from undiffuse.conditioning.prompt import Prompt
from undiffuse.config import Component
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.models import MODEL_CONFIGS
from undiffuse.models.base import DenoisingModel, GenerativeModel, to_uint8
from undiffuse.models.classes import Classes, requested_classes
from undiffuse.models.config import ModelConfig
from undiffuse.models.files import record as records
from undiffuse.models.files.components import MAIN, ComponentEntry, components_of, weights_of_format_1
from undiffuse.models.files.parts import load_parts, shapes_of_parts
from undiffuse.models.files.size_limit import limited_to
from undiffuse.models.files.weights import WEIGHTS, Header, read_header, read_weights
from undiffuse.models.files.wrapped import rebuilt, write_folder
from undiffuse.models.initial_images import initial_images
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.parts import load_own, own_state
from undiffuse.models.request import SampleRequest
from undiffuse.models.sample_sets.record import shared_record
from undiffuse.models.samples import Samples
from undiffuse.models.seeds import check_seeds as check_seeds
from undiffuse.models.wrapped import WrappedModel
from undiffuse.observer import note
from undiffuse.progress import ProgressLine
from undiffuse.registry import known_keywords, lookup
from undiffuse.samplers.base import Progress
from undiffuse.sealed import is_changed, read_sealed
from undiffuse.wording import command, counted

_LONGEST_LINE = 400


@dataclass(frozen=True, repr=False)
class Model:
    """A model and what is known of it.

    Attributes:
        module: the networks, with the weights wanted, on its device, in evaluation mode.
        config: the whole of ``config.json``.
        path: the folder it came from.
        weights: ``ema`` or ``raw``.
        weights_sha256: of the file with the weights, ``model.safetensors`` for the averaged ones.
    """

    module: GenerativeModel
    config: Mapping[str, Any]
    path: Path
    weights_sha256: str
    weights: str = "ema"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that samples can be drawn of; empty for none."""
        return self.module.class_names

    @property
    def origin(self) -> str:
        """What its ``config.json`` says of the data that it learned from, which need not be there any more."""
        return origin_of(self.config["config"]["data"], self.config["model"]["class_names"])

    def __repr__(self) -> str:
        size = "×".join(map(str, self.module.shape))
        parameters = sum(value.numel() for value in self.module.parameters())
        classes = counted(len(self.class_names), "class") if self.class_names else "no classes"
        recipe = self.config["config"].get("recipe", "no recipe")
        return (
            f"<Model {self.path.resolve().name} ({recipe}): {size}, {classes}, "
            f"{parameters:,} parameters, {self.weights} weights on {self.module.device}>"
        )

    @known_keywords
    @takes_options
    def sample(
        self,
        num: int = 16,
        *,
        options: SamplingOptions,
        seed: int = 0,
        class_name: Classes = None,
        image: Any = None,
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> Samples:
        """``num`` samples with seeds ``seed``, ``seed + 1``, ...

        Args:
            num: at least 1.
            options: each a keyword of its own, see ``models.options``.
            seed: of the first sample, from 0 on; sample i depends on ``seed + i`` alone.
            class_name: one for all, such as ``3`` or ``"cat"``, or several in turn; ``[None]`` for no class in
                particular. All classes in turn by default.
            image: to begin from with a ``strength`` below 1, of the model's own size: a uint8 tensor or array (C, H,
                W), a Pillow image, or several, in turn.
            batch_size: samples in memory at a time; changes no bit of any of them.
            progress: show how far it has come, on standard error, where it takes more than two seconds; by default
                unless ``UNDIFFUSE_PROGRESS=off``.
        Returns:
            uint8 (num, C, H, W) for images, float32 (num, D) for points, on the CPU: a tensor with ``.images``,
            ``.save(folder)``, ``.seeds``, ``.classes`` and ``.record``, which a notebook shows as a grid.
        Raises:
            UsageError: an unknown sampler, grid or class, or a number that makes no sense.
        """
        seeds, names = check_seeds(seed, num), self.classes_of(class_name, num)

        def report(first: int, step: Progress) -> None:
            counter.progress(first * step.count + len(step.x) * (step.index + 1), num * step.count)

        images = initial_images(image, self.module.space, num)
        request = SampleRequest(seeds, options, None, batch_size, report, images=images, prompts=self.prompts(names))
        with ProgressLine("sampling", progress) as counter:
            sampled = self.module.sample(request)
        if sampled.note:
            note(sampled.note)
        costs = {"nfe": sampled.nfe, "partial_nfe": sampled.partial_nfe}
        about = {} if images is None else {"image": {"sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest()}}
        return Samples.of(self.finish(sampled.x), {**shared_record(self, request), **about, **costs}, seeds, names)

    def finish(self, x: Tensor) -> Tensor:
        """Samples as they are given out: uint8 images or float32 points, on the CPU.

        Args:
            x: (N, *shape), images in [-1, 1].
        """
        return (to_uint8(x) if self.module.space.is_image else x.float()).cpu()

    def classes_of(self, requested: Classes, num: int) -> list[str | None]:
        """The class of each of ``num`` samples; an empty list for a model without classes.

        Args:
            requested: one name for all, or several, taken in turn; ``None`` for all classes in turn. Among several,
                ``None`` stands for a sample of no class in particular.
            num: of the samples.
        Returns:
            Names of classes, and ``None`` for those of no class.
        Raises:
            UsageError: an unknown class, or any class of a model without.
        """
        names = requested_classes(requested, self.class_names)
        denoises = isinstance(self.module, DenoisingModel)  # others refuse what they were not trained for
        if None in names and denoises and not getattr(getattr(self.module, "config", None), "label_dropout", 0):
            note("this model was never trained without a class: samples of none come by chance")
        return [names[index % len(names)] for index in range(num)] if self.class_names else []

    def prompts(self, names: Sequence[str | None]) -> list[Prompt] | None:
        """The prompts of samples of these classes, ``None`` for no class; nothing for an empty list."""
        return [Prompt(name) for name in names] or None

    def condition(self, names: Sequence[str | None]) -> Condition | None:
        """Labels of samples of these classes, ``None`` for no class; nothing for an empty list."""
        if not names:
            return None
        labels = [-1 if name is None else self.class_names.index(name) for name in names]
        return Condition(label=torch.tensor(labels)).to(self.module.device)


def origin_of(data: Mapping[str, Any], class_names: Iterable[str]) -> str:
    """What is recorded of data in one text: all that its configuration holds, such as name and path, and its classes.

    Args:
        data: the part ``config.data`` of a record.
        class_names: of the data.
    """
    return " ".join([*map(str, data.values()), *class_names])


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run or model folder.

    Raises:
        UsageError: not there, not readable, changed since it was written, or written by a newer version.
    """
    try:
        record = records.read_record(folder)
    except records.NewerFormatError:
        raise
    except UsageError as error:
        if not (folder / "config.json").is_file() or not kept_configs(folder):
            raise
        raise UsageError(f"{error}; put it back with: {command('seal', '--restore', folder)}") from None
    if is_changed(record):
        raise records.changed(folder, record, next(iter(kept_configs(folder)), None), "it was written")
    return record


def kept_configs(folder: Path) -> list[dict[str, Any]]:
    """The copies of ``config.json`` in a folder's weights and checkpoints, as far as these are sound, newest first."""
    kept = []
    for name in WEIGHTS.values():
        with contextlib.suppress(UsageError):
            kept += [read_header(folder / name).config] if (folder / name).is_file() else []
    for path in sorted(folder.glob("checkpoints/images_*/state.json"), reverse=True):
        with contextlib.suppress(UsageError):
            kept.append(read_sealed(path, "").get("config"))
    return [record for record in kept if isinstance(record, dict)]


def config_of(component: ComponentEntry) -> ModelConfig:
    """The configuration of a component that is a model.

    Raises:
        UsageError: an unknown row or options that it does not have.
    """
    config = Component(MODEL_CONFIGS, "model").pick(component.config)
    assert isinstance(config, ModelConfig)
    return config


def build_fresh(record: Mapping[str, Any]) -> GenerativeModel:
    """A model with fresh weights from a read ``config.json``.

    Raises:
        UsageError: no model can be built of it.
    """
    try:
        config = config_of(components_of(record)[MAIN])
        shape, class_names = tuple(record["model"]["shape"]), tuple(record["model"]["class_names"])
        num_augment_labels = len(record["model"].get("augment_labels", ()))
    except (KeyError, TypeError) as error:
        raise UsageError(f"config.json lacks {error}; it is damaged or not from undiffuse") from None
    return config.build(shape, class_names, num_augment_labels)


def build_for_weights(
    record: Mapping[str, Any], header: Header, file: Path, denoiser: Denoiser | None = None
) -> GenerativeModel:
    """The model of a read ``config.json``, which is never larger than the file that holds its weights.

    Args:
        record: a read ``config.json``.
        header: of the weights file.
        file: that file, next to ``config.json``.
        denoiser: of a model that was saved around one from elsewhere.
    Raises:
        UsageError: the two do not match each other, or no model can be built.
    """
    config, what = file.with_name("config.json"), f"{file} is damaged or does not fit its config.json"
    try:
        with limited_to([*header.shapes.values(), *shapes_of_parts(record, file.parent)]):
            model: GenerativeModel = build_fresh(record) if denoiser is None else rebuilt(record, denoiser)
    except UsageError as error:
        raise UsageError(f"{config}: {_shortened(str(error))}") from None
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{config}: no network can be built as it says ({_shortened(first)})") from None
    for name, value in own_state(model).items():
        stored = header.shapes.get(name)
        if stored != tuple(value.shape):
            found = "lacks it" if stored is None else f"has {stored}"
            raise UsageError(f"{what} ({name} should be {tuple(value.shape)}, the file {found})")
    return model


def _shortened(text: str) -> str:
    """A line about values from a file, which may be of any length."""
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    weights: str = "ema",
    denoiser: Denoiser | None = None,
) -> Model:
    """Load a model from a run folder or a model folder.

    A file may hold its weights in another precision, such as bfloat16; the parameters are float32 all the same.

    Args:
        path: the folder.
        device: where to put it.
        weights: the averaged ones, ``ema``, or those that training moved, ``raw``.
        denoiser: of a model that was saved around one from elsewhere (``save_wrapped``), freshly made; its weights are
            read into it.
    Raises:
        UsageError: nothing there, damaged, from a newer version, or weights that do not fit the configuration.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UsageError(f"no model at {folder}; give the folder of a run or of an exported model")
    record = read_config(folder)
    file = folder / lookup(WEIGHTS, weights, "kind of weights")
    if not file.is_file():
        raise UsageError(f"{folder} has no {file.name}{_where_from(folder)}")
    header = read_header(file)
    records.check_belongs(folder, record, header.config, file.name)
    module = build_for_weights(record, header, file, denoiser)
    tensors, sha256 = read_weights(file), sha256_of(file)
    _check_card(record, sha256, file)
    try:
        load_own(module, weights_of_format_1(tensors) if record["format_version"] == 1 else tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None
    load_parts(module, record, folder)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return Model(module.to(device).eval().requires_grad_(False), record, folder, sha256, weights)


def save_wrapped(model: WrappedModel, out: str | Path, about: str = "a denoiser from elsewhere") -> Path:
    """Write the folder of a model around a denoiser from elsewhere; ``load(out, denoiser=...)`` opens it again.

    Args:
        model: around the denoiser.
        out: the folder.
        about: what it is, in a few words.
    """
    folder = Path(out).expanduser()
    write_folder(model, folder, about)
    return folder


def _check_card(record: Mapping[str, Any], sha256: str, file: Path) -> None:
    """A bundled model's card names its weights."""
    card = record.get("card")
    stated = card.get("weights_sha256") if isinstance(card, Mapping) else None
    if stated is not None and stated != sha256:
        raise UsageError(
            f"{file} has SHA-256 {sha256[:12]}..., its config.json names {str(stated)[:12]}...; reinstall undiffuse, "
            "or put a sound copy back"
        )


def _where_from(folder: Path) -> str:
    """What to do about weights that are not there: a run will have them, an exported model has the averaged ones."""
    if (folder / "model_card.md").is_file() and (folder / WEIGHTS["ema"]).is_file():
        return "; this model has the averaged weights alone, --weights ema"
    on = command("train", "--resume", "--out", folder)
    return f" yet; train on until a checkpoint is written: {on}"
