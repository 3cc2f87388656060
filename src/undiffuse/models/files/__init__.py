"""Files of a model: ``config.json``, weights with checksums, frozen parts, and wrapped external denoisers."""
