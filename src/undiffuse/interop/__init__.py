"""Other libraries' names of weights, as data: key maps, and their application to checkpoints."""
