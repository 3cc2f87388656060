"""Conditioning: converts prompts of the user and labels of data sets to tensors."""
