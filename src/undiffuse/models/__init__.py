"""Generative models. The registry maps names to configuration classes, each of which builds its model."""

MODEL_CONFIGS = {
    "denoising": "undiffuse.models.denoising:DenoisingModelConfig",
    "progressive": "undiffuse.models.progressive:ProgressiveModelConfig",
    "gan": "undiffuse.models.gan:GanModelConfig",
    "classifier": "undiffuse.models.classifier:ClassifierModelConfig",
    "contrastive": "undiffuse.models.guides.contrastive:ContrastiveModelConfig",
    "wrapped": "undiffuse.models.wrapped:WrappedConfig",
}
