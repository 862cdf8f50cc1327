"""ConvNeXt V2 on the rectangular faces of the detector: one network shared by inner, us, ds and outer.

Woo et al. 2023, "ConvNeXt V2: Co-designing and scaling ConvNets with masked autoencoders". Maps are (B, H, W, C) with
the channels last in memory throughout, so that no block permutes anything.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml.models.cpu import chunks, depthwise, linear, linear_gelu, response_norm
from xecml.models.networks.layers import ChannelNorm, DropPath

_EPS = 1e-6


class GlobalResponseNorm(nn.Module):
    """x + gamma x N + beta, with N the channel's L2 norm over the grid over the mean of the channels' norms."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, ..., C) over everything between events and channels."""
        return response_norm(x.flatten(1, -2), self.gamma, self.beta, _EPS).reshape(x.shape)


class PointwiseMlp(nn.Module):
    """Norm, linear to 4 d, GELU, global response norm, linear to d: the part that all blocks share."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.pwconv1 = nn.Linear(width, 4 * width)
        self.grn = GlobalResponseNorm(4 * width)
        self.pwconv2 = nn.Linear(4 * width, width)

    def hidden(self, x: Tensor) -> Tensor:
        """The wide middle (B, ..., 4 d) of (B, ..., d)."""
        y = linear_gelu(self.norm(x), self.pwconv1.weight, self.pwconv1.bias)
        normed: Tensor = self.grn(y)
        return normed

    def narrow(self, hidden: Tensor) -> Tensor:
        """Linear map (..., 4 d) -> (..., d)."""
        return linear(hidden, self.pwconv2.weight, self.pwconv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, ..., d) to the same shape."""
        return self.narrow(self.hidden(x))


class ConvNextBlock(PointwiseMlp):
    """x + MLP(depthwise 7 x 7 of x) on (B, H, W, C)."""

    def __init__(self, width: int, *, drop_path: float = 0.0) -> None:
        super().__init__(width)
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.drop_path = DropPath(drop_path)

    def mixed(self, x: Tensor) -> Tensor:
        """The depthwise convolution of (B, H, W, C)."""
        assert self.dwconv.bias is not None
        return depthwise(x, self.dwconv.weight, self.dwconv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to the same shape."""
        branch: Tensor = self.drop_path(self.narrow(self.hidden(self.mixed(x))))
        return x + branch

    def forward_resized(self, x: Tensor, size: int) -> Tensor:
        """The block and a bilinear resize to (B, size, size, C).

        Resizing is linear, and its weights sum to one, so it commutes with the last linear map, which then has
        size x size cells to do instead of H x W.
        """
        hidden = resize(self.hidden(self.mixed(x)), size)
        branch: Tensor = self.drop_path(self.narrow(hidden))
        return resize(x, size) + branch


def resize(x: Tensor, size: int) -> Tensor:
    """Bilinear resize of (B, H, W, C) to (B, size, size, C), as F.interpolate with align_corners=False."""
    y = F.interpolate(x.permute(0, 3, 1, 2), (size, size), mode="bilinear", align_corners=False)
    return y.permute(0, 2, 3, 1)


class FaceNetwork(nn.Module):
    """A map of a face to one token.

    Args:
        channels: of the input: count, time, and validity where it is given.
        widths: of the two stages.
        blocks: in the two stages.
        size: the last map is resized to size x size cells; the token has widths[1] * size * size numbers.
        drop_path: rate in all blocks.
    """

    def __init__(
        self,
        *,
        channels: int = 2,
        widths: tuple[int, int] = (32, 64),
        blocks: tuple[int, int] = (2, 3),
        size: int = 4,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        first, second = widths
        self.size = size
        self.first_width = first
        self.out_width = second * size * size
        self.stem = nn.Sequential(nn.Conv2d(channels, first, 4, padding=1), ChannelNorm(first))
        self.stage1 = nn.ModuleList(ConvNextBlock(first, drop_path=drop_path) for _ in range(blocks[0]))
        self.downsample = nn.Sequential(ChannelNorm(first), nn.Conv2d(first, second, 2, stride=2))
        self.stage2 = nn.ModuleList(ConvNextBlock(second, drop_path=drop_path) for _ in range(blocks[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Encode (B, H, W, channels) to (B, out_width)."""
        _, H, W, _ = x.shape
        parts = [self._encode(part) for part in chunks(x, 16 * H * W * self.first_width)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _encode(self, x: Tensor) -> Tensor:
        # 16 bits would blur times to 100 ps before the network has seen them
        with torch.autocast(x.device.type, enabled=False):
            y = self.stem(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        for block in self.stage1:
            y = block(y)
        y = self.downsample(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        *others, last = self.stage2
        for block in others:
            y = block(y)
        assert isinstance(last, ConvNextBlock)
        y = ConvNextBlock.forward_resized(last, y, self.size)
        # (B, size, size, C) -> (B, C * size * size): channels first, the order of the token's numbers
        return y.permute(0, 3, 1, 2).flatten(1)
