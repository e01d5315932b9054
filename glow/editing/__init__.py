"""See and edit images by their exact latents: pure functions of a trained model, and what the stage edit writes."""
