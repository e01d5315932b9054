"""Models: Glow for images, Flow for vectors, their priors, dequantisation and bit depth."""
