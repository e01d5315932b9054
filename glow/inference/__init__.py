"""Variational inference: targets, the evidence lower bound, the quality of a fit."""
