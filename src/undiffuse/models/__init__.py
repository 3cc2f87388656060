"""Models: what is saved, loaded, sampled and served. Rows name configuration models; each knows how to build itself."""

MODEL_CONFIGS = {
    "denoising": "undiffuse.models.denoising:DenoisingModelConfig",
    "progressive": "undiffuse.models.progressive:ProgressiveModelConfig",
    "gan": "undiffuse.models.gan:GanModelConfig",
    "wrapped": "undiffuse.models.wrapped:WrappedConfig",
}
