"""Study ``theory``: a model of points in the plane compared with the exact distribution."""
