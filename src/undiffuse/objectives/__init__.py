"""Objectives: what is trained. Rows name configuration models; each knows how to build itself around a model."""

OBJECTIVE_CONFIGS = {
    "diffusion": "undiffuse.objectives.diffusion:DiffusionConfig",
    "gan": "undiffuse.objectives.gan:GanConfig",
    "consistency": "undiffuse.objectives.consistency:ConsistencyConfig",
    "mean_flow": "undiffuse.objectives.mean_flow:MeanFlowConfig",
    "progressive": "undiffuse.objectives.progressive:ProgressiveConfig",
    "distribution_matching": "undiffuse.objectives.distribution_matching:DistributionMatchingConfig",
}
