"""Evaluation: likelihood, baselines, report."""
