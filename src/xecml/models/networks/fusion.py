"""Transformer layers that join the faces' tokens (Vaswani et al. 2017, post-norm).

Parameters have the names of torch.nn.TransformerEncoderLayer; its own forward has a fast path that does not export.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xecml.models.cpu import linear


class SelfAttention(nn.Module):
    """Multi-head self-attention on (B, T, D), parameters named as in torch.nn.MultiheadAttention."""

    def __init__(self, width: int, heads: int, *, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(3 * width, width)))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Attend among the T tokens of each event."""
        B, T, D = x.shape
        qkv = linear(x, self.in_proj_weight, self.in_proj_bias).reshape(B, T, 3, self.heads, D // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (B, heads, T, D / heads)
        rate = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=rate)
        return linear(mixed.transpose(1, 2).reshape(B, T, D), self.out_proj.weight, self.out_proj.bias)


class FusionLayer(nn.Module):
    """norm(x + attention(x)), then norm(x + feed-forward(x)), on (B, T, D)."""

    def __init__(self, width: int, heads: int, feed_forward: int, *, dropout: float) -> None:
        super().__init__()
        self.self_attn = SelfAttention(width, heads, dropout=dropout)
        self.linear1 = nn.Linear(width, feed_forward)
        self.linear2 = nn.Linear(feed_forward, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to the same shape."""
        x = self.norm1(x + self.dropout(self.self_attn(x)))
        wide = self.dropout(F.gelu(linear(x, self.linear1.weight, self.linear1.bias)))
        y: Tensor = self.norm2(x + self.dropout(linear(wide, self.linear2.weight, self.linear2.bias)))
        return y


class Fusion(nn.Module):
    """A stack of layers; the learned positions of the tokens belong to the encoder."""

    def __init__(
        self, width: int = 1024, *, layers: int = 2, heads: int = 8, feed_forward: int = 4096, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FusionLayer(width, heads, feed_forward, dropout=dropout) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, D) to the same shape."""
        for layer in self.layers:
            x = layer(x)
        return x
