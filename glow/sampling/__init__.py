"""From seeds to images and vectors."""
