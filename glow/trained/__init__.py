"""A trained model as one object: images or vectors in, numbers or samples out."""
