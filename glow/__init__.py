"""Multiscale Glow image-density models: flows, data, training, sampling, evaluation."""
