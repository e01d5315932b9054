"""Draw images and vectors from seeds, and write them."""
