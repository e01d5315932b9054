"""Vectors to train flows on: points of a file or a density, and noise."""
