"""Token features of a text encoder from elsewhere, computed once per text.

A text is encoded in blocks of one fixed number of chunks of one fixed length, so that its features depend neither on
the other texts nor on whether they were cached. They are kept in memory up to a limit, and those of a data set in the
cache folder, see ``feature_files``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.conditioning.text.config import FrozenTextConfig
from undiffuse.conditioning.text.encoder import BLOCK, TokenizedText
from undiffuse.conditioning.text.feature_files import FeatureFiles, feature_folder
from undiffuse.conditioning.text.frozen_folder import EncoderFolder, read_folder
from undiffuse.conditioning.text.frozen_tokenizer import FrozenTokenizer, quiet_transformers
from undiffuse.errors import UsageError
from undiffuse.observer import SILENT, Observer, stage
from undiffuse.wording import command

#: Largest size of the features in memory.
MEMORY_BYTES = 2**30
#: Class of ``transformers`` by family, see ``frozen_folder``, and its options.
_CLASSES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertModel", {"add_pooling_layer": False}),
    "t5": ("T5EncoderModel", {}),
    "clip": ("CLIPTextModel", {}),
    "clip_text_model": ("CLIPTextModel", {}),
}


class _Chunk(NamedTuple):
    """Token ids (L,) int64 of one chunk, padded, and their mask (L,) int64."""

    ids: Tensor
    mask: Tensor


class FrozenFeatures:
    """The encoder in a folder; it is loaded when a text is not cached.

    It is not a module: its weights belong to no model, optimizer or file. Copies of a model share it.

    Args:
        config: configuration with the SHA-256 of the encoder.
        limit: largest size of the features in memory, in bytes.
    """

    def __init__(self, config: FrozenTextConfig, limit: int = MEMORY_BYTES) -> None:
        assert config.length is not None and config.features is not None and config.sha256 is not None
        self._config, self._limit = config, limit
        self._length, self.width = config.length, config.features
        self._base: Path | None = None
        self._folder: EncoderFolder | None = None
        self._tokenizer: FrozenTokenizer | None = None
        self._model: nn.Module | None = None
        self._known: dict[tuple[str, str], Tensor] = {}
        self._lock = RLock()

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenFeatures:
        return self

    @property
    def folder(self) -> EncoderFolder:
        """The folder of the encoder."""
        return self._folder or self.locate(self._base)

    def locate(self, base: Path | None) -> EncoderFolder:
        """Find the folder and check that it holds the encoder that the model was trained with.

        Args:
            base: folder of the model, for a relative path.
        Raises:
            UsageError: it is missing, damaged or another one.
        """
        self._base = base
        try:
            folder = read_folder(self._config.folder, base)
        except UsageError as error:
            raise UsageError(f"{error}{self._advice() if base is not None else ''}") from None
        if folder.width != self.width:
            raise UsageError(
                f"the text encoder in {folder.path} has features of width {folder.width}, this model takes "
                f"{self.width}; restore its files{self._advice()}"
            )
        if folder.sha256 != self._config.sha256:
            raise UsageError(
                f"the text encoder in {folder.path} has SHA-256 {folder.sha256[:12]}..., this model was trained with "
                f"{str(self._config.sha256)[:12]}...; restore its files{self._advice()}"
            )
        self._folder = folder
        return folder

    def _advice(self) -> str:
        """How to name another folder."""
        if self._base is None:
            return "; for another place of the same files, add system.text.folder=FOLDER"
        return (
            f"; for another place of the same files, set config.system.text.folder in {self._base / 'config.json'} and "
            f"accept it with: {command('seal', self._base)}"
        )

    def tokenize(self, text: str) -> TokenizedText:
        """The tokens of a text in as many chunks as needed, each with the special tokens.

        Args:
            text: any text.
        """
        tokenizer = self._opened_tokenizer()
        words = tokenizer.split(text)
        room = self._length - tokenizer.num_special
        kept = min(len(words), room * self._config.chunks)
        ids, spans = list[int](), list[tuple[int, int]]()
        for start in range(0, max(kept, 1), room):
            part = slice(start, min(start + room, kept))
            ids += [*tokenizer.prefix, *words.ids[part], *tokenizer.suffix]
            spans += [(0, 0)] * len(tokenizer.prefix) + [*words.spans[part]] + [(0, 0)] * len(tokenizer.suffix)
        truncated = text[words.spans[kept][0] :] if len(words) > kept else ""
        unknown = [
            text[slice(*span)] for id, span in zip(*words, strict=True) if id == tokenizer.unknown and span[0] < span[1]
        ]
        return TokenizedText(tuple(ids), tuple(spans), truncated, tuple(unknown))

    def features(self, texts: Sequence[str], device: torch.device) -> tuple[Tensor, Tensor]:
        """Features (B, L, D) float32 of texts, zero after their ends, and the mask (B, L) bool of their tokens.

        Args:
            texts: B texts.
            device: where they are computed.
        """
        rows = self._rows(texts, device)
        out = torch.zeros(len(texts), self._length * self._config.chunks, self.width)
        mask = torch.zeros(out.shape[:2], dtype=torch.bool)
        for number, text in enumerate(texts):
            row = rows[text]
            out[number, : len(row)], mask[number, : len(row)] = row, True
        return out.to(device), mask.to(device)

    def prepare(self, texts: Iterable[str], most: int, device: torch.device) -> int:
        """Compute the features of a data set's texts, or read them from the cache folder.

        Nothing is done for more texts than ``most`` or than fit into memory: they are computed when needed.

        Args:
            texts: all texts, repeated ones too.
            most: largest number of distinct texts.
            device: where they are computed.
        Returns:
            Number of texts in memory.
        """
        most = min(most, self._limit // (4 * self.width * self._length))
        distinct = dict[str, None]()
        for text in texts:
            distinct[text] = None
            if len(distinct) > most:
                return 0
        files = FeatureFiles(feature_folder(self._key(device)), self.width)
        missing = [text for text in distinct if (text, device.type) not in self._known]
        found = files.read(missing)
        self._keep(found, device)
        rest = [text for text in missing if text not in found]
        if rest:
            with stage("encoding captions", len(rest)) as observer:
                computed = self._computed(rest, device, observer)
            self._keep(computed, device)
            files.add(computed)
        return len(distinct)

    def _rows(self, texts: Sequence[str], device: torch.device) -> dict[str, Tensor]:
        """Features (n, D) of the n tokens of each text, on the CPU."""
        with self._lock:
            rows = {text: self._known.get((text, device.type)) for text in texts}
            missing = [text for text, row in rows.items() if row is None]
            computed = self._computed(missing, device) if missing else {}
            self._keep(computed, device)
        return {text: computed[text] if row is None else row for text, row in rows.items()}

    def _keep(self, rows: dict[str, Tensor], device: torch.device) -> None:
        """Keep features in memory; the oldest are left out if all exceed the limit."""
        with self._lock:
            self._known |= {(text, device.type): row for text, row in rows.items()}
            most = max(self._limit // (4 * self.width * self._length), 1)
            while len(self._known) > most:
                del self._known[next(iter(self._known))]

    def _computed(self, texts: Sequence[str], device: torch.device, observer: Observer = SILENT) -> dict[str, Tensor]:
        chunks = [self._chunks_of(text) for text in texts]
        outputs = self._encoded([chunk for row in chunks for chunk in row], device, observer)
        return {text: torch.cat([next(outputs) for _ in row]) for text, row in zip(texts, chunks, strict=True)}

    def _chunks_of(self, text: str) -> list[_Chunk]:
        ids = self.tokenize(text).ids
        padding = self._opened_tokenizer().padding
        length = self._length
        return [_chunk(ids[start : start + length], length, padding) for start in range(0, len(ids), length)]

    @torch.no_grad()
    def _encoded(self, chunks: Sequence[_Chunk], device: torch.device, observer: Observer) -> Iterator[Tensor]:
        """Features (n, D) of the n tokens of each chunk, computed in blocks of ``BLOCK``."""
        model, filler = self._opened_model(device), self._chunks_of("")[0]
        for start in range(0, len(chunks), BLOCK):
            block = [*chunks[start : start + BLOCK]]
            padded = [*block, *[filler] * (BLOCK - len(block))]
            ids, mask = (torch.stack(part).to(device) for part in zip(*padded, strict=True))
            with torch.autocast(device.type, enabled=False):
                hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.cpu()
            for row, chunk in zip(hidden, block, strict=False):
                yield row[: int(chunk.mask.sum())].clone()
            observer.progress(start + len(block), len(chunks))

    def _opened_tokenizer(self) -> FrozenTokenizer:
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = FrozenTokenizer(self.folder.path)
        return self._tokenizer

    def _opened_model(self, device: torch.device) -> nn.Module:
        with self._lock:
            if self._model is None:
                self._model = _load(self.folder)
            self._model = self._model.to(device)
        return self._model

    def _key(self, device: torch.device) -> dict[str, Any]:
        """All that determines the features of a text."""
        with quiet_transformers() as transformers:
            version = transformers.__version__
        return {
            "encoder": self._config.sha256,
            "length": self._length,
            "chunks": self._config.chunks,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": version,
        }


def _chunk(ids: Sequence[int], length: int, padding: int) -> _Chunk:
    mask = torch.zeros(length, dtype=torch.int64)
    mask[: len(ids)] = 1
    return _Chunk(torch.tensor([*ids, *[padding] * (length - len(ids))]), mask)


def _load(folder: EncoderFolder) -> nn.Module:
    """The encoder in float32, in evaluation mode and frozen."""
    name, options = _CLASSES[folder.family]
    with quiet_transformers() as transformers:
        try:
            model, report = getattr(transformers, name).from_pretrained(
                folder.path,
                **options,
                dtype=torch.float32,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
        except Exception as error:  # of many kinds, some from Rust
            first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UsageError(f"the text encoder in {folder.path} cannot be loaded ({first}); copy it again") from None
    if missing := sorted(report["missing_keys"]):
        raise UsageError(f"the text encoder in {folder.path} lacks the weights {missing[0]}; copy it again")
    return model.eval().requires_grad_(False)  # type: ignore[no-any-return]
