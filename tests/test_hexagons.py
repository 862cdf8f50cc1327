"""Mixing on the hexagonal faces: a weight belongs to a direction, wherever the node stands."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from xecml import geometry
from xecml.models.networks.hexagons import HexAttention, HexDepthwise, slanted
from xecml.models.original.network import hex_neighbours

TABLES = {"ideal": torch.tensor(geometry.hex_neighbours()), "original": hex_neighbours()}


@pytest.mark.parametrize("name", TABLES)
def test_a_grid_convolution_is_the_sum_over_neighbours(name: str) -> None:
    torch.manual_seed(0)
    table = TABLES[name]
    mixing = HexDepthwise(8, table)
    torch.nn.init.normal_(mixing.bias)
    x = torch.randn(3, 73, 8)
    wanted = torch.zeros_like(x) + mixing.bias
    for node, neighbours in enumerate(table.tolist()):
        for direction, other in enumerate(neighbours):
            if other >= 0:
                wanted[:, node] += mixing.weight[0, direction] * x[:, other]
    torch.testing.assert_close(mixing(x), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_the_slanted_grid_holds_every_node_once(name: str) -> None:
    cell, node, (rows, columns) = slanted(TABLES[name])
    assert len(set(cell.tolist())) == 73
    assert rows * columns == len(node)
    assert torch.equal(node[cell], torch.arange(73))


def test_a_direction_points_the_same_way_everywhere() -> None:
    """The kernel of one direction moves every node's value by the same vector."""
    xyz = geometry.positions()[np.concatenate(geometry.top_rows())]
    for direction in range(1, 7):
        mixing = HexDepthwise(1, TABLES["ideal"])
        with torch.no_grad():
            mixing.weight.zero_()
            mixing.weight[0, direction] = 1.0
            moved = mixing(torch.eye(73)[:, :, None])[..., 0].numpy()  # (from, to)
        source, target = np.nonzero(moved > 0.5)
        steps = xyz[source] - xyz[target]
        assert np.allclose(steps, steps[0], atol=0.01)


def test_attention_can_be_blind_to_all_but_one_direction() -> None:
    torch.manual_seed(0)
    mixing = HexAttention(8, TABLES["ideal"], heads=2)
    with torch.no_grad():
        mixing.direction[:, 2] = 1e4
        x = torch.randn(1, 73, 8)
        value = torch.nn.functional.linear(x, mixing.qkv.weight[16:], mixing.qkv.bias[16:])
        right = TABLES["ideal"][:, 2]
        there = right >= 0
        wanted = mixing.proj(value[:, right[there]])
        torch.testing.assert_close(mixing(x)[:, there], wanted, rtol=1e-4, atol=1e-5)
