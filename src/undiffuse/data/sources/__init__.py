"""Data sources, one module each with ``load(config) -> Dataset``; imported lazily when a source is first used."""
