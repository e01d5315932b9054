"""scikit-learn's handwritten digits as a source of images."""

from __future__ import annotations

import numpy as np
from PIL import Image

from glow.data.prepare.base import Source


class DigitsSource(Source):
    """scikit-learn's 1,797 handwritten digits, 8 x 8, with 17 grey values 0..16 stored as min(16 * value, 255)."""

    def __init__(self, spec: str = "digits") -> None:
        try:
            from sklearn.datasets import load_digits  # an optional dependency
        except ImportError as error:
            raise ValueError(f"{spec}: this source needs scikit-learn: pip install 'glow-flows[demo]'") from error
        digits = load_digits()
        self.images = np.minimum(16 * digits.images, 255).astype(np.uint8)
        names = [f"digits/{index:04d}" for index in range(len(self.images))]
        super().__init__(spec, names, names, [str(label) for label in digits.target])

    def load(self, index: int) -> Image.Image:
        """Return one digit as an image."""
        return Image.fromarray(self.images[index])
