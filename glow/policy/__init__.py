"""Flows as stochastic policies: actions with exact log-probabilities, and soft actor-critic."""
