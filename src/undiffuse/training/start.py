"""Start a run from the weights of another model: fine-tuning on other data.

Weights are copied by name. Where classes, words or augmentations differ, rows are copied by their names: known classes
and words keep theirs, new ones start at the mean of all. A condition that the start model lacks begins at zero, so that
the model samples as before until it is trained. Afterwards the run does not need the start model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undiffuse.errors import UsageError
from undiffuse.models.base import GenerativeModel
from undiffuse.models.parts import load_model_state, model_state, present_parts
from undiffuse.models.saved import Model, load
from undiffuse.registry import nearest
from undiffuse.training.config import RunConfig, StartConfig

_EMBEDDING = "network.embedding"
_CLASSES, _AUGMENT = f"{_EMBEDDING}.classes.weight", f"{_EMBEDDING}.augment.weight"
_BIAS = f"{_EMBEDDING}.second.bias"
_WORDS, _POSITIONS = "conditioner.encoder.embedding.weight", "conditioner.encoder.transformer.positions"
#: Prefix of an earlier state of the network, which is stored anew by the run.
_GUIDE = "guide"
#: Names of the first rows of a vocabulary.
_RESERVED = ("<padding>", "<start>", "<unknown>")
#: Names listed in a note.
_SHOWN = 6


class Names(NamedTuple):
    """Names of the rows of a model's tables.

    Attributes:
        classes: names of the classes; empty for none.
        augmentations: names of the augmentation labels.
        words: vocabulary of the text encoder, with the reserved ids; empty for none.
    """

    classes: tuple[str, ...]
    augmentations: tuple[str, ...]
    words: tuple[str, ...]


def load_start(model: GenerativeModel, config: StartConfig, record: Mapping[str, Any]) -> list[str]:
    """Load the weights of the start model into a new one.

    Args:
        model: the new model, for the new data.
        config: the start model.
        record: ``config.json`` of the run.
    Returns:
        Lines about what was not copied as it is.
    Raises:
        UsageError: no such model, other weights than expected, or a network that they do not fit.
    """
    source = load(config.path, model.device, config.weights)
    if config.sha256 and source.weights_sha256 != config.sha256:
        raise UsageError(
            f"the start model {config.path} has weights {source.weights_sha256[:12]}..., this run expects "
            f"{config.sha256[:12]}...; restore them, or start a new run with --from"
        )
    _check_shape(source, model, config)
    old, new = _names(source.module, source.config), _names(model, record)
    _check_like(old, new, config)
    tensors = _adapted(source.module, model, old, new, config)
    load_model_state(model, tensors)
    _copy_parts(source.module, model)
    guide = getattr(model, _GUIDE, None)
    if guide is not None:
        guide.load_state_dict(model.network.state_dict())  # type: ignore[union-attr]
    same = source.config["data"]["fingerprint"] == record["data"]["fingerprint"]
    known = [f"the data are those that {config.name} was trained on; its training continues"] if same else []
    return known + _notes(old, new, record, config.like)


def kept_classes(config: RunConfig, class_names: Sequence[str]) -> list[str]:
    """Classes of the start model that the run keeps although the data do not have them.

    Args:
        config: of the run.
        class_names: classes of the data.
    """
    if config.start is None or not class_names:
        return []
    wanted = config.start.classes if config.start.keep_classes else ()
    prior = config.prior.class_name if config.prior is not None else None
    return [name for name in config.start.classes if name not in class_names and (name in wanted or name == prior)]


def train_new_rows(model: GenerativeModel, config: RunConfig) -> None:
    """Disable gradients of the embeddings that the start model has, for ``!new_words`` and ``!new_classes``.

    Textual inversion (Gal et al. 2022, arXiv:2208.01618) is ``freeze=all,!new_words``.

    Args:
        model: the model to train.
        config: of the run.
    Raises:
        UsageError: there are no new rows, or weight decay would change the others.
    """
    for name, key in (("new_words", _WORDS), ("new_classes", _CLASSES)):
        if f"!{name}" not in config.freeze:
            continue
        parameter = dict(model.named_parameters())[key]
        rows = _new_rows(model, config, name).to(parameter.device)
        if not bool(rows.any()):
            raise UsageError(f"freeze=...,!{name}: the data have no {name.replace('_', ' ')}; leave !{name} out")
        if config.optimizer.weight_decay:
            raise UsageError(f"freeze=...,!{name} needs optimizer.weight_decay=0, which would change the other rows")
        parameter.register_hook(_only(rows.to(parameter.dtype)[:, None]))  # type: ignore[no-untyped-call]


def _new_rows(model: GenerativeModel, config: RunConfig, name: str) -> Tensor:
    """Which rows of an embedding (N,) the start model lacks."""
    if config.start is None:
        raise UsageError(f"freeze=...,!{name} is for a run with a start model; name one with --from")
    if name == "new_classes":
        return torch.tensor([*(one not in config.start.classes for one in model.class_names), False])
    words = getattr(getattr(model, "config", None), "text", None)
    first = len(_RESERVED) + config.start.num_words
    return torch.arange(len(_RESERVED) + len(getattr(words, "entries", ()))) >= first


def _only(rows: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient * rows


def with_new_words(config: RunConfig, captions: Sequence[str] | None) -> RunConfig:
    """The configuration with the words of new captions added to the vocabulary of the start model.

    Args:
        config: of a run with a start model.
        captions: of the training data.
    Raises:
        UsageError: a model with text, and data without captions.
    """
    text = getattr(config.system, "text", None)
    if config.start is None or text is None:
        return config
    if captions is None:
        raise UsageError(
            f"{config.start.name} is conditioned on captions, and this data has none; add captions to the data"
        )
    if getattr(text, "vocabulary", None) != "words":
        return config
    found = text.model_copy(update={"entries": ()}).fitted(captions)
    entries = (*text.entries, *(word for word in found.entries if word not in set(text.entries)))
    system = config.system.model_copy(update={"text": text.model_copy(update={"entries": entries})})
    return config.model_copy(update={"system": system})


def _check_shape(source: Model, model: GenerativeModel, config: StartConfig) -> None:
    """Check that the samples have as many channels (or coordinates)."""
    old, new = source.module.shape, model.shape
    if len(old) != len(new) or old[0] != new[0]:
        instead = f"add data.channels={old[0]}" if len(old) == len(new) == 3 else "give data of that shape"
        raise UsageError(f"{config.name} generates samples of shape {old}, this data has {new}; {instead}")


def _names(model: GenerativeModel, record: Mapping[str, Any]) -> Names:
    text = getattr(getattr(model, "config", None), "text", None)
    entries = getattr(text, "entries", ()) if getattr(text, "vocabulary", None) == "words" else ()
    words = (*_RESERVED, *entries) if entries else ()
    return Names(model.class_names, tuple(record["model"].get("augment_labels", ())), words)


def _adapted(
    source: GenerativeModel, model: GenerativeModel, old: Names, new: Names, config: StartConfig
) -> dict[str, Tensor]:
    """The state of the new model: the weights of the start model, with the rows of its tables by name."""
    given = {name: value for name, value in model_state(source).items() if not name.startswith(_GUIDE)}
    tables: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        _CLASSES: lambda value, like: _class_rows(value, old.classes, new.classes, config.like),
        _WORDS: lambda value, like: _word_rows(value, old.words, new.words, config.like),
        _POSITIONS: _first_rows,
        _AUGMENT: lambda value, like: _columns_by_name(value, old.augmentations, new.augmentations),
    }
    tensors = {}
    for name, target in model_state(model).items():
        value = given.get(name)
        if value is not None:
            value = tables[name](value, target) if name in tables else value
        elif name in (_CLASSES, _AUGMENT):
            value = torch.zeros_like(target)
        elif name.startswith(_GUIDE):
            value = target
        if value is None or value.shape != target.shape:
            had = "lacks it" if value is None else f"has {tuple(value.shape)}"
            raise UsageError(
                f"the network of {config.name} does not fit this run: {name} should be {tuple(target.shape)}, the "
                f"model {had}; leave out overrides of system.network"
            )
        tensors[name] = value
    if _CLASSES in given and _CLASSES not in tensors and not getattr(model, "by_tokens", False):
        tensors[_BIAS] = tensors[_BIAS] + given[_CLASSES][-1]  # "no class" is added to every embedding
    return tensors


def _class_rows(rows: Tensor, old: Sequence[str], new: Sequence[str], like: Mapping[str, str]) -> Tensor:
    """Embeddings (N + 1, D) of classes and, last, of "no class"."""
    return _rows_by_name(rows, (*old, ""), (*new, ""), like, rows[:-1].mean(0))


def _word_rows(rows: Tensor, old: Sequence[str], new: Sequence[str], like: Mapping[str, str]) -> Tensor:
    """Embeddings (N, D) of words, after the reserved ones; those of bytes are not changed."""
    return _rows_by_name(rows, old, new, like, rows[len(_RESERVED) :].mean(0)) if old else rows


def _rows_by_name(
    rows: Tensor, old: Sequence[str], new: Sequence[str], like: Mapping[str, str], mean: Tensor
) -> Tensor:
    """Rows for new names: those of the same name or of the one that they are like, or the mean."""
    known = {name: number for number, name in enumerate(old)}
    origins = [name if name in known else like.get(name, name) for name in new]
    return torch.stack([rows[known[name]] if name in known else mean for name in origins])


def _check_like(old: Names, new: Names, config: StartConfig) -> None:
    """Check that ``start.like`` names new classes or words, and known ones that they start from."""
    for name, known in config.like.items():
        tables = [
            (ours, theirs) for ours, theirs in ((new.classes, old.classes), (new.words, old.words)) if name in ours
        ]
        if not tables:
            raise UsageError(f"start.like: no class or word of the data is {name!r}; name one of them")
        if not any(known in theirs for _, theirs in tables):
            names = nearest(known, tables[0][1])
            raise UsageError(f"start.like: {config.name} has no {known!r}, which {name!r} would start from; {names}")


def _columns_by_name(columns: Tensor, old: Sequence[str], new: Sequence[str]) -> Tensor:
    """Columns (D, N) for new names: those of the same name, or zero."""
    known = {name: number for number, name in enumerate(old)}
    zero = torch.zeros_like(columns[:, 0])
    return torch.stack([columns[:, known[name]] if name in known else zero for name in new], dim=1)


def _first_rows(rows: Tensor, like: Tensor) -> Tensor:
    """Positions of a text of another length: the common ones, and the initial ones after them."""
    common = min(len(rows), len(like))
    return torch.cat([rows[:common], like[common:]])


def _copy_parts(source: GenerativeModel, model: GenerativeModel) -> None:
    parts = {name: part for name, _, part in present_parts(source)}
    for name, _, part in present_parts(model):
        if name in parts:
            part.load_state_dict(parts[name].state_dict())


def _notes(old: Names, new: Names, record: Mapping[str, Any], like: Mapping[str, str]) -> list[str]:
    """Lines about classes and words that differ."""
    lines = list[str]()
    if new.classes and not old.classes:
        lines.append(f"the start model has no classes: the {len(new.classes)} of the data start at zero")
    elif new.classes:
        lines += _differences("class", old.classes, new.classes, like)
    elif old.classes:
        lines.append("the data have no classes: the model goes on with that of no class")
    elif found := record["model"]["class_names"]:
        lines.append(
            f"the data have {len(found)} classes, on which the start model is not conditioned; "
            "system.class_conditional=true adds them"
        )
    return lines + _differences("word", old.words[len(_RESERVED) :], new.words[len(_RESERVED) :], like)


def _differences(kind: str, old: Sequence[str], new: Sequence[str], like: Mapping[str, str]) -> list[str]:
    """A line about the names that were added and left out; none if they are the same."""
    added, dropped = [name for name in new if name not in old], [name for name in old if name not in new]
    if not added and not dropped:
        return []
    kept, plural = len(new) - len(added), "classes" if kind == "class" else f"{kind}s"
    parts = [f"{kept} {plural if kept != 1 else kind} of the start model kept"]
    alike = [f"{name} from {like[name]}" for name in added if name in like]
    parts += [f"new: {_listed(alike)}"] if alike else []
    others = [name for name in added if name not in like]
    parts += [f"new, from the mean of all: {_listed(others)}"] if others else []
    parts += [f"left out: {_listed(dropped)}"] if dropped else []
    return ["; ".join(parts)]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
