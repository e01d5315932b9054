"""Measure models: likelihoods, baselines, anomaly scores, classes, reports."""
