"""Text conditioning: prompts, vocabularies, the encoder, and the networks that attend to its tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from undiffuse.conditioning.prompt import Prompt
from undiffuse.conditioning.prompt_syntax import parse_prompt
from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.conditioning.text.learned import LearnedTextEncoder
from undiffuse.conditioning.text.vocabulary import UNKNOWN, build_vocabulary, fit_vocabulary
from undiffuse.conditioning.texts import TextConditioner
from undiffuse.conditioning.wildcards import MOST_PROMPTS, escape, expand
from undiffuse.core.condition import Condition
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.errors import UsageError
from undiffuse.models.denoising import DenoisingModelConfig, NetworkModel
from undiffuse.models.request import SampleRequest
from undiffuse.networks import build_network
from undiffuse.networks.config import TransformerConfig, UNetConfig

CAPTIONS = ("a red circle above a blue square", "a blue circle left of a red triangle", "a red square")
CONFIG = LearnedTextConfig(width=16, num_layers=1, num_heads=2).fitted(CAPTIONS)
NETWORKS = {
    "unet": UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, query_key_norm=True),
    "unet_transformer": UNetConfig(channels=8, multipliers=(1, 2), num_blocks=1, text_block="transformer"),
    "adaln": TransformerConfig(channels=16, num_heads=2, num_blocks=2),
    "tokens": TransformerConfig(channels=16, num_heads=2, num_blocks=2, conditioning="tokens"),
    "joint": TransformerConfig(channels=16, num_heads=2, num_blocks=2, conditioning="joint", query_key_norm=True),
}


def encoder(**options: Any) -> LearnedTextEncoder:
    torch.manual_seed(0)
    return LearnedTextEncoder(CONFIG.model_copy(update=options))


def model(network: str = "unet", **options: Any) -> NetworkModel:
    """A model with text whose weights are all random, so that every path has an effect."""
    torch.manual_seed(0)
    built = NetworkModel(DenoisingModelConfig(network=NETWORKS[network], text=CONFIG, **options), (1, 8, 8), ())
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return built.eval()


def sample(model: NetworkModel, prompts: list[Prompt], seeds: list[int], **options: Any) -> Tensor:
    x: Tensor = model.sample(SampleRequest.of(seeds, prompts=prompts, sampler="heun", steps=2, **options)).x
    return x


@pytest.mark.parametrize(
    ("prompt", "texts", "weights"),
    [
        ("", [""], [1.0]),
        ("a (red:1.3) circle", ["a red circle"], [1.0]),
        ("a circle AND a square :0.5", ["a circle", "a square"], [1.0, 0.5]),
        ("(dark) \\(red:1.3\\)", ["(dark) (red:1.3)"], [1.0]),
    ],
)
def test_syntax_of_prompts(prompt: str, texts: list[str], weights: list[float]) -> None:
    terms = parse_prompt(prompt)
    assert [term.text.text for term in terms] == texts and [term.weight for term in terms] == weights


def test_nested_weights_multiply() -> None:
    text = parse_prompt("((a red:2) circle:1.5) on white")[0].text
    assert text.text == "a red circle on white"
    assert [text.weight_of(span) for span in ((0, 1), (2, 5), (6, 12), (13, 15))] == [3.0, 3.0, 1.5, 1.0]


@pytest.mark.parametrize(
    ("prompt", "part"),
    [
        ("a (red:1.3 circle", "unbalanced"),
        ("a red:1.3) circle", "unbalanced"),
        ("a AND ", "both sides"),
        ("(red:1e9)", "unbalanced|from 0"),
        ("(red:1000)", "from 0 to 100"),
    ],
)
def test_errors_of_prompts(prompt: str, part: str) -> None:
    if prompt == "(red:1e9)":
        assert parse_prompt(prompt)[0].text.text == prompt  # not a weight
        return
    with pytest.raises(UsageError, match=part):
        parse_prompt(prompt)


def test_alternatives_are_expanded() -> None:
    assert expand("a {red|blue} {circle|ring}") == ["a red circle", "a red ring", "a blue circle", "a blue ring"]
    assert expand("a {small |}ring") == ["a small ring", "a ring"] and expand("{x} | y") == ["{x} | y"]
    for text in ("a {red|blue}", "{|}", "a \\(b\\)", "plain"):
        assert expand(escape(text)) == [text]


@pytest.mark.parametrize("template", ["a {red|blue", "{a|{b|c}}", "{a|b}" * 14])
def test_errors_of_alternatives(template: str) -> None:
    with pytest.raises(UsageError, match=f"without an end|at most {MOST_PROMPTS:,}"):
        expand(template)


@pytest.mark.parametrize("kind", ["words", "bytes", "bpe"])
def test_a_vocabulary_encodes_its_captions(kind: str) -> None:
    entries = fit_vocabulary(kind, CAPTIONS, 20)
    vocabulary = build_vocabulary(kind, entries)
    for caption in CAPTIONS:
        ids, spans = vocabulary.encode(caption)
        assert UNKNOWN not in ids and max(ids) < vocabulary.size
        assert "".join(caption[slice(*span)] for span in spans).replace(" ", "") == caption.replace(" ", "")
    assert vocabulary.unknown("a red zebra") == (["zebra"] if kind == "words" else [])


def test_words_ignore_case_and_keep_punctuation_apart() -> None:
    vocabulary = build_vocabulary("words", ("red", ","))
    assert vocabulary.encode("RED, red").ids == vocabulary.encode("red , Red").ids


def test_length_is_that_of_the_longest_caption() -> None:
    assert CONFIG.length == 16 and LearnedTextConfig().fitted(["one two"]).length == 8
    assert LearnedTextConfig().fitted(["word " * 500]).length == 128


def test_features_do_not_depend_on_the_other_texts() -> None:
    texts = [*CAPTIONS, "", "red", *(f"a {word}" for word in ("circle", "square", "triangle") * 8)]
    together = encoder().encode_in_blocks(texts)
    for row, text in enumerate(texts[:6]):
        alone = encoder().encode_in_blocks([text])
        assert torch.equal(alone.tokens[0], together.tokens[row]) and torch.equal(alone.pooled[0], together.pooled[row])
        assert torch.equal(alone.mask[0], together.mask[row])
    assert not together.mask[3].any() and not together.pooled[3].any()


def test_order_of_words_changes_the_features() -> None:
    one, other = encoder().encode_in_blocks(["red above blue", "blue above red"]).tokens
    assert (one - other).abs().max() > 0.1


def test_what_does_not_fit_is_named() -> None:
    short = encoder(length=4)
    assert short.tokenize("a red circle above a square").truncated == "above a square"
    conditioner = TextConditioner(ConditionSpec(text=CONFIG.model_copy(update={"length": 4}).spec), short)
    messages = conditioner.check_prompts([Prompt(text="a red circle above a zebra")])
    assert any("'above a zebra'" in message for message in messages) and any("'zebra'" in text for text in messages)


@pytest.mark.parametrize("network", NETWORKS)
def test_mixed_prompts_give_the_images_of_each_alone(network: str) -> None:
    both = Prompt(text="a red circle AND a (blue:1.5) square :0.7", negative=Prompt(text="red"))
    prompts = [Prompt(text=CAPTIONS[0]), both, Prompt(), Prompt(text="")]
    given = model(network)
    together = sample(given, prompts, [1, 2, 3, 4], guidance=2.0)
    for row, prompt in enumerate(prompts):
        assert torch.equal(sample(given, [prompt], [row + 1], guidance=2.0)[0], together[row])
    assert not torch.equal(together[2], sample(given, [Prompt(text="red")], [3], guidance=2.0)[0])


@pytest.mark.parametrize("network", ["unet", "unet_transformer", "adaln"])
def test_at_first_text_changes_nothing(network: str) -> None:
    """Zero-initialised cross-attention: the output is that of the same network without text, bit for bit."""
    given: Any = NETWORKS[network].model_copy(update={"query_key_norm": False})
    spec = ConditionSpec(text=CONFIG.model_copy(update={"use": "tokens"}).spec)
    torch.manual_seed(0)
    with_text = build_network(given, (1, 8, 8), spec)
    torch.manual_seed(0)
    without = build_network(given, (1, 8, 8), ConditionSpec())
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    features = encoder().encode_in_blocks(CAPTIONS)
    conditioned = with_text(x, t, Condition(tokens=features.tokens, token_mask=features.mask))
    assert torch.equal(conditioned, without(x, t, Condition()))


@pytest.mark.parametrize("network", NETWORKS)
def test_masked_tokens_have_no_effect(network: str) -> None:
    given = model(network)
    features = encoder().encode_in_blocks(CAPTIONS)
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3)
    outputs = []
    for filling in (0.0, 7.0):
        tokens = torch.where(features.mask[..., None], features.tokens, filling)
        outputs.append(given.network(x, t, Condition(tokens=tokens, token_mask=features.mask, pooled=features.pooled)))
    torch.testing.assert_close(outputs[0], outputs[1])


@pytest.mark.parametrize("network", NETWORKS)
def test_all_text_parameters_are_trained(network: str) -> None:
    given = model(network)
    features = given.conditioner.encoder.encode(CAPTIONS)  # type: ignore[attr-defined]
    condition = Condition(tokens=features.tokens, token_mask=features.mask, pooled=features.pooled)
    given.network(torch.randn(3, 1, 8, 8), torch.rand(3), condition).square().sum().backward()
    lacking = [name for name, parameter in given.named_parameters() if parameter.grad is None]
    assert not lacking


def test_dropped_captions_are_the_null_condition() -> None:
    conditioner = TextConditioner(ConditionSpec(text=CONFIG.spec), encoder(), dropout=1.0)
    encoded = conditioner.encode_prompts([Prompt(text="a red circle"), Prompt()])
    assert not encoded.negative.token_mask.any()  # type: ignore[union-attr]
    condition, _ = encoded.terms[0]
    assert condition.token_mask is not None and condition.token_mask.any(1).tolist() == [True, False]
    dropped = condition.drop(torch.tensor([True, True]), conditioner.policy)
    assert dropped.token_mask is not None and not dropped.token_mask.any()


@pytest.mark.parametrize("text", ["red", ""])
def test_bf16_masks_work_on_a_cpu(text: str) -> None:
    given = model("unet", precision="bf16")
    assert sample(given, [Prompt(text=text)], [0]).isfinite().all()


def test_a_negative_prompt_is_one_text() -> None:
    with pytest.raises(UsageError, match="cannot be composed with AND"):
        sample(model(), [Prompt(text="a", negative=Prompt(text="b AND c"))], [0])
