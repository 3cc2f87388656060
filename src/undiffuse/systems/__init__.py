"""Systems: what is trained, saved and sampled from. Rows name configuration models; each knows how to build itself."""

SYSTEMS = {
    "diffusion": "undiffuse.systems.diffusion:DiffusionConfig",
    "gan": "undiffuse.systems.gan:GanConfig",
    "consistency": "undiffuse.systems.consistency:ConsistencyConfig",
    "mean_flow": "undiffuse.systems.mean_flow:MeanFlowConfig",
    "progressive": "undiffuse.systems.progressive:ProgressiveConfig",
    "wrapped": "undiffuse.systems.wrapped:WrappedConfig",
    "distribution_matching": "undiffuse.systems.distribution_matching:DistributionMatchingConfig",
}
