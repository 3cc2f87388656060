"""The interface of text encoders: texts to token features, a mask and a pooled vector, of one fixed padded length."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.conditioning.text.config import TextConfig
from undiffuse.core.per_sample import PerSample

#: Texts of one evaluation outside of training: the features of a text then do not depend on the other texts.
BLOCK = 16


@dataclass(frozen=True)
class TextFeatures(PerSample):
    """Encoded texts.

    Args:
        tokens: (B, L, D) float32, zero where masked.
        mask: (B, L) bool, true for valid tokens; an empty text has none.
        pooled: (B, D) float32, mean of the valid tokens; zero for an empty text.
    """

    tokens: Tensor
    mask: Tensor
    pooled: Tensor


class Tokens(NamedTuple):
    """Token ids (B, L) int64, padded with 0, and their mask (B, L) bool."""

    ids: Tensor
    mask: Tensor


class TokenizedText(NamedTuple):
    """Tokens of one text within the encoder's length.

    Attributes:
        ids: at most L.
        spans: (start, end) of each token in the characters of the text; (0, 0) for special tokens.
        truncated: the part of the text beyond the length.
        unknown: words that are not in the vocabulary.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    truncated: str = ""
    unknown: tuple[str, ...] = ()


class TextEncoder(nn.Module):
    """Base class of text encoders.

    Args:
        config: options with a set length.
    Attributes:
        part: name of the frozen part of the model that the encoder needs; empty for none.
    """

    part: ClassVar[str] = ""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.length, self.width = config.spec.tokens, config.width

    @abstractmethod
    def tokenize(self, text: str) -> TokenizedText:
        """The tokens of a text, with the encoder's special tokens."""

    @abstractmethod
    def token_features(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Features (B, L, D) of the tokens of texts, and the mask (B, L) bool of valid tokens, at least one per text.

        Args:
            texts: B texts.
        """

    def locate(self, base: Path | None) -> None:
        """Find the files of an encoder from elsewhere, and check that they are those of training.

        Args:
            base: folder of the model, for relative paths.
        Raises:
            UsageError: they are missing or others.
        """

    def files(self) -> list[Path]:
        """Files of an encoder from elsewhere, all in one folder."""
        return []

    def prepare(self, texts: Iterable[str], most: int) -> int:
        """Compute in advance what training needs for these texts; returns the number of distinct texts.

        Args:
            texts: the captions of the data.
            most: largest number of distinct texts; for more, nothing is computed.
        """
        return 0

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of texts in one evaluation, differentiable; an empty text has no valid token.

        Args:
            texts: B texts.
        """
        features, mask = self.token_features(texts)
        present = torch.tensor([bool(text.strip()) for text in texts], device=mask.device)
        mask = mask & present[:, None]
        features = torch.where(mask[..., None], features, 0.0)
        count = mask.sum(1, keepdim=True).clamp(min=1)
        return TextFeatures(features, mask, features.sum(1) / count)

    @torch.no_grad()
    def encode_in_blocks(self, texts: Sequence[str]) -> TextFeatures:
        """Features of texts without gradients, bitwise independent of the other texts.

        Args:
            texts: B texts.
        """
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        padded = [*row_of, *[""] * (-len(row_of) % BLOCK)]
        blocks = [self.encode(padded[start : start + BLOCK]) for start in range(0, len(padded), BLOCK)]
        if not blocks:
            return self.encode([""]).select(slice(0, 0))
        rows = torch.tensor([row_of[text] for text in texts])
        return TextFeatures.join(blocks).select(rows)

    def batch(self, texts: Sequence[TokenizedText]) -> Tokens:
        """Padded ids of texts on the encoder's device."""
        ids = torch.zeros(len(texts), self.length, dtype=torch.int64)
        mask = torch.zeros(len(texts), self.length, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids[row, : len(text.ids)] = torch.tensor(text.ids, dtype=torch.int64)
            mask[row, : len(text.ids)] = True
        return Tokens(ids.to(self.device), mask.to(self.device))

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(self.parameters()).device
