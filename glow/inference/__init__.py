"""Variational inference: targets, the evidence lower bound, quality of the fit."""
