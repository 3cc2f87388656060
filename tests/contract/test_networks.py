"""What every network promises, over the registry: shapes, conditions, gradients, saving, samples that do not mix."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from undiffuse.config import validate
from undiffuse.core.condition import Condition, Evaluation
from undiffuse.core.condition_spec import ConditionSpec
from undiffuse.errors import UsageError
from undiffuse.networks import NETWORK_CONFIGS, NETWORKS, MLPConfig, TransformerConfig, UNetConfig, build_network

CLASSES = 3
UNET = {"channels": 8, "multipliers": (1, 2)}
SONG = {**UNET, "multipliers": (1, 2, 2), "downsample": "residual", "upsample": "residual", "resample_filter": "fir"}
SONG |= {"resample_projection": True, "rescale_residuals": True, "up_attention": "last", "time_injection": "add"}
TRANSFORMER = {"channels": 16, "num_heads": 2, "num_blocks": 2, "patch_size": 2, "time_channels": 32}
#: Small variants of each entry: name, options, shape of one example.
CASES = [
    ("mlp", {"width": 16, "num_blocks": 2}, (2,)),
    ("mlp", {"width": 15, "time_features": "fourier", "fourier_scale": 0.016}, (2, 3, 3)),
    ("unet", UNET, (1, 8, 8)),
    ("unet", {**UNET, "patch_size": 2, "multipliers": (1, 2, 2), "num_heads": 2}, (1, 28, 28)),
    ("unet", {**UNET, "patch_size": 3, "downsample": "pool", "attention_levels": ()}, (2, 13, 7)),
    ("unet", {**UNET, "downsample": "conv_same", "upsample": "transposed", "time_injection": "add"}, (3, 9, 5)),
    ("unet", {**UNET, "downsample": "residual", "upsample": "residual", "time_features": "adm"}, (1, 7, 6)),
    ("unet", {**UNET, "middle_attention": False, "time_features": "fourier", "fourier_scale": 0.016}, (1, 3, 28)),
    ("unet", {**SONG, "progressive_input": "residual", "fourier_scale": 0.16, "time_features": "fourier"}, (3, 7, 9)),
    ("unet", {**SONG, "progressive_input": "input_skip", "progressive_output": "output_skip"}, (2, 8, 5)),
    ("unet", {**SONG, "progressive_input": "input_skip", "progressive_combine": "cat", "num_blocks": 1}, (1, 6, 6)),
    ("unet", {**SONG, "progressive_output": "residual", "patch_size": 2}, (1, 9, 14)),
    ("transformer", TRANSFORMER, (1, 8, 8)),
    ("transformer", {**TRANSFORMER, "patch_size": 3, "channels": 18, "long_skips": True}, (2, 7, 10)),
    ("transformer", {**TRANSFORMER, "conditioning": "tokens", "long_skips": True, "num_blocks": 3}, (3, 5, 4)),
    ("transformer", {**TRANSFORMER, "conditioning": "tokens", "output_convolution": True}, (3, 4, 6)),
]
each_case = pytest.mark.parametrize(
    ("name", "options", "shape"), CASES, ids=[f"{name}-{index}" for index, (name, *_) in enumerate(CASES)]
)


def make(
    name: str, options: dict[str, object], shape: tuple[int, ...], *, factor: int = 1, trained: bool = True
) -> nn.Module:
    """A network, by default with every weight moved a little, as training would."""
    torch.manual_seed(0)
    network = build_network(
        validate(NETWORK_CONFIGS[name], {"name": name, **options}), shape, ConditionSpec.of_classes(CLASSES), factor
    )
    if trained:
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def inputs(shape: tuple[int, ...], batch: int = 4) -> tuple[Tensor, Tensor, Condition]:
    generator = torch.Generator().manual_seed(1)
    label = torch.arange(batch) % (CLASSES + 1) - 1
    x = torch.randn(batch, *shape, generator=generator)
    return x, 1000 * torch.rand(batch, generator=generator), Condition(label=label)


def test_every_entry_has_a_config_and_a_case() -> None:
    assert set(NETWORKS) == set(NETWORK_CONFIGS) == {name for name, *_ in CASES}


@each_case
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("batch", [0, 1, 4])
def test_shape_and_dtype(
    name: str, options: dict[str, object], shape: tuple[int, ...], factor: int, batch: int
) -> None:
    network = make(name, options, shape, factor=factor)
    expected = (batch, factor * shape[0], *shape[1:])
    x, c_noise, cond = inputs(shape, batch)
    out = network(x, c_noise, cond)
    assert out.shape == expected and out.dtype == torch.float32
    wide = network.double()(x.double(), c_noise.double(), cond)
    assert wide.shape == expected and wide.dtype == torch.float64
    assert batch == 0 or torch.allclose(wide.float(), out, atol=1e-3)


@each_case
def test_starts_at_zero_and_from_the_global_seed(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    first, second = (make(name, options, shape, trained=False).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not make(name, options, shape, trained=False)(*inputs(shape)).any()


@each_case
def test_class_and_time_reach_the_output(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    network = make(name, options, shape)
    x, c_noise, _ = inputs(shape, 1)
    x, c_noise = x.expand(CLASSES + 1, *shape), c_noise.expand(CLASSES + 1)
    labels = Condition(label=torch.arange(-1, CLASSES))
    out = network(x, c_noise, labels).flatten(1)
    distances = torch.cdist(out, out) + torch.eye(CLASSES + 1)
    assert distances.min() > 1e-4
    assert (network(x, c_noise + 30, labels).flatten(1) - out).abs().amax(dim=1).min() > 1e-4
    assert torch.allclose(network(x, c_noise, Condition()).flatten(1)[0], out[0], atol=1e-6), "no label means -1"


@each_case
def test_a_network_given_a_target_time_begins_as_one_that_is_not(
    name: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    plain, (x, c_noise, cond) = make(name, options, shape), inputs(shape)
    torch.manual_seed(0)
    given = build_network(
        validate(NETWORK_CONFIGS[name], {"name": name, **options}),
        shape,
        ConditionSpec.of_classes(CLASSES, target_time=True),
    )
    fresh = make(name, options, shape, trained=False).state_dict()
    new = set(given.state_dict()) - set(fresh)
    assert len(new) == 1 and all(torch.equal(given.state_dict()[key], fresh[key]) for key in fresh)
    assert not given.load_state_dict(plain.state_dict(), strict=False).unexpected_keys
    given.eval()
    far, same = (Evaluation(target_time=time) for time in (torch.zeros_like(c_noise), c_noise))
    assert torch.equal(given(x, c_noise, cond, far), plain(x, c_noise, cond))
    nn.init.normal_(given.state_dict()[new.pop()])
    assert torch.equal(given(x, c_noise, cond, same), given(x, c_noise, cond)), "none is no gap"
    assert (given(x, c_noise, cond, far) - given(x, c_noise, cond)).flatten(1).abs().amax(1).min() > 1e-5
    assert torch.equal(plain(x, c_noise, cond, far), plain(x, c_noise, cond))


@each_case
def test_a_network_without_classes_ignores_labels(
    name: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    network = build_network(validate(NETWORK_CONFIGS[name], {"name": name, **options}), shape)
    nn.init.ones_(network.head.weight)
    x, c_noise, cond = inputs(shape)
    assert torch.equal(network(x, c_noise, cond), network(x, c_noise, Condition()))


@each_case
@pytest.mark.parametrize("autocast", [False, True])
def test_gradient_reaches_every_parameter(
    name: str, options: dict[str, object], shape: tuple[int, ...], autocast: bool
) -> None:
    network = make(name, options, shape).train()
    x, c_noise, cond = inputs(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        out = network(x, c_noise, cond)
    (out * torch.randn_like(out)).sum().backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), key
        assert parameter.grad.any(), key


@each_case
def test_bfloat16_autocast_stays_close(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    network = make(name, options, shape)
    arguments = inputs(shape)
    exact = network(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = network(*arguments)
    assert rounded.dtype == torch.float32
    assert (rounded - exact).square().mean() < 0.05**2 * exact.square().mean()


@each_case
def test_samples_do_not_mix(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    network = make(name, options, shape).double()
    x, c_noise, cond = inputs(shape)
    x, c_noise = x.double(), c_noise.double()
    together = network(x, c_noise, cond)
    for i in range(len(x)):
        part = slice(i, i + 1)
        alone = network(x[part], c_noise[part], cond.select(part))
        assert torch.allclose(alone, together[part], atol=1e-9)


@each_case
def test_state_dict_round_trip(name: str, options: dict[str, object], shape: tuple[int, ...], tmp_path) -> None:
    network, twin = make(name, options, shape), make(name, options, shape, trained=False)
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    twin.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(network(*inputs(shape)), twin(*inputs(shape)))


@each_case
def test_config_round_trip(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    model = NETWORK_CONFIGS[name]
    config = validate(model, {"name": name, **options})
    assert model.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (5, 1), (28, 28), (31, 17)])
@pytest.mark.parametrize("patch_size", [1, 2, 4])
def test_a_unet_serves_any_size(size: tuple[int, int], patch_size: int) -> None:
    network = make("unet", {"channels": 4, "multipliers": (1,), "patch_size": patch_size}, (1, *size))
    assert network(*inputs((1, *size), 1)).shape == (1, 1, *size)


def test_dropout_is_random_in_training_only() -> None:
    network = make("unet", {**UNET, "dropout": 0.5}, (1, 8, 8))
    arguments = inputs((1, 8, 8))
    assert torch.equal(network(*arguments), network(*arguments))
    network.train()
    torch.manual_seed(0)
    first, second = network(*arguments), network(*arguments)
    torch.manual_seed(0)
    assert not torch.equal(first, second) and torch.equal(first, network(*arguments))


REJECTED = [
    ({**UNET, "multipliers": (1, 1, 1, 1, 1)}, (1, 8, 8), "5 levels are too many for 8 x 8 pixels"),
    ({**UNET, "multipliers": (1, 1, 1, 1), "patch_size": 2}, (1, 8, 8), "at most 3"),
    (UNET, (2,), "takes images"),
    ({**UNET, "attention_levels": (2,)}, (1, 8, 8), "levels 0 to 1"),
    ({**UNET, "num_heads": 3}, (1, 8, 8), "num_heads=3 does not divide"),
    ({**UNET, "head_channels": 5}, (1, 8, 8), "head_channels=5 does not divide"),
    ({**UNET, "time_features": "fourier"}, (1, 8, 8), "need a scale"),
    ({**UNET, "fourier_scale": 1.0}, (1, 8, 8), "take none"),
    ({**UNET, "resample_filter": "fir"}, (1, 8, 8), "are for system.network.downsample=residual"),
    ({**UNET, "resample_projection": True}, (1, 8, 8), "are for system.network.downsample=residual"),
    ({**UNET, "progressive_output": "residual"}, (1, 8, 8), "needs system.network.resample_filter=fir"),
    ({**SONG, "progressive_combine": "cat"}, (1, 8, 8), "is for system.network.progressive_input=input_skip"),
    ({**UNET, "channels": 0}, (1, 8, 8), "channels"),
    ({**UNET, "multipliers": ()}, (1, 8, 8), "multipliers"),
    ({**UNET, "chanels": 8}, (1, 8, 8), "did you mean 'channels'"),
]


@pytest.mark.parametrize(("options", "shape", "message"), REJECTED)
def test_senseless_options_are_rejected(options: dict[str, object], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build_network(validate(UNetConfig, {"name": "unet", **options}), shape)
    assert "\n" not in str(caught.value)


def test_senseless_transformers_are_rejected() -> None:
    with pytest.raises(UsageError, match="num_heads=3 does not divide channels=16"):
        TransformerConfig.dit_s(channels=16, num_heads=3)
    with pytest.raises(UsageError, match="use network 'mlp'"):
        build_network(TransformerConfig(), (2,))


def test_adm_is_defined_for_its_sizes_only() -> None:
    with pytest.raises(UsageError, match="64, 128, 256, 512; got 28"):
        UNetConfig.adm(28)
    assert UNetConfig.adm(64).attention_levels == (1, 2, 3)
    assert UNetConfig.adm(256).attention_levels == (3, 4, 5)


def test_presets_take_overrides_and_reject_wrong_ones() -> None:
    assert UNetConfig.ho_cifar10(dropout=0.3).dropout == 0.3
    with pytest.raises(UsageError, match="did you mean 'dropout'"):
        UNetConfig.ho_cifar10(dropuot=0.3)


def test_group_norm_sums_in_float32_under_autocast() -> None:
    from undiffuse.networks.layers import group_norm

    norm, x = group_norm(32, 32, 1e-6), (torch.randn(2, 32, 64, 64) + 5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = norm(x)
    assert rounded.dtype == torch.bfloat16, "no cast to float32 and back on the way"
    assert torch.allclose(rounded.float(), norm(x.float()), rtol=2**-8, atol=1e-3)


COMPILED = {"mlp": 0, "unet": 2, "ncsnpp": 8, "pyramids": 9, "dit": 12, "uvit": 14}
#: Half a minute of compiling each.
SLOW_TO_COMPILE = ("unet", "ncsnpp", "pyramids", "uvit")  # test_fused_norm.py traces a small U-Net whole


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        pytest.param(*CASES[index], id=key, marks=[pytest.mark.slow] if key in SLOW_TO_COMPILE else [])
        for key, index in COMPILED.items()
    ],
)
def test_compiles_into_one_graph(name: str, options: dict[str, object], shape: tuple[int, ...]) -> None:
    network = make(name, options, shape)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    with torch.no_grad():
        assert torch.allclose(compiled(*inputs(shape)), network(*inputs(shape)), atol=1e-5)


def test_norm_groups_divide_and_leave_four_channels() -> None:
    from undiffuse.networks.layers import num_groups

    assert [num_groups(channels) for channels in (128, 96, 32, 17, 3, 1)] == [32, 24, 8, 1, 1, 1]


def test_fold_is_what_torch_calls_pixel_unshuffle() -> None:
    from undiffuse.networks.layers import fold, unfold

    x = torch.randn(2, 3, 6, 9)
    assert torch.equal(fold(x, 3), nn.functional.pixel_unshuffle(x, 3))
    assert torch.equal(unfold(fold(x, 3), 3), x)
    assert torch.equal(unfold(fold(x, 4), 4)[:, :, :6, :9], x)


def test_configs_need_no_torch() -> None:
    code = "import sys, undiffuse.networks; assert 'torch' not in sys.modules; undiffuse.networks.MLPConfig()"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert MLPConfig().name == "mlp"


@each_case
def test_features_are_pooled_per_sample_and_need_no_output_layers(
    name: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    whole, encoder = (make(name, options, shape, factor=factor).double() for factor in (1, 0))
    x, c_noise, cond = inputs(shape)
    x, c_noise = x.double().requires_grad_(), c_noise.double()
    assert encoder.state_dict().keys() < whole.state_dict().keys()
    encoder.load_state_dict({name: whole.state_dict()[name] for name in encoder.state_dict()})
    features = encoder.features(x, c_noise, cond)  # type: ignore[operator]
    assert features.shape == (4, encoder.num_features) and features.dtype == torch.float64
    (slope,) = torch.autograd.grad(features[1].square().sum(), x)
    assert bool(slope[1].abs().max() > 0) and not bool(slope[[0, 2, 3]].any())
    assert torch.equal(whole.features(x, c_noise, cond), features)  # type: ignore[operator]
    with pytest.raises(AttributeError):
        encoder(x, c_noise, cond)
