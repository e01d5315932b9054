"""Write a bijector, check it against autograd, and put it into a Glow: ``python examples/new_bijector.py``."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow import Glow, ModelConfig
from glow.bijectors import Bijector, Composition, FlowStep


class SinhArcsinh(Bijector):
    """``z = sinh(exp(log_tail) arcsinh(x) + skew)``: changes tails and skewness of each channel of ``[N, C, H, W]``.

    Source: Jones & Pewsey 2009, Sinh-arcsinh distributions, Biometrika 96(4).
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.log_tail = nn.Parameter(0.1 * torch.randn(num_channels, 1, 1))
        self.skew = nn.Parameter(0.1 * torch.randn(num_channels, 1, 1))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents; the logdet is the sum of ``log dz/dx`` over all numbers of an example."""
        y = self.log_tail.exp() * x.arcsinh() + self.skew
        return y.sinh(), (self.log_tail + y.cosh().log() - 0.5 * x.square().log1p()).sum((1, 2, 3))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data; the logdet has the other sign."""
        x = ((z.arcsinh() - self.skew) * (-self.log_tail).exp()).sinh()
        return x, -self(x)[1]


def main() -> None:
    """Check the bijector alone, and then in a Glow."""
    torch.manual_seed(0)
    bijector, x = SinhArcsinh(4).double(), torch.randn(1, 4, 3, 3, dtype=torch.float64)
    z, logdet = bijector(x)
    jacobian = torch.autograd.functional.jacobian(lambda x: bijector(x)[0], x).reshape(36, 36)
    torch.testing.assert_close(logdet[0], torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(bijector.inverse(z)[0], x)
    print("the bijector agrees with autograd, and its inverse undoes it")

    model = Glow(ModelConfig(image_shape=(3, 8, 8), num_levels=2, num_steps_per_level=2, hidden_channels=16))
    for unit, (channels, _, _) in zip(model.chain, model.state_shapes, strict=True):
        if isinstance(unit.bijector, FlowStep):
            unit.bijector = Composition(unit.bijector, SinhArcsinh(channels))
    images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    noise = torch.rand(images.shape)
    model.initialize(images, noise)  # ActNorm takes its mean and scale from a batch
    model.set_memory("reversible")  # nothing is kept for the backward pass: the inverse rebuilds it
    loss = -model(images, noise).mean()
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    x, _ = model.dequantize(images, noise)
    torch.testing.assert_close(model.decode(model.encode(x)[0]), x)
    print(f"a Glow with it: {loss / model.num_dims:.2f} nats/dim, every parameter has a gradient, decode undoes encode")


if __name__ == "__main__":
    main()
