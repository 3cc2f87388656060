"""What is saved, loaded, sampled and served. Nothing is imported here: ``options`` is read without torch."""
