"""Study ``theory``: a model of points in the plane next to the exact truth."""
