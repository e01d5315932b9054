"""How a model runs: what is kept for the backward pass, compilation, precision."""
