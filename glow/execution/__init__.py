"""How a model runs: memory modes, compilation, precision."""
