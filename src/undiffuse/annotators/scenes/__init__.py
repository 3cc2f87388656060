"""Computed scenes of coloured shapes: their vocabulary, captions and shapes, and an exact checker of images."""
