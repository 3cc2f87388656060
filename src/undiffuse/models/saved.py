"""Saved models: a folder with ``config.json``, ``model.safetensors`` (EMA weights) and ``model_card.md``.

The folder of a run is a model folder too; it also has ``raw.safetensors``, the weights without averaging. Loading needs
no other files, does not execute code from files and unpickles nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undiffuse.checksums import is_modified, read_checked
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
from undiffuse.models.classifier import ClassifierModel
from undiffuse.models.classifier_requests import guided_text
from undiffuse.models.config import ModelConfig
from undiffuse.models.files import record as records
from undiffuse.models.files.components import MAIN, ComponentEntry, components_of, weights_of_format_1
from undiffuse.models.files.parts import load_parts, shapes_of_parts
from undiffuse.models.files.size_limit import limited_to
from undiffuse.models.files.weights import WEIGHTS, Header, read_header, read_weights
from undiffuse.models.files.wrapped import rebuilt, write_folder
from undiffuse.models.guides.contrastive import ContrastiveModel
from undiffuse.models.initial_images import initial_images
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.parts import load_model_state, model_state
from undiffuse.models.prompts import TextRequest, check_prompts, number_of_samples, prompts_of, requested_texts
from undiffuse.models.request import SampleRequest
from undiffuse.models.rules import check_classifier_options, check_noise_aware, check_same_classes
from undiffuse.models.sample_sets.record import shared_record
from undiffuse.models.samples import Samples
from undiffuse.models.seeds import check_seeds as check_seeds
from undiffuse.models.wrapped import WrappedModel
from undiffuse.observer import note
from undiffuse.progress import ProgressLine
from undiffuse.registry import known_keywords, lookup
from undiffuse.samplers.base import Progress
from undiffuse.wording import command, count_noun

_LONGEST_LINE = 400


@dataclass(frozen=True, repr=False)
class Model:
    """A loaded model with its metadata.

    Attributes:
        module: the networks with the requested weights, on their device, in evaluation mode.
        config: the content of ``config.json``.
        path: the folder it was loaded from.
        weights: ``ema`` or ``raw``.
        weights_sha256: SHA-256 of the weights file, ``model.safetensors`` for the averaged weights.
        find: folder of another model that an option names.
        classifier: the classifier that guides it, see ``guided``; None for none.
    """

    module: GenerativeModel
    config: Mapping[str, Any]
    path: Path
    weights_sha256: str
    weights: str = "ema"
    find: Callable[[str], Path] = Path
    classifier: Model | None = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes that the model is conditioned on, or else those of its classifier; empty for none."""
        own = self.module.class_names
        return own if own or self.classifier is None else self.classifier.class_names

    @property
    def noisy_classifier(self) -> ClassifierModel | ContrastiveModel | None:
        """The module of ``classifier``, for a ``SampleRequest``."""
        module = None if self.classifier is None else self.classifier.module
        return module if isinstance(module, ClassifierModel | ContrastiveModel) else None

    def guided(self, options: SamplingOptions) -> Model:
        """This model with the classifier that the options name, loaded; the model itself if they name none.

        Args:
            options: sampling options.
        Raises:
            UsageError: if there is no such classifier, or options of a classifier are given without one.
        """
        check_classifier_options(options.classifier, options.given(), options.cache_interval)
        if options.classifier is None:
            return self
        classifier = replace(load(self.find(options.classifier), self.module.device), find=self.find)
        if isinstance(classifier.module, ContrastiveModel):
            check_noise_aware(classifier.module.noise_aware, options.classifier_through)
        elif not isinstance(classifier.module, ClassifierModel):
            raise UsageError(
                f"{options.classifier} is a {type(classifier.module).__name__} and not a classifier; train one with: "
                f"{command('train', 'classifier-mnist')}"
            )
        else:
            check_same_classes(classifier.class_names, self.module.class_names)
        return replace(self, classifier=classifier)

    @property
    def origin(self) -> str:
        """Description of the training data according to ``config.json``; the data itself may no longer exist."""
        return origin_of(self.config["config"]["data"], self.config["model"]["class_names"])

    def __repr__(self) -> str:
        size = "×".join(map(str, self.module.shape))
        parameters = sum(value.numel() for value in self.module.parameters())
        classes = count_noun(len(self.class_names), "class") if self.class_names else "no classes"
        recipe = self.config["config"].get("recipe", "no recipe")
        return (
            f"<Model {self.path.resolve().name} ({recipe}): {size}, {classes}, "
            f"{parameters:,} parameters, {self.weights} weights on {self.module.device}>"
        )

    @known_keywords
    @takes_options
    def sample(
        self,
        num: int | None = None,
        *,
        options: SamplingOptions,
        seed: int = 0,
        class_name: Classes = None,
        prompt: TextRequest = None,
        negative: TextRequest = None,
        image: Any = None,
        batch_size: int = 64,
        progress: bool | None = None,
    ) -> Samples:
        """``num`` samples with seeds ``seed``, ``seed + 1``, ...

        Args:
            num: number of samples, at least 1; by default one for each of several prompts, otherwise 16.
            options: one keyword per option, see ``models.options``.
            seed: seed of the first sample, at least 0; sample i depends only on ``seed + i``.
            class_name: one class for all samples, such as ``3`` or ``"cat"``, or several classes, used cyclically;
                ``[None]`` for unconditional samples. All classes cyclically by default.
            prompt: one text for all samples, or several, used cyclically; ``""`` for unconditional samples. Examples of
                the model's data cyclically by default. ``(red:1.3)`` weights a part, ``AND`` composes texts,
                ``{red|blue}`` stands for several prompts.
            negative: one negative prompt for guidance, or several, used cyclically.
            image: initial image, with a ``strength`` below 1, of the model's image size: a uint8 tensor or array (C, H,
                W), a Pillow image, or several, used cyclically.
            batch_size: samples in memory at a time; does not affect the result.
            progress: show progress on standard error if sampling takes more than two seconds; by default unless
                ``UNDIFFUSE_PROGRESS=off``.
        Returns:
            uint8 (num, C, H, W) for images, float32 (num, D) for points, on the CPU: a tensor with ``.images``,
            ``.save(folder)``, ``.seeds``, ``.prompts``, ``.classes`` and ``.record``, which a notebook shows as a grid.
        Raises:
            UsageError: if a sampler, grid or class is unknown, a number is out of range, or a prompt is given to a
                model without text.
        """
        model = self.guided(options)
        texts, negatives = requested_texts(prompt), requested_texts(negative, "negative")
        num = number_of_samples(num, texts)
        seeds = check_seeds(seed, num)
        prompts = model.prompts(num, class_name, texts, negatives)

        def report(first: int, step: Progress) -> None:
            counter.progress(first * step.count + len(step.x) * (step.index + 1), num * step.count)

        images = initial_images(image, self.module.space, num)
        request = SampleRequest(
            seeds,
            options,
            None,
            batch_size,
            report,
            images=images,
            prompts=prompts or None,
            classifier=model.noisy_classifier,
        )
        with ProgressLine("sampling", progress) as counter:
            sampled = self.module.sample(request)
        if sampled.note:
            note(sampled.note)
        costs = {"nfe": sampled.nfe, "partial_nfe": sampled.partial_nfe}
        image_hash = (
            {} if images is None else {"image": {"sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest()}}
        )
        shared = {**shared_record(model, request), **image_hash, **costs}
        return Samples.of(self.finish(sampled.x), shared, seeds, prompts)

    def finish(self, x: Tensor) -> Tensor:
        """Convert samples to their output format: uint8 images or float32 points, on the CPU.

        Args:
            x: (N, *shape), images in [-1, 1].
        """
        return (to_uint8(x) if self.module.space.is_image else x.float()).cpu()

    def classes_of(self, requested: Classes, num: int) -> list[str | None]:
        """The class of each of ``num`` samples; an empty list for a model without classes.

        Args:
            requested: one name for all, or several, used cyclically; ``None`` for all classes cyclically. In a list,
                ``None`` requests an unconditional sample.
            num: number of samples.
        Returns:
            Class names, and ``None`` for unconditional samples.
        Raises:
            UsageError: if a class is unknown, or the model has no classes.
        """
        names = requested_classes(requested, self.class_names)
        denoises = isinstance(self.module, DenoisingModel)  # other models raise an error when sampling
        if (
            None in names
            and self.module.class_names
            and denoises
            and not getattr(getattr(self.module, "config", None), "label_dropout", 0)
        ):
            note("this model was trained without label dropout: its unconditional samples are unreliable")
        return [names[index % len(names)] for index in range(num)] if self.class_names else []

    @property
    def has_text(self) -> bool:
        """Whether the model is conditioned on texts."""
        return self.module.conditioner.spec.text is not None

    @property
    def example_prompts(self) -> tuple[str, ...]:
        """Captions of the model's data, evenly spaced; empty for a model without text."""
        return tuple(map(str, self.config["model"].get("prompts", ()))) if self.has_text else ()

    def prompts(
        self, num: int, class_name: Classes = None, texts: Sequence[str] = (), negatives: Sequence[str] = ()
    ) -> list[Prompt]:
        """The prompt of each of ``num`` samples; an empty list for a model with neither classes nor text.

        Without a text a model with text cycles through its ``example_prompts``.

        Args:
            num: number of samples.
            class_name: see ``sample``.
            texts, negatives: prompts and negative prompts, used cyclically, see ``requested_texts``.
        Raises:
            UsageError: if a class is unknown, a text cannot be parsed, or the model has no classes or no text.
        """
        names, texts = self.classes_of(class_name, num), texts or self.example_prompts
        guide = self.noisy_classifier if isinstance(self.noisy_classifier, ContrastiveModel) else None
        check_prompts(texts, self.has_text or guide is not None, self.class_names)
        check_prompts(negatives, self.has_text, self.class_names)
        prompts = prompts_of(names, texts, negatives, num)
        messages = self.module.conditioner.check_prompts(self._known_parts(prompts))
        if guide is not None:
            guided = dict.fromkeys(filter(None, map(guided_text, prompts)))
            messages += guide.conditioner.check_prompts([Prompt(text=text) for text in guided])
        for message in dict.fromkeys(messages):
            note(message)
        return prompts

    def default_condition(self, num: int, class_name: Classes = None) -> Condition | None:
        """The condition of ``num`` samples by default, cycling through classes and example prompts; None for none.

        Args:
            num: number of samples.
            class_name: see ``sample``.
        """
        prompts = self.prompts(num, class_name)
        return self.module.conditioner.encode_prompts(prompts).to(self.module.device).condition if prompts else None

    def _known_parts(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The distinct prompts, without classes and texts if only the guide of the model knows them."""
        unknown = {} if self.module.class_names else {"class_name": None}
        unknown |= {} if self.has_text else {"text": None}
        return list(dict.fromkeys(replace(prompt, **unknown) for prompt in prompts))

    def condition(self, names: Sequence[str | None]) -> Condition | None:
        """Labels of these classes, ``None`` for no class; returns None for an empty list."""
        if not names:
            return None
        labels = [-1 if name is None else self.class_names.index(name) for name in names]
        return Condition(label=torch.tensor(labels)).to(self.module.device)


def origin_of(data: Mapping[str, Any], class_names: Iterable[str]) -> str:
    """Description of data as one text: all values of its configuration, such as name and path, and its classes.

    Args:
        data: the section ``config.data`` of a record.
        class_names: class names of the data.
    """
    return " ".join([*map(str, data.values()), *class_names])


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a run or model folder.

    Raises:
        UsageError: if it is missing, invalid, modified since it was written, or written by a newer version.
    """
    try:
        record = records.read_record(folder)
    except records.NewerFormatError:
        raise
    except UsageError as error:
        if not (folder / "config.json").is_file() or not saved_configs(folder):
            raise
        raise UsageError(f"{error}; restore it with: {command('seal', '--restore', folder)}") from None
    if is_modified(record):
        raise records.changed_config_error(folder, record, next(iter(saved_configs(folder)), None), "it was written")
    return record


def saved_configs(folder: Path) -> list[dict[str, Any]]:
    """The copies of ``config.json`` in a folder's intact weights and checkpoints, newest first."""
    copies = []
    for name in WEIGHTS.values():
        with contextlib.suppress(UsageError):
            copies += [read_header(folder / name).config] if (folder / name).is_file() else []
    for path in sorted(folder.glob("checkpoints/images_*/state.json"), reverse=True):
        with contextlib.suppress(UsageError):
            copies.append(read_checked(path, "").get("config"))
    return [record for record in copies if isinstance(record, dict)]


def config_of(component: ComponentEntry) -> ModelConfig:
    """Configuration of a component that is a model.

    Raises:
        UsageError: if the kind of model or an option is unknown.
    """
    config = Component(MODEL_CONFIGS, "model").pick(component.config)
    assert isinstance(config, ModelConfig)
    return config


def build_untrained(record: Mapping[str, Any]) -> GenerativeModel:
    """Build a model with newly initialized weights from the content of ``config.json``.

    Raises:
        UsageError: if the configuration is invalid.
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
    """Build a model from the content of ``config.json``, and check that its size matches the weights file.

    Args:
        record: content of ``config.json``.
        header: header of the weights file.
        file: the weights file, next to ``config.json``.
        denoiser: the external denoiser of a model that was saved with ``save_wrapped``.
    Raises:
        UsageError: if the files do not match, or no model can be built.
    """
    config, what = file.with_name("config.json"), f"{file} is damaged or does not fit its config.json"
    try:
        with limited_to([*header.shapes.values(), *shapes_of_parts(record, file.parent)]):
            model: GenerativeModel = build_untrained(record) if denoiser is None else rebuilt(record, denoiser)
    except UsageError as error:
        raise UsageError(f"{config}: {_truncated(str(error))}") from None
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{config}: its network cannot be built ({_truncated(first)})") from None
    for name, value in model_state(model).items():
        stored = header.shapes.get(name)
        if stored != tuple(value.shape):
            actual = "lacks it" if stored is None else f"has {stored}"
            raise UsageError(f"{what} ({name} should be {tuple(value.shape)}, the file {actual})")
    return model


def _truncated(text: str) -> str:
    """Truncate a message that contains values from a file, which may be long."""
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 3]}..."


def load(
    path: str | Path,
    device: str | torch.device = "cpu",
    weights: str = "ema",
    denoiser: Denoiser | None = None,
) -> Model:
    """Load a model from a run folder or a model folder.

    The weights file may have another precision, such as bfloat16; the parameters are always float32.

    Args:
        path: folder of the run or model.
        device: device to load the model on.
        weights: ``ema`` for the averaged weights, ``raw`` for the weights without averaging.
        denoiser: a new instance of the external denoiser of a model that was saved with ``save_wrapped``; the weights
            are loaded into it.
    Raises:
        UsageError: if there is no model, it is damaged or from a newer version, or its files do not match.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        raise UsageError(f"no model at {folder}; give the folder of a run or of an exported model")
    record = read_config(folder)
    file = folder / lookup(WEIGHTS, weights, "kind of weights")
    if not file.is_file():
        raise UsageError(f"{folder} has no {file.name}{_missing_weights_advice(folder)}")
    header = read_header(file)
    records.check_belongs(folder, record, header.config, file.name)
    module = build_for_weights(record, header, file, denoiser)
    tensors, sha256 = read_weights(file), sha256_of(file)
    _check_card(record, sha256, file)
    try:
        load_model_state(module, weights_of_format_1(tensors) if record["format_version"] == 1 else tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None
    load_parts(module, record, folder)
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return Model(module.to(device).eval().requires_grad_(False), record, folder, sha256, weights)


def save_wrapped(model: WrappedModel, out: str | Path, about: str = "a denoiser from elsewhere") -> Path:
    """Save a model that wraps an external denoiser; ``load(out, denoiser=...)`` loads it.

    Args:
        model: the wrapped denoiser.
        out: output folder.
        about: a short description.
    """
    folder = Path(out).expanduser()
    write_folder(model, folder, about)
    return folder


def _check_card(record: Mapping[str, Any], sha256: str, file: Path) -> None:
    """Check the checksum of the weights in the card of a bundled model."""
    card = record.get("card")
    stated = card.get("weights_sha256") if isinstance(card, Mapping) else None
    if stated is not None and stated != sha256:
        raise UsageError(
            f"{file} has SHA-256 {sha256[:12]}..., its config.json states {str(stated)[:12]}...; reinstall undiffuse, "
            "or restore an intact copy"
        )


def _missing_weights_advice(folder: Path) -> str:
    """Advice for missing weights: exported models only have averaged ones; runs write both with checkpoints."""
    if (folder / "model_card.md").is_file() and (folder / WEIGHTS["ema"]).is_file():
        return "; this model only has averaged weights, use --weights ema"
    resume = command("train", "--resume", "--out", folder)
    return f" yet; continue training until a checkpoint is written: {resume}"
