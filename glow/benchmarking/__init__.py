"""Measure speed and memory of a model, beside the limits of the device and other models."""
