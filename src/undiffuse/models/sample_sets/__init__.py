"""Sample sets: folders of samples, written incrementally, and their records."""
