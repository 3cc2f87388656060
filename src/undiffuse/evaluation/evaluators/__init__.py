"""Metrics of contrastive models, and of samples by an evaluator: retrieval and recognised classes."""
