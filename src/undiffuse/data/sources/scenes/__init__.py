"""Computed scenes of coloured shapes with captions: words, layout, rendering, annotations and prompts."""
