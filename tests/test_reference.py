"""The reference network: sizes, geometry of its maps, numbers equal to a plain form, export, compile, 16 bits."""

from __future__ import annotations

import importlib.util
import io
import logging
import warnings
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from tests.conftest import point_sources
from xecml import geometry
from xecml.errors import InputError
from xecml.models import cpu
from xecml.models.networks.faces import FaceNetwork, resize
from xecml.models.networks.hexagons import HexNetwork
from xecml.models.networks.reference import ReferenceEncoder, light_weighted_time, reference
from xecml.models.networks.views import FaceViews
from xecml.models.normalise import ABSOLUTE_DEFAULTS, RELATIVE_DEFAULTS, Normaliser, validity
from xecml.models.original.network import original

Inputs = tuple[Tensor, Tensor, Tensor, Tensor]
VARIANTS = ("finegrid", "split", "attention", "validity", "original")
ONE_AND_LONG = [name if name == "finegrid" else pytest.param(name, marks=pytest.mark.long) for name in VARIANTS]


def normaliser() -> Normaliser:
    return Normaliser(**ABSOLUTE_DEFAULTS)


def variant(name: str) -> ReferenceEncoder:
    torch.manual_seed(0)
    if name == "original":
        return original(Normaliser(**RELATIVE_DEFAULTS)).eval()
    mode = "split" if name == "split" else "finegrid"
    mixing = "attention" if name == "attention" else "depthwise"
    encoder = reference(normaliser(), outer_mode=mode, hex_mixing=mixing, validity_channel=name == "validity")
    return encoder.eval()


def inputs(batch: int, seed: int = 3) -> Inputs:
    events = point_sources(batch, seed, dead=0.02)
    npho, time = torch.from_numpy(events["npho"]), torch.from_numpy(events["time"])
    return npho, time, *validity(npho, time)


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def plain() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "benchmarks" / "plain_reference.py"
    spec = importlib.util.spec_from_file_location("plain_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sizes() -> None:
    encoder = variant("finegrid")
    assert parameters(encoder.faces) == 140_768
    assert parameters(encoder.hexagons) == 403_744
    assert parameters(encoder) == 25_743_104
    assert encoder.out_width == 6144
    assert variant("split").out_width == 7168
    assert parameters(encoder.head(2)) == 6144 * 256 + 256 + 512 + 256 * 257 + 2 * 257


@pytest.mark.slow
def test_answers_and_gradients_are_those_of_the_plain_network() -> None:
    encoder = variant("finegrid")
    for name, parameter in encoder.named_parameters():
        if "grn" in name:
            nn.init.normal_(parameter, std=0.3)
    other = plain().PlainReference(normaliser()).eval()
    other.load_state_dict({name.replace("views.", ""): w for name, w in encoder.state_dict().items()})
    x, direction = inputs(3), torch.randn(3, 6, 1024)
    ours, theirs = encoder.tokens(*x), other(*x)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    for tokens in (ours, theirs):
        (tokens * direction).sum().backward()
    wanted = {name: p.grad for name, p in other.named_parameters()}
    for name, parameter in encoder.named_parameters():
        assert (parameter.grad - wanted[name]).norm() < 1e-4 * wanted[name].norm(), name


@pytest.mark.parametrize("pool", [None, (3, 3), (5, 2)])
def test_the_fine_grid_is_that_of_the_geometry(pool: tuple[int, int] | None) -> None:
    npho, time, valid, timed = inputs(4)
    timed = valid  # the geometry's function knows one mask
    views = FaceViews(normaliser(), outer_fine_pool=pool)
    assert views.fine is not None
    counts, times, counted, _ = views.fine(npho, time, valid, timed)
    grid = geometry.outer_fine_grid(npho.numpy(), time.numpy(), valid.numpy())
    wanted = grid if pool is None else geometry.pool_fine_grid(*grid, pool)
    np.testing.assert_allclose(counts.numpy(), wanted[0].swapaxes(1, 2), rtol=1e-5)
    np.testing.assert_allclose(times.numpy(), wanted[1].swapaxes(1, 2), rtol=1e-5, atol=1e-15)
    assert np.array_equal(counted.numpy(), wanted[2].swapaxes(1, 2))
    outer = torch.from_numpy(np.isin(geometry.face_codes(), 3)) & valid
    torch.testing.assert_close(counts.sum((1, 2)), torch.where(outer, npho, 0.0).sum(1))


def test_a_pool_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match=r"outer_fine_pool \[4, 3\] does not divide"):
        reference(normaliser(), outer_fine_pool=(4, 3))


def test_maps_hold_their_sensors() -> None:
    npho = torch.arange(1.0, 4761.0).repeat(2, 1)
    linear = Normaliser(npho_scale=1.0, npho_scale2=1.0, time_scale=1.0, time_shift=0.0, scheme="linear")
    views = FaceViews(linear, outer_mode="split")(npho, npho, *validity(npho, npho))
    coarse, centre = views.outer
    for grid, ids in (
        (views.inner, geometry.inner_map()),
        (views.ends[:, 0], geometry.us_map()),
        (views.ends[:, 1], geometry.ds_map()),
        (coarse, geometry.outer_coarse_map().T),
        (centre, geometry.outer_centre_map().T),
        (views.hexagons[:, 0], np.concatenate(geometry.top_rows())),
        (views.hexagons[:, 1], np.concatenate(geometry.bottom_rows())),
    ):
        assert np.array_equal(grid[1, ..., 0].numpy(), ids + 1)


def test_times_count_from_the_events_own_time() -> None:
    encoder, (npho, time, valid, timed) = variant("finegrid"), inputs(2)
    shift = torch.tensor([3e-9, -4e-9])
    with torch.no_grad():
        code, look = encoder(npho, time, valid, timed)
        later, moved = encoder(npho, torch.where(timed, time + shift[:, None], time), valid, timed)
    torch.testing.assert_close(moved.light_time, look.light_time + shift, rtol=1e-5, atol=1e-15)
    torch.testing.assert_close(later, code, rtol=1e-4, atol=1e-4)
    weight = torch.where(timed, npho, 0.0).double()
    mean = (weight * torch.where(timed, time, 0.0)).sum(1) / weight.sum(1)
    torch.testing.assert_close(light_weighted_time(npho, time, valid, timed).double(), mean, rtol=1e-6, atol=1e-15)


def test_a_hidden_sensor_enters_as_a_dead_one() -> None:
    encoder, (npho, time, valid, timed) = variant("finegrid"), inputs(2)
    hidden = torch.rand(npho.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    dead = torch.where(hidden, 1e10, npho), torch.where(hidden, 1e10, time)
    with torch.no_grad():
        assert torch.equal(
            encoder(npho, time, valid & ~hidden, timed & ~hidden)[0], encoder(*dead, *validity(*dead))[0]
        )


def test_an_event_without_light_is_finite() -> None:
    dark = torch.full((2, 4760), 1e10)
    encoder = variant("validity").train()
    code, _ = encoder(dark, dark, *validity(dark, dark))
    code.sum().backward()
    assert code.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


@pytest.mark.parametrize("shape", [(46, 21), (11, 2), (11, 7), (3, 2)])
def test_resizing_before_the_last_linear_map_changes_nothing(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    block = FaceNetwork().stage2[0].double()
    x = torch.randn(2, *shape, 64, dtype=torch.float64)
    torch.testing.assert_close(block.forward_resized(x, 4), resize(block(x), 4))


def test_events_in_chunks_are_events_together(monkeypatch: pytest.MonkeyPatch) -> None:
    faces, x = FaceNetwork().eval(), torch.randn(5, 24, 6, 2)
    with torch.no_grad():
        together = faces(x)
        monkeypatch.setattr(cpu, "_CACHE_BYTES", 1)
        assert torch.allclose(faces(x), together, atol=1e-5)


def test_fast_routes_equal_torchs_own() -> None:
    torch.manual_seed(0)
    x, grad = torch.randn(3, 9, 6, 8), torch.randn(3, 9, 6, 8)
    convolution = nn.Conv2d(8, 8, 7, padding=3, groups=8)
    assert convolution.bias is not None
    ours = x.clone().requires_grad_()
    theirs = x.clone().requires_grad_()
    mine = torch.autograd.grad(
        cpu.depthwise(ours, convolution.weight, convolution.bias), (ours, *convolution.parameters()), grad
    )
    other = torch.autograd.grad(
        convolution(theirs.permute(0, 3, 1, 2)).permute(0, 2, 3, 1), (theirs, *convolution.parameters()), grad
    )
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for width in (4, 32):
        layer, rows = nn.Linear(16, width), torch.randn(40, 16, requires_grad=True)
        mine = torch.autograd.grad(cpu.linear(rows, layer.weight, layer.bias).sum(), (rows, *layer.parameters()))
        other = torch.autograd.grad(layer(rows).sum(), (rows, *layer.parameters()))
        for a, b in zip(mine, other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_the_response_norms_gradient() -> None:
    torch.manual_seed(0)
    shapes = ((2, 7, 5), (5,), (5,))
    x, gamma, beta = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in shapes)
    run = lambda *a: cpu._ResponseNorm.apply(*a, 1e-6)  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, gamma, beta))
    torch.testing.assert_close(run(x, gamma, beta), cpu.response_norm(x, gamma, beta, 1e-6))


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_AND_LONG)
def test_export_holds_at_every_batch_size(name: str) -> None:
    class Raw(nn.Module):
        def __init__(self, encoder: ReferenceEncoder) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, npho: Tensor, time: Tensor) -> Tensor:
            code: Tensor = self.encoder(npho, time, *validity(npho, time))[0]
            return code

    raw, batch = Raw(variant(name)).eval(), torch.export.Dim("batch", min=1)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            raw, inputs(2)[:2], dynamo=True, verbose=False, dynamic_shapes={"npho": {0: batch}, "time": {0: batch}}
        )
    assert program is not None
    file = io.BytesIO()
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for size in (1, 2, 7):
        npho, time, *_ = inputs(size, seed=size)
        with torch.no_grad():
            wanted = raw(npho, time).numpy()
        names = [i.name for i in session.get_inputs()]
        got = session.run(None, dict(zip(names, (npho.numpy(), time.numpy()), strict=True)))[0]
        assert np.abs(got - wanted).max() < 1e-4 * np.abs(wanted).max()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_is_the_same(name: str) -> None:
    encoder, x = variant(name), inputs(2)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the compiler's own
        compiled = torch.compile(encoder.tokens, dynamic=False)
        torch.testing.assert_close(compiled(*x), encoder.tokens(*x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["finegrid", "attention"])
def test_sixteen_bits_are_finite_and_agree(name: str) -> None:
    encoder, x = variant(name), inputs(2)
    with torch.no_grad():
        exact = encoder(*x)[0]
        with torch.autocast("cpu", torch.bfloat16):
            rough = encoder(*x)[0].float()
    assert rough.isfinite().all()
    assert (rough - exact).norm() < 0.03 * exact.norm()


def test_attention_needs_no_more_than_the_neighbours() -> None:
    torch.manual_seed(0)
    mixing = HexNetwork(mixing="attention").layers[0].spatial_conv
    x = torch.randn(1, 73, 96)
    changed = x.clone()
    changed[0, 40] += 1.0
    moved = (mixing(changed) - mixing(x)).abs().amax((0, 2)) > 1e-6
    near = np.flatnonzero((geometry.hex_neighbours() == 40).any(1))
    assert np.array_equal(np.flatnonzero(moved.numpy()), near)
