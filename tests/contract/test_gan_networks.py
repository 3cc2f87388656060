"""What every generator and discriminator promises, over the registries: shapes, classes, gradients, lone samples."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from undiffuse.config import validate
from undiffuse.core.condition import Condition
from undiffuse.errors import UsageError
from undiffuse.networks.gan import (
    DISCRIMINATOR_CONFIGS,
    DISCRIMINATORS,
    GENERATOR_CONFIGS,
    GENERATORS,
    build_discriminator,
    build_generator,
)

CLASSES, LATENT = 3, 8
SMALL = {"channels": 4, "max_channels": 8}
MODERN = {**SMALL, "num_blocks": 1, "group_size": 4, "class_channels": 8}
POINTS = {"width": 12}
GENERATOR_CASES = [
    ("dcgan", SMALL, (1, 28, 28)),
    ("dcgan", {**SMALL, "norm_momentum": 0.5}, (3, 9, 13)),
    ("residual", SMALL, (3, 16, 16)),
    ("residual", {**SMALL, "spectral": True}, (1, 10, 28)),
    ("r3gan", MODERN, (1, 28, 28)),
    ("r3gan", {**MODERN, "num_blocks": 2, "expansion": 3}, (2, 11, 8)),
    ("mlp", POINTS, (2,)),
    ("mlp", {**POINTS, "num_layers": 1, "gain": 1.0}, (2, 3, 3)),
]
DISCRIMINATOR_CASES = [
    ("dcgan", {**SMALL, "norm": "none"}, (1, 28, 28)),
    ("dcgan", {**SMALL, "norm": "batch"}, (3, 16, 16)),
    ("dcgan", {**SMALL, "norm": "layer", "leak": 0.1}, (3, 9, 13)),
    ("dcgan", {**SMALL, "norm": "spectral"}, (1, 8, 8)),
    ("residual", SMALL, (3, 16, 16)),
    ("residual", {**SMALL, "norm": "none"}, (1, 11, 28)),
    ("r3gan", MODERN, (1, 28, 28)),
    ("r3gan", {**MODERN, "num_blocks": 2}, (2, 11, 8)),
    ("mlp", POINTS, (2,)),
    ("mlp", {**POINTS, "num_layers": 2}, (2, 3, 3)),
]
each_generator = pytest.mark.parametrize(("name", "options", "shape"), GENERATOR_CASES)
each_discriminator = pytest.mark.parametrize(("name", "options", "shape"), DISCRIMINATOR_CASES)
Options = dict[str, object]
Shape = tuple[int, ...]


def generator_of(name: str, options: Options, shape: Shape, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    config = validate(GENERATOR_CONFIGS[name], {"name": name, **options})
    return moved(build_generator(config, shape, LATENT, classes))


def discriminator_of(name: str, options: Options, shape: Shape, classes: int = CLASSES) -> nn.Module:
    torch.manual_seed(0)
    config = validate(DISCRIMINATOR_CONFIGS[name], {"name": name, **options})
    return moved(build_discriminator(config, shape, classes))


def moved(network: nn.Module) -> nn.Module:
    """Every weight moved a little, as training would."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return network.eval()


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def labels(count: int) -> Condition:
    return Condition(label=torch.arange(count) % (CLASSES + 1) - 1)


def test_every_entry_has_a_config_and_a_case() -> None:
    assert set(GENERATORS) == set(GENERATOR_CONFIGS) == {name for name, *_ in GENERATOR_CASES}
    assert set(DISCRIMINATORS) == set(DISCRIMINATOR_CONFIGS) == {name for name, *_ in DISCRIMINATOR_CASES}


@each_generator
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_shape_and_dtype_of_generators(name: str, options: Options, shape: Shape, batch: int) -> None:
    network, z = generator_of(name, options, shape), normal(batch, LATENT)
    out = network(z, labels(batch))
    assert out.shape == (batch, *shape) and out.dtype == torch.float32
    wide = network.double()(z.double(), labels(batch))
    assert wide.dtype == torch.float64 and torch.allclose(wide.float(), out, atol=1e-4)
    if name in ("dcgan", "residual"):
        assert bool((out.abs() <= 1).all())


@each_discriminator
@pytest.mark.parametrize("batch", [0, 1, 5])
def test_shape_and_dtype_of_discriminators(name: str, options: Options, shape: Shape, batch: int) -> None:
    network, x = discriminator_of(name, options, shape), normal(batch, *shape)
    out = network(x, labels(batch))
    assert out.shape == (batch,) and out.dtype == torch.float32
    wide = network.double()(x.double(), labels(batch))
    assert wide.dtype == torch.float64 and torch.allclose(wide.float(), out, atol=1e-3)


@pytest.mark.parametrize("name", ["dcgan", "residual", "r3gan"])
@pytest.mark.parametrize("side", [8, 12, 27, 28, 32, 48, 64, 96, 128])
def test_images_of_8_to_128_pixels(name: str, side: int) -> None:
    options = MODERN if name == "r3gan" else SMALL
    shape = (3, side, side)
    images = generator_of(name, options, shape, 0)(normal(1, LATENT), Condition())
    assert images.shape == (1, *shape)
    logits = discriminator_of(name, options, shape, 0)(images, Condition())
    assert logits.shape == (1,) and bool(torch.isfinite(logits).all())


@pytest.mark.parametrize("name", ["dcgan", "residual", "r3gan"])
def test_points_and_tiny_images_are_rejected(name: str) -> None:
    options = MODERN if name == "r3gan" else SMALL
    for shape in ((2,), (1, 7, 28)):
        with pytest.raises(UsageError, match="at least 8 x 8"):
            generator_of(name, options, shape)
        with pytest.raises(UsageError, match="at least 8 x 8"):
            discriminator_of(name, options, shape)


@each_generator
def test_the_class_reaches_the_sample(name: str, options: Options, shape: Shape) -> None:
    network, z = generator_of(name, options, shape), normal(1, LATENT).expand(CLASSES + 1, LATENT)
    out = network(z, labels(CLASSES + 1)).flatten(1)
    assert (torch.cdist(out, out) + torch.eye(CLASSES + 1)).min() > 1e-4
    assert torch.allclose(network(z, Condition()).flatten(1)[0], out[0], atol=1e-6), "no label means -1"


@each_discriminator
def test_the_class_reaches_the_logits(name: str, options: Options, shape: Shape) -> None:
    network, x = discriminator_of(name, options, shape), normal(1, *shape).expand(CLASSES + 1, *shape)
    out = network(x, labels(CLASSES + 1))
    assert len(out.unique()) == CLASSES + 1
    assert torch.allclose(network(x, Condition())[0], out[0], atol=1e-6), "no label means -1"


@each_generator
def test_without_classes_labels_are_ignored(name: str, options: Options, shape: Shape) -> None:
    generator, z = generator_of(name, options, shape, 0), normal(4, LATENT)
    assert torch.equal(generator(z, labels(4)), generator(z, Condition()))


@each_generator
def test_a_sample_does_not_depend_on_its_neighbours(name: str, options: Options, shape: Shape) -> None:
    # a whole block: the system pads to 16 samples, since BLAS may treat the last few another way
    network, z = generator_of(name, options, shape), normal(16, LATENT)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(network(z, labels(16))[order], network(z[order], labels(16).select(order)))


@each_discriminator
def test_a_gradient_penalty_reaches_the_weights(name: str, options: Options, shape: Shape) -> None:
    network = discriminator_of(name, options, shape)
    x = normal(4, *shape).requires_grad_()
    (slope,) = torch.autograd.grad(network(x, labels(4)).sum(), x, create_graph=True)
    slope.square().sum().backward()
    weights = [p for n, p in network.named_parameters() if p.ndim > 1 and "classes" not in n]
    assert all(p.grad is not None and bool(p.grad.any()) for p in weights)


@each_generator
def test_a_gradient_reaches_every_weight_of_a_generator(name: str, options: Options, shape: Shape) -> None:
    network = generator_of(name, options, shape).train()
    network(normal(4, LATENT), labels(4)).square().sum().backward()
    stuck = [n for n, p in network.named_parameters() if p.grad is None or not bool(p.grad.any())]
    # a bias right before a batch norm changes nothing, and gradients there are rounding
    assert not [n for n in stuck if not n.endswith("bias")]


def test_blocks_of_r3gan_start_as_the_identity() -> None:
    torch.manual_seed(0)
    config = validate(DISCRIMINATOR_CONFIGS["r3gan"], {"name": "r3gan", **MODERN})
    network = build_discriminator(config, (1, 16, 16))
    h = normal(2, 4, 8, 8)
    assert torch.equal(network.levels[0](h), h)  # type: ignore[index, operator]


def test_configurations_import_no_torch() -> None:
    code = "import sys, undiffuse.networks.gan, undiffuse.networks.gan.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
