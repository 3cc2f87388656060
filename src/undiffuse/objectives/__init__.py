"""Training objectives. The registry maps names to configuration classes, each of which builds its objective."""

OBJECTIVE_CONFIGS = {
    "diffusion": "undiffuse.objectives.diffusion:DiffusionConfig",
    "gan": "undiffuse.objectives.gan:GanConfig",
    "consistency": "undiffuse.objectives.consistency:ConsistencyConfig",
    "mean_flow": "undiffuse.objectives.mean_flow:MeanFlowConfig",
    "progressive": "undiffuse.objectives.progressive:ProgressiveConfig",
    "classifier": "undiffuse.objectives.classifier:ClassifierConfig",
    "contrastive": "undiffuse.objectives.contrastive:ContrastiveConfig",
    "distribution_matching": "undiffuse.objectives.distribution_matching:DistributionMatchingConfig",
}
