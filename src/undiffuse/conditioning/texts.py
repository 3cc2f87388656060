"""Captions of data and prompts of the user, encoded by a text encoder; with classes if the model has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from undiffuse.captions import alternatives_of, draw_alternative
from undiffuse.conditioning.base import EncodedPrompts, Given
from undiffuse.conditioning.labels import LabelConditioner
from undiffuse.conditioning.prompt import Prompt
from undiffuse.conditioning.prompt_syntax import Term, WeightedText, parse_prompt
from undiffuse.conditioning.text.encoder import TextEncoder, TextFeatures
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec, TextSpec
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError

_NO_TERM = Term(WeightedText(""), 0.0)


class TextConditioner(LabelConditioner):
    """Captions, the class if the model has classes, and the augmentation of the training image.

    Args:
        spec: see ``Conditioner``.
        encoder: encodes captions and prompts.
        dropout: fraction of the training samples whose caption (and class) is dropped.
    """

    def __init__(self, spec: ConditionSpec, encoder: TextEncoder, dropout: float = 0.0) -> None:
        super().__init__(spec, dropout)
        assert spec.text is not None
        self.text: TextSpec = spec.text
        self.encoder = encoder

    def for_training(self, given: Given, x_0: Tensor, rng: StepRandom) -> Condition:
        features = self.encoder.encode(drawn_captions(given, rng))
        condition = self._with_text(self._condition_of(given), features)
        return condition.drop(rng.uniform(len(x_0), "drop") < self.dropout, self.policy)

    def encode_prompts(self, prompts: Sequence[Prompt]) -> EncodedPrompts:
        self._check_prompts(prompts)
        labels = self._encoded_labels(prompts)
        compositions = [parse_prompt(prompt.text or "") for prompt in prompts]
        count = max((len(terms) for terms in compositions), default=1)
        terms = []
        for number in range(count):
            rows = [terms[number] if number < len(terms) else _NO_TERM for terms in compositions]
            condition = self._with_text(labels, self._encoded([row.text for row in rows]))
            terms.append((condition, torch.tensor([row.weight for row in rows], dtype=torch.float64)))
        return EncodedPrompts(tuple(terms), self._negative(prompts, labels))

    def locate(self, folder: Path | None) -> None:
        self.encoder.locate(folder)

    def part_files(self) -> Mapping[str, Sequence[Path]]:
        files = self.encoder.files()
        return {self.encoder.part: files} if files else {}

    def prepare(self, captions: Iterable[str], num: int) -> int:
        return self.encoder.prepare((text for caption in captions for text in alternatives_of(caption)), num)

    def check_prompts(self, prompts: Sequence[Prompt]) -> list[str]:
        self._check_prompts(prompts)
        given = (part.text for prompt in prompts for part in (prompt, prompt.negative) if part is not None)
        texts = dict.fromkeys(text for text in given if text)
        terms = dict.fromkeys(term.text.text for text in texts for term in parse_prompt(text))
        return [message for text in terms for message in self._messages(text)]

    def _messages(self, text: str) -> list[str]:
        tokens, messages = self.encoder.tokenize(text), []
        if tokens.truncated:
            messages.append(
                f"the prompt is longer than the {self.text.tokens} tokens of this model: without {tokens.truncated!r}"
            )
        if tokens.unknown:
            words = ", ".join(map(repr, dict.fromkeys(tokens.unknown)))
            messages.append(f"words that are not in this model's vocabulary: {words}")
        return messages

    def _with_text(self, condition: Condition, features: TextFeatures) -> Condition:
        """The condition with the fields of the text that the network takes."""
        if self.text.width:
            condition = replace(condition, tokens=features.tokens, token_mask=features.mask)
        return replace(condition, pooled=features.pooled) if self.text.pooled else condition

    def _negative(self, prompts: Sequence[Prompt], labels: Condition) -> Condition:
        negatives = [prompt.negative.text or "" if prompt.negative is not None else "" for prompt in prompts]
        for text in dict.fromkeys(negatives):
            if len(parse_prompt(text)) > 1:
                raise UsageError(f"a negative prompt cannot be composed with AND, got {text!r}; list its words")
        features = self._encoded([parse_prompt(text)[0].text for text in negatives])
        return self._with_text(self._negative_labels(prompts, labels), features)

    def _encoded(self, texts: Sequence[WeightedText]) -> TextFeatures:
        """Features on the CPU, with each token scaled by its weight."""
        features = self.encoder.encode_in_blocks([text.text for text in texts]).to("cpu")
        if not any(text.weights for text in texts):
            return features
        factors = torch.ones(features.mask.shape, dtype=features.tokens.dtype)
        for row, text in enumerate(texts):
            spans = self.encoder.tokenize(text.text).spans
            factors[row, : len(spans)] = torch.tensor([text.weight_of(span) for span in spans])
        return replace(features, tokens=features.tokens * factors[..., None])


def drawn_captions(given: Given, rng: StepRandom) -> list[str]:
    """One caption per item, drawn from its alternatives, which are separated by newlines.

    Args:
        given: captions of the batch.
        rng: random numbers of the step and micro-batch.
    """
    captions = given.captions
    if captions is None:
        raise UsageError("a model with system.text needs data with captions; this batch has none")
    u = rng.uniform(len(captions), "caption").tolist()
    return [draw_alternative(caption, number) for caption, number in zip(captions, u, strict=True)]
