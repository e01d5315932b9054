"""What couplings compute with: networks of images and vectors, and how they are made fast."""
