"""Generative models. The registry maps names to configuration classes, each of which builds its model."""

MODEL_CONFIGS = {
    "denoising": "undiffuse.models.denoising:DenoisingModelConfig",
    "progressive": "undiffuse.models.progressive:ProgressiveModelConfig",
    "gan": "undiffuse.models.gan:GanModelConfig",
    "wrapped": "undiffuse.models.wrapped:WrappedConfig",
}
