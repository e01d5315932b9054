"""How a model and its training are laid over processes: replicated, sharded, or cut into the stages of a pipeline."""
