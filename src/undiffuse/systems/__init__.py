"""Systems: what is trained, saved and sampled from. Rows name configuration models; each knows how to build itself."""

SYSTEMS = {"diffusion": "undiffuse.systems.diffusion:DiffusionConfig"}
