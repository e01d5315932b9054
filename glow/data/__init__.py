"""Sharded image data sets: preparing and reading them."""
