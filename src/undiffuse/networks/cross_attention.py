"""Cross-attention of image features to the tokens of a text.

The tokens are preceded by a learned null token that is never masked, so that attention over an empty or dropped text is
defined. The last layer is zero-initialised: a network starts as the same network without text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from undiffuse.core import operators
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import TextSpec


class TextContext(NamedTuple):
    """Text tokens (B, 1 + L, D), the null token first, and their mask (B, 1 + L) bool, true for valid tokens."""

    tokens: Tensor
    mask: Tensor


class TextInput(nn.Module):
    """The tokens of a condition with a learned null token in front.

    Args:
        spec: form of the text input.
    """

    def __init__(self, spec: TextSpec) -> None:
        super().__init__()
        self.length, self.width = spec.tokens, spec.width
        self.null = nn.Parameter(torch.zeros(spec.width))

    def forward(self, cond: Condition, like: Tensor) -> TextContext:
        """The context of cross-attention; a condition without text has only the null token.

        Args:
            cond: its tokens (B, L, D) and token mask (B, L) are used.
            like: (B, ...) any tensor with the batch size and device.
        """
        batch, device = len(like), like.device
        if cond.tokens is None or cond.token_mask is None:
            tokens = self.null.new_zeros(batch, self.length, self.width)
            mask = torch.zeros(batch, self.length, dtype=torch.bool, device=device)
        else:
            tokens, mask = cond.tokens.to(self.null), cond.token_mask.to(device)
        null = self.null.expand(batch, 1, -1)
        return TextContext(torch.cat([null, tokens], dim=1), torch.cat([mask.new_ones(batch, 1), mask], dim=1))


class QueryKeyNorm(nn.Module):
    """Root-mean-square norms of queries and keys per head, which bound the attention scores.

    Args:
        head_channels: D, channels per head.
        eps: added to the mean square, above 0.
    Source: Henry et al. 2020, arXiv:2010.04245; with RMS norms, Esser et al. 2024, arXiv:2403.03206, sec. 5.3.2.
    """

    def __init__(self, head_channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.query, self.key = (nn.RMSNorm(head_channels, eps) for _ in range(2))

    def forward(self, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised queries and keys, in their dtypes.

        Args:
            query: (B, heads, L, D).
            key: (B, heads, S, D).
        """
        return self.query(query).to(query.dtype), self.key(key).to(key.dtype)


class CrossAttention(nn.Module):
    """Attention of tokens (B, L, C) to a text context; the output projection is zero-initialised.

    Args:
        channels: C, channels of the queries and the output.
        context_channels: channels of the text tokens.
        heads: attention heads; divides C.
        query_key_norm: normalise queries and keys per head.
        bias: biases of queries, keys and values.
    Source: Rombach et al. 2022, arXiv:2112.10752, sec. 3.3.
    """

    def __init__(
        self, channels: int, context_channels: int, heads: int, *, query_key_norm: bool = False, bias: bool = True
    ) -> None:
        super().__init__()
        self.heads = heads
        with separate_initialization():
            self.query = nn.Linear(channels, channels, bias=bias)
            self.key_value = nn.Linear(context_channels, 2 * channels, bias=bias)
            self.out = nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.norms = QueryKeyNorm(channels // heads) if query_key_norm else None

    def forward(self, tokens: Tensor, context: TextContext) -> Tensor:
        """The attended values, (B, L, C).

        Args:
            tokens: (B, L, C).
            context: tokens (B, S, D) of the text and their mask.
        """
        query = _by_head(self.query(tokens), self.heads)
        key, value = (_by_head(part, self.heads) for part in self.key_value(context.tokens).chunk(2, dim=2))
        if self.norms is not None:
            query, key = self.norms(query, key)
        mixed = operators.attention(query, key, value, context.mask)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


@contextmanager
def separate_initialization() -> Iterator[None]:
    """Draw initial weights without advancing torch's global generator.

    The other weights of a network are then the same with and without the modules created here.
    """
    state = torch.random.get_rng_state().numpy().tobytes()
    with torch.random.fork_rng([]):
        torch.manual_seed(int.from_bytes(hashlib.blake2b(state, digest_size=7).digest(), "little"))
        yield


def _by_head(x: Tensor, heads: int) -> Tensor:
    """(B, L, C) -> (B, heads, L, C / heads)."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)
