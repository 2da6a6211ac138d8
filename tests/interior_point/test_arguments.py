"""What the public functions on matrices say of arrays that do not fit each other, and what they do with two dtypes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from cvxlayers.errors import ShapeError
from cvxlayers.sets import Exponential, Free, Nonnegative, Product, RotatedSecondOrder, SecondOrder, Zero
from cvxlayers.solvers.interior_point import Native, dispatch, linear_solve, polish, solve
from cvxlayers.solvers.interior_point.cuda import kernels
from cvxlayers.solvers.interior_point.cuda.launch import SHARED_BYTES
from cvxlayers.status import Status
from tests.interior_point import emulation

BATCH, N, M = 2, 3, 5
CONE = Product((Nonnegative(M),))
LIBRARIES: dict[str, Any] = {"numpy": np.asarray, "torch": torch.as_tensor, "jax": jnp.asarray}
SHAPES = {"P": (BATCH, N, N), "q": (BATCH, N), "A": (BATCH, M, N), "b": (BATCH, M)}
WRONG = {
    "q": (BATCH, N - 1),
    "b": (BATCH, M + 1),
    "P": (BATCH, N, N + 1),
    "A": (BATCH, M - 1, N),
}


def data(rng=None) -> dict[str, np.ndarray]:
    rng = rng or np.random.default_rng(0)
    values = {name: rng.standard_normal(shape) for name, shape in SHAPES.items()}
    return values | {"P": np.tile(np.eye(N), (BATCH, 1, 1)), "b": rng.uniform(0.1, 1.0, (BATCH, M))}


@pytest.fixture(params=["arrays", "kernels"])
def form(request, monkeypatch):
    """Which form the method takes; kernels run on the host, on the memory of the tensors."""

    def queue(start: kernels.Start, addresses, device, stream=None) -> None:
        emulation.start(start.name, start.launch, start.blocks, start.arguments(addresses))

    if request.param == "kernels":
        if emulation.COMPILER is None:
            pytest.skip("needs a C++ compiler")
        monkeypatch.setattr(dispatch, "_kernels", lambda *args: True)
        monkeypatch.setattr(kernels.Start, "queue", queue)
        monkeypatch.setattr(kernels, "shared_memory", lambda device: SHARED_BYTES)
    return request.param


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", WRONG)
def test_wrong_shapes(library, name):
    given = data() | {name: np.ones(WRONG[name])}
    with pytest.raises(ShapeError, match=rf"{name} should end in .* got \({BATCH}, "):
        solve(CONE, *map(LIBRARIES[library], given.values()))


def test_wrong_shapes_of_the_derivative():
    given = data()
    z = s = np.ones((BATCH, M))
    with pytest.raises(ShapeError, match=r"gx should end in \(3,\)"):
        linear_solve(CONE, given["P"], given["A"], z, s, z, s)
    with pytest.raises(ShapeError, match=r"s should end in \(5,\)"):
        linear_solve(CONE, given["P"], given["A"], z, given["q"], given["q"], s)
    with pytest.raises(ShapeError, match=r"residuals should end in \(3,\)"):
        polish(CONE, *given.values(), given["q"], z, s, z)


def test_a_cone_of_another_size_and_batches_that_do_not_fit():
    given = data()
    with pytest.raises(ShapeError, match=r"A should end in \(4, 3\)"):
        solve(Product((Nonnegative(M - 1),)), *given.values())
    with pytest.raises(ShapeError, match=r"batch dimensions .* q \(3,\)"):
        solve(CONE, *(given | {"q": np.ones((3, N))}).values())
    with pytest.raises(ShapeError, match=r"A should end in \(5, n\)"):
        solve(CONE, *(given | {"A": np.ones(())}).values())


@pytest.mark.parametrize(
    "blocks",
    [
        (SecondOrder(3), Nonnegative(2)),
        (Nonnegative(2), Zero(3)),
        (Free(2), Nonnegative(3)),
        (Nonnegative(2), RotatedSecondOrder(3)),
        (Nonnegative(2), Exponential().dual()),
    ],
    ids=str,
)
def test_other_cones_and_another_order(blocks):
    with pytest.raises(ShapeError, match="cone should be a Product of blocks of Zero, Nonnegative"):
        solve(Product(blocks), *data().values())


def test_several_devices():
    given = {name: torch.as_tensor(v) for name, v in data().items()}
    with pytest.raises(ShapeError, match="one device; got P on cpu, q on meta"):
        solve(CONE, *(given | {"q": given["q"].to("meta")}).values())


def test_what_is_no_array_and_no_product():
    given = data()
    with pytest.raises(ShapeError, match="cone should be a Product"):
        solve(CONE.blocks, *given.values())
    for wrong in (None, torch.ones(3)):
        with pytest.raises(ShapeError, match="all should be arrays of one library; got P .*, q"):
            solve(CONE, *(given | {"q": wrong}).values())
    with pytest.raises(ShapeError, match="all arrays should be of float32 or float64; got P of float16"):
        solve(CONE, *(v.astype(np.float16) for v in given.values()))


@pytest.mark.parametrize("library", LIBRARIES)
def test_integers_are_converted_only_with_others(library):
    as_array = LIBRARIES[library]
    given = data() | {"q": np.ones((BATCH, N), np.int32)}
    assert (np.asarray(solve(CONE, *map(as_array, given.values())).status) == Status.SOLVED).all()
    with pytest.raises(ShapeError, match="P of .*int32"):
        solve(CONE, *(as_array(np.ones(shape, np.int32)) for shape in SHAPES.values()))


@pytest.mark.parametrize("name", SHAPES)
def test_two_dtypes(form, name):
    """The common dtype, whatever the form: a kernel that read float32 as float64 found another solution."""
    given = {k: torch.as_tensor(v) for k, v in data().items()}
    single = {name: given[name].float()}
    found, wanted = (solve(CONE, *(given | new).values()) for new in (single, {name: single[name].double()}))
    assert found.x.dtype == torch.float64 and (found.status == Status.SOLVED).all()
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_two_dtypes_of_the_derivative(form):
    P, q, A, b = (torch.as_tensor(v) for v in data().values())
    out = solve(CONE, P, q, A, b)
    gx, gz = torch.ones(BATCH, N), torch.zeros(BATCH, M)
    found = linear_solve(CONE, P, A, out.z, out.s, gx, gz)
    wanted = linear_solve(CONE, P, A, out.z, out.s, gx.double(), gz.double())
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)


def test_two_dtypes_in_jax():
    given = {k: jnp.asarray(v) for k, v in data().items()}
    out = solve(CONE, *(given | {"q": given["q"].astype("float32")}).values(), settings=Native())
    assert out.x.dtype == "float64" and (np.asarray(out.status) == Status.SOLVED).all()


def test_transforms_of_pytorch(monkeypatch):
    """A kernel could not be given the addresses of what they hand on."""
    given = {k: torch.as_tensor(v) for k, v in data().items()}
    plain = solve(CONE, *given.values()).x
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    monkeypatch.setattr("cvxlayers.array.cuda.available", lambda device: True)
    monkeypatch.setattr(dispatch, "_takes", lambda *args: True)
    x = torch.func.vmap(lambda *values: solve(CONE, *values).x)(*given.values())
    torch.testing.assert_close(x, plain)


def test_nothing_is_cast():
    """Recorded rounds do not know of autocast, so none of them may have it."""
    P, q, A, b = (torch.as_tensor(v).float() for v in data().values())
    settings, z = Native(compiled=False), torch.ones(BATCH, M)

    def everything():
        out = solve(CONE, P, q, A, b, settings)
        more = polish(CONE, P, q, A, b, out.x, out.z, out.s, out.residuals, settings)
        return (*out, *more, *linear_solve(CONE, P, A, z, 0 * z, q, b, settings))

    wanted = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = everything()
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a, b)
