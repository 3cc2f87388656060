"""Recipes of models that are conditioned on captions: computed scenes of coloured shapes, emoji of three vendors."""

from __future__ import annotations

from undiffuse.conditioning.text.config import LearnedTextConfig
from undiffuse.data.config import JoinConfig, ScenesConfig, SourceConfig
from undiffuse.losses.density import TIME_DENSITIES
from undiffuse.models.options import SamplingConfig
from undiffuse.networks.config import UNetConfig
from undiffuse.recipes.parts import flow, row
from undiffuse.training.config import EMAConfig, OptimizerConfig, RunConfig

#: Guidance of the samples of a run; the share of right samples increases up to it and hardly beyond.
_GUIDANCE = 2.0


def text_scenes_16() -> RunConfig:
    """Flow matching on scenes of two things at 16x16: ten minutes on two cores."""
    data = ScenesConfig(size=16, shapes=3, sizes=False, counts=False, objects=2, validation_fraction=0.05)
    network = UNetConfig(channels=128, multipliers=(1,), num_blocks=1, patch_size=4, text_levels=(0,))
    return _captioned("text-scenes-16", data, network, num_images=100_000, batch_images=128, learning_rate=4e-3)


def text_scenes() -> RunConfig:
    """Flow matching on scenes of up to three things with sizes and counts at 32x32: two hours on one core."""
    network = UNetConfig(channels=96, multipliers=(1,), num_blocks=1, patch_size=4, text_levels=(0,))
    data = ScenesConfig(validation_fraction=0.05)
    return _captioned("text-scenes", data, network, num_images=380_000, batch_images=64, learning_rate=3e-3)


def text_emoji() -> RunConfig:
    """Flow matching on emoji of three vendors at 64x64, with their names and tags: two hours on two cores.

    A network at a quarter of the resolution, 3.5 million parameters with the text encoder. The folder has the parts
    below and ``emojibase-data``'s list of names and tags. A twentieth of the names is held out in every style. Emoji
    are not mirrored: many contain text, or differ from another in direction only.
    """
    data = JoinConfig(
        path="data/emoji",
        parts={
            "twitter": "emoji-datasource-twitter-64px.zip",
            "google": "emoji-datasource-google-64px.zip",
            "fluent": "fluentui-emoji-flat-64px.zip",
        },
        names="emojibase-en.json",
        templates=("a {part} style emoji of {name}", "a {part} style emoji of a {name}", "{part} style emoji, {tags}"),
        ignored_words=("default",),
        size=64,
        channels=3,
        validation_fraction=0.05,
    )
    network = UNetConfig(
        channels=48, multipliers=(1, 2, 2), num_blocks=1, patch_size=4, attention_levels=(), text_levels=(0, 1, 2)
    )
    text = LearnedTextConfig(width=96)
    return _captioned("text-emoji", data, network, num_images=300_000, batch_images=64, learning_rate=3e-3, text=text)


def _captioned(
    recipe: str,
    data: SourceConfig,
    network: UNetConfig,
    *,
    num_images: int,
    batch_images: int,
    learning_rate: float,
    text: LearnedTextConfig = LearnedTextConfig(),  # noqa: B008 (frozen)
) -> RunConfig:
    """Flow matching with a text encoder that is trained jointly, on a vocabulary of the words of the captions."""
    return RunConfig(
        recipe=recipe,
        data=data,
        system=flow(
            network,
            precision="bf16",
            text=text,
            label_dropout=0.1,
            time_draws="stratified",
            time_density=row(TIME_DENSITIES, "logit_normal", mean=0.3, std=1.1),
            sampling=SamplingConfig(sampler="unipc", num_steps=10, grid="uniform", guidance=_GUIDANCE),
        ),
        optimizer=OptimizerConfig(name="muon", learning_rate=learning_rate, warmup_images=6_000, decay="cosine"),
        ema=EMAConfig(halflife_images=8_000),
        num_images=num_images,
        batch_images=batch_images,
        validate_every_images=num_images // 5,
        preview_every_images=num_images // 5,
    )
