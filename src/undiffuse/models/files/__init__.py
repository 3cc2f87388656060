"""Files of a model: what ``config.json`` says, weights with their checksums, parts, models from elsewhere."""
