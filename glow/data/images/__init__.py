"""From the bytes of an image file to pixels, and to the one form that a model sees."""
