"""Saved models: a folder with ``config.json``, ``model.safetensors`` (EMA weights) and ``model_card.md``.

A run's own folder is one, which has ``raw.safetensors``, the weights without averaging, as well. Loading needs nothing
else, builds no code from data and unpickles nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from undiffuse.compute.memory import keep_freed_memory
from undiffuse.conditioning.prompt import Prompt
from undiffuse.config import Component
from undiffuse.core.condition import Condition
from undiffuse.core.denoiser import Denoiser
from undiffuse.errors import UsageError, UsageWarning
from undiffuse.files import replacing, sha256_of
from undiffuse.models.base import DenoisingModel, GenerativeModel, to_uint8
from undiffuse.models.keywords import takes_options
from undiffuse.models.options import SamplingOptions
from undiffuse.models.request import SampleRequest
from undiffuse.models.seeds import check_seeds as check_seeds
from undiffuse.models.starting import images_to_begin_from
from undiffuse.models.wrapped import WrappedModel
from undiffuse.progress import Counter
from undiffuse.registry import known_keywords, lookup
from undiffuse.samplers.base import Progress
from undiffuse.sealed import checksum_of, is_changed, parsed, read_sealed
from undiffuse.systems import SYSTEMS
from undiffuse.systems import record as records
from undiffuse.systems.base import System
from undiffuse.systems.bounded import at_most
from undiffuse.systems.classes import Classes, asked_classes
from undiffuse.systems.sample_record import shared_record
from undiffuse.systems.samples import Samples
from undiffuse.systems.wrapped import rebuilt, write_folder
from undiffuse.wording import command, counted

#: Files of a model folder with weights: averaged ones, and those that training itself moves.
WEIGHTS = {"ema": "model.safetensors", "raw": "raw.safetensors"}
#: Keys of a weights file's metadata, of which it has one, for safetensors keeps no order among several: the checksum
#: of its tensors, or JSON with that and the configuration that they were saved with.
_CHECKSUM, _FACTS = "sha256_of_tensors", "undiffuse"
_LONGEST_LINE = 400


@dataclass(frozen=True, repr=False)
class Model:
    """A model and what is known of it.

    Attributes:
        system: with the weights asked for, on its device, in evaluation mode.
        config: the whole of ``config.json``.
        path: the folder it came from.
        weights: ``ema`` or ``raw``.
        weights_sha256: of the file with the weights, ``model.safetensors`` for the averaged ones.
    """

    system: GenerativeModel
    config: Mapping[str, Any]
    path: Path
    weights_sha256: str
    weights: str = "ema"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Classes that can be asked for; empty for none."""
        return self.system.class_names

    @property
    def origin(self) -> str:
        """What its ``config.json`` says of the data that it learned from, which need not be there any more."""
        return origin_of(self.config["config"]["data"], self.config["model"]["class_names"])

    def __repr__(self) -> str:
        size = "×".join(map(str, self.system.shape))
        parameters = sum(value.numel() for value in self.system.parameters())
        classes = counted(len(self.class_names), "class") if self.class_names else "no classes"
        recipe = self.config["config"].get("recipe", "no recipe")
        return (
            f"<Model {self.path.resolve().name} ({recipe}): {size}, {classes}, "
            f"{parameters:,} parameters, {self.weights} weights on {self.system.device}>"
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
            class_name: one for all, such as ``3`` or ``"cat"``, or several in turn; ``[None]`` for no class in
                particular. All classes in turn by default.
            image: to begin from with a ``strength`` below 1, of the model's own size: a uint8 tensor or array
                (C, H, W), a Pillow image, or several, in turn.
            progress: show how far it has come, on standard error, where it takes more than two seconds; by default
                unless ``UNDIFFUSE_PROGRESS=off``.
        Returns:
            uint8 (num, C, H, W) for pictures, float32 (num, D) for points, on the CPU: a tensor with ``.images``,
            ``.save(folder)``, ``.seeds``, ``.classes`` and ``.record``, which a notebook shows as a grid.
        Raises:
            UsageError: an unknown sampler, grid or class, or a number that makes no sense.
        """
        seeds, names = check_seeds(seed, num), self.classes_of(class_name, num)

        def told(first: int, step: Progress) -> None:
            counter.progress(first * step.count + len(step.x) * (step.index + 1), num * step.count)

        images = images_to_begin_from(image, self.system.space, num)
        request = SampleRequest(seeds, options, None, batch_size, told, images=images, prompts=self.prompts(names))
        with Counter("sampling", progress) as counter:
            sampled = self.system.sample(request)
        if sampled.note:
            warnings.warn(sampled.note, UsageWarning, stacklevel=4)
        costs = {"nfe": sampled.nfe, "partial_nfe": sampled.partial_nfe}
        about = {} if images is None else {"image": {"sha256": hashlib.sha256(images.numpy().tobytes()).hexdigest()}}
        return Samples.of(self.finish(sampled.x), {**shared_record(self, request), **about, **costs}, seeds, names)

    def finish(self, x: Tensor) -> Tensor:
        """Samples at the edge: uint8 pictures or float32 points, on the CPU."""
        return (to_uint8(x) if self.system.space.is_image else x.float()).cpu()

    def classes_of(self, asked: Classes, num: int) -> list[str | None]:
        """The class of each of ``num`` samples; an empty list for a model without classes.

        Args:
            asked: one name for all, or several, taken in turn; ``None`` for all classes in turn. Among several,
                ``None`` asks for a sample of no class in particular.
        Returns:
            Names of classes, and ``None`` for those of no class.
        Raises:
            UsageError: an unknown class, or any class of a model without.
        """
        names = asked_classes(asked, self.class_names)
        denoises = isinstance(self.system, DenoisingModel)  # others refuse what they were not trained for
        if None in names and denoises and not getattr(getattr(self.system, "config", None), "label_dropout", 0):
            warnings.warn(
                "this model was never trained without a class: samples of none come by chance", UsageWarning, 3
            )
        return [names[index % len(names)] for index in range(num)] if self.class_names else []

    def prompts(self, names: Sequence[str | None]) -> list[Prompt] | None:
        """What the rows with these class names want, ``None`` for no class; nothing for an empty list."""
        return [Prompt(name) for name in names] or None

    def condition(self, names: Sequence[str | None]) -> Condition | None:
        """Labels of the rows with these class names, ``None`` for no class; nothing for an empty list."""
        if not names:
            return None
        labels = [-1 if name is None else self.class_names.index(name) for name in names]
        return Condition(label=torch.tensor(labels)).to(self.system.device)


def origin_of(data: Mapping[str, Any], class_names: Iterable[str]) -> str:
    """What is said of data in one text: all that its configuration holds, such as name and path, and its classes."""
    return " ".join([*map(str, data.values()), *class_names])


def save_weights(path: Path, tensors: Mapping[str, Tensor], record: Mapping[str, Any] | None = None) -> str:
    """Write weights in one piece, with a checksum inside; returns the file's SHA-256.

    Args:
        record: the ``config.json`` that goes with them; of what decides on the result a copy is kept.
    """
    on_cpu = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    checksum = _sha256_of_tensors(on_cpu)
    metadata = {_CHECKSUM: checksum}
    if record is not None:
        kept = records.of_the_result(record)
        facts = {_CHECKSUM: checksum, "config_sha256": checksum_of(kept), "config": kept}
        metadata = {_FACTS: json.dumps(facts)}
    with replacing(path) as temporary:
        save_file(on_cpu, temporary, metadata=metadata)
    return sha256_of(path)


class Header(NamedTuple):
    """What a weights file says of itself before any weight is read.

    Attributes:
        shapes: of its tensors, by name.
        checksum: of its tensors; none in a hand-made file.
        config: the ``config.json`` that they were saved with; none where nobody noted it.
    """

    shapes: dict[str, tuple[int, ...]]
    checksum: str | None
    config: dict[str, Any] | None


def read_header(path: Path) -> Header:
    """The header of a weights file.

    Raises:
        UsageError: damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        facts = parsed(metadata[_FACTS]) if _FACTS in metadata else {_CHECKSUM: metadata.get(_CHECKSUM)}
        config = facts.get("config")
        if config is not None and checksum_of(config) != facts["config_sha256"]:
            raise ValueError("its copy of the configuration does not match its checksum")
        return Header(shapes, facts.get(_CHECKSUM), config)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]}); put a sound copy back") from None


def read_weights(path: Path) -> dict[str, Tensor]:
    """Weights from a file, compared with their checksum where the file has one (a hand-made one may have none).

    Raises:
        UsageError: damaged.
    """
    stated = read_header(path).checksum
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged ({str(error).strip().splitlines()[0]})") from None
    if stated is not None and stated != _sha256_of_tensors(tensors):
        raise UsageError(f"{path} is damaged: its weights do not match their checksum; put a sound copy back")
    return tensors


def _sha256_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over name, type, shape and bytes of each tensor, in order of name."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


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


def build_system(record: Mapping[str, Any]) -> System:
    """A system with fresh weights from a read ``config.json``.

    Raises:
        UsageError: no system can be built of it.
    """
    try:
        config = Component(SYSTEMS, "system").pick(record["config"]["system"])
        shape, class_names = tuple(record["model"]["shape"]), tuple(record["model"]["class_names"])
        num_augment_labels = len(record["model"].get("augment_labels", ()))
    except (KeyError, TypeError) as error:
        raise UsageError(f"config.json lacks {error}; it is damaged or not from undiffuse") from None
    system: System = config.build(shape, class_names, num_augment_labels)  # type: ignore[attr-defined]
    system.open_model = load
    return system


def build_fitting(
    record: Mapping[str, Any], header: Header, file: Path, denoiser: Denoiser | None = None
) -> GenerativeModel:
    """The system of a read ``config.json``, which is never larger than the file that holds its weights.

    Raises:
        UsageError: the two do not fit each other, or no system can be built.
    """
    config, what = file.with_name("config.json"), f"{file} is damaged or does not fit its config.json"
    try:
        with at_most(header.shapes.values()):
            system: GenerativeModel = build_system(record) if denoiser is None else rebuilt(record, denoiser)
    except UsageError as error:
        raise UsageError(f"{config}: {_shortened(str(error))}") from None
    except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UsageError(f"{config}: no network can be built as it says ({_shortened(first)})") from None
    for name, value in system.state_dict().items():
        stored = header.shapes.get(name)
        if stored != tuple(value.shape):
            found = "lacks it" if stored is None else f"has {stored}"
            raise UsageError(f"{what} ({name} should be {tuple(value.shape)}, the file {found})")
    return system


def _shortened(text: str) -> str:
    """A line about values that a stranger chose the length of."""
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
    system = build_fitting(record, header, file, denoiser)
    tensors, sha256 = read_weights(file), sha256_of(file)
    _check_card(record, sha256, file)
    try:
        system.load_state_dict(tensors)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[0]
        raise UsageError(f"{file} is damaged or does not fit its config.json ({first})") from None
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return Model(system.to(device).eval(), record, folder, sha256, weights)


def save_wrapped(model: WrappedModel, out: str | Path, about: str = "a denoiser from elsewhere") -> Path:
    """Write the folder of a model around a denoiser from elsewhere; ``load(out, denoiser=...)`` opens it again.

    Args:
        about: what it is, in a few words.
    """
    folder = Path(out).expanduser()
    write_folder(model, folder, about, save_weights)
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
