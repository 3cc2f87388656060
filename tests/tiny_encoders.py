"""Tiny text encoders with random weights in the layout of Hugging Face, each with a tokenizer of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

WORDS = ["a", "red", "blue", "green", "circle", "square", "above", "left", "of", "the", "two", "small", "big"]


def write_bert(folder: Path, width: int = 32, seed: int = 0, inner: int = 64) -> Path:
    """A BERT of two layers that knows ``WORDS``."""
    from transformers import BertConfig, BertModel

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    tokenizer = Tokenizer(models.WordPiece({word: id for id, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    around = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=around)
    names = ("unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
    special = dict(zip(names, ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]"), strict=True))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=inner,
        max_position_embeddings=40,
    )
    _write(folder, seed, lambda: BertModel(config), {"tokenizer_class": "BertTokenizer", **special})
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    return folder


def write_t5(folder: Path, width: int = 32, seed: int = 0) -> Path:
    """The encoder of a T5 of two layers, with pieces of ``WORDS`` and letters."""
    from transformers import T5Config, T5EncoderModel

    words = [(f"▁{word}", -2 - number / 100) for number, word in enumerate(WORDS)]
    letters = [(letter, -6.0) for letter in "abcdefghijklmnopqrstuvwxyz"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), *words, *letters]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    config = T5Config(vocab_size=len(pieces), d_model=width, d_kv=16, d_ff=2 * width, num_layers=2, num_heads=2)
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>", "extra_ids": 0}
    _write(folder, seed, lambda: T5EncoderModel(config), {"tokenizer_class": "T5Tokenizer", **special})
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_clip(folder: Path, width: int = 32, seed: int = 0) -> Path:
    """The text encoder of a CLIP of two layers with 24 positions; its tokens are letters, and "red"."""
    from transformers import CLIPTextConfig, CLIPTextModel

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    ends = [f"{letter}</w>" for letter in letters]
    vocabulary = [*letters, *ends, "re", "red</w>", "<|startoftext|>", "<|endoftext|>"]
    count = len(vocabulary)
    config = CLIPTextConfig(
        vocab_size=count,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=count - 2,
        eos_token_id=count - 1,
    )
    end = "<|endoftext|>"
    special = {"bos_token": "<|startoftext|>", "unk_token": end, "eos_token": end, "pad_token": end}
    _write(folder, seed, lambda: CLIPTextModel(config), {"tokenizer_class": "CLIPTokenizer", **special})
    (folder / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    return folder


def _write(folder: Path, seed: int, build: Callable[[], Any], tokenizer: dict[str, Any]) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        build().save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
