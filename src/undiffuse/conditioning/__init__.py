"""Conditions: what a user or a data set says as tensors; the only room that knows words and files."""
