"""Variational dequantisation: a learned density of the noise that is added to an image."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Composition, sum_per_example
from glow.bijectors.conv1x1 import reverse
from glow.bijectors.coupling import AffineCoupling
from glow.config import ModelConfig
from glow.models.build import coupling_network


class VariationalDequantizer(nn.Module):
    """A flow q(u | image) of dequantisation noise u in (0, 1).

    It maps uniform noise through the logit, couplings whose networks see the image, and the sigmoid. At first the
    couplings are the identity, so training starts with uniform dequantisation. By Jensen's inequality, ``log P(image)
    >= E[log p(image + u) - log q(u | image)]``.

    Source: Ho, Chen, Srinivas, Duan & Abbeel 2019 (Flow++, arXiv 1902.00275), section 3.1 and equation 12.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.image_shape is not None
        channels, height, width = config.image_shape
        hidden = config.dequantization_channels or config.hidden_channels
        squeezed, size = 4 * channels, (height // 2, width // 2)
        self.features = nn.Sequential(
            nn.Conv2d(squeezed, hidden, 3, padding=1), nn.ReLU(), nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU()
        )
        halves = (squeezed // 2, squeezed)
        self.flow = Composition(
            *(
                bijector
                for _ in range(config.dequantization_steps or 4)
                for bijector in (
                    AffineCoupling(coupling_network(halves, hidden, size, hidden, config), scale="tanh"),
                    reverse(squeezed),
                )
            )
        )

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return u ``[N, C, H, W]`` and ``-log q(u | image)`` ``[N]``, in nats.

        Args:
            images: ``[N, C, H, W]`` in [-1/2, 1/2].
            noise: Uniform in (0, 1), of the same shape.
        """
        features = self.features(F.pixel_unshuffle(images, 2))
        logit, logit_logdet = noise.logit(), -sum_per_example(noise.log() + (-noise).log1p())
        y, logdet = self.flow(F.pixel_unshuffle(logit, 2), features)
        y = F.pixel_shuffle(y, 2)
        return y.sigmoid(), logit_logdet + logdet + sum_per_example(F.logsigmoid(y) + F.logsigmoid(-y))
