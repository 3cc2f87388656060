"""Models that guide others and evaluate samples, and generate none themselves."""
