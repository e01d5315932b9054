"""Vectors to train flows on: points, densities, noise."""
