"""What a call takes and returns: batches, dtypes, arrays, and the errors for what it does not take."""

from __future__ import annotations

import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import cvxlayers
import cvxlayers.jax
import cvxlayers.torch
from cvxlayers import CvxlayersError, ProblemError, SettingsError, ShapeError, SolverError
from tests.layers.facts import close

A_VALUE = np.array([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0]])


def nearest(library, **options):
    """The nearest point of {x: A x <= b, x >= -1} to p, as a layer of A (2, 3), p (3,) and b ()."""
    x, A, p, b = cp.Variable(3), cp.Parameter((2, 3), name="A"), cp.Parameter(3, name="p"), cp.Parameter(name="b")
    constraint = A @ x <= b
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [constraint, x >= -1])
    return library.CvxpyLayer(problem, [A, p, b], [x, constraint.dual_variables[0]], **options)


@pytest.fixture(scope="module")
def layer():
    return nearest(cvxlayers.torch)


@pytest.fixture(scope="module")
def jax_layer():
    return nearest(cvxlayers.jax)


def draw(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


OWN = ((2, 3), (3,), ())
SHAPES = [
    ((), (), ()),
    ((4,), (4,), (4,)),
    ((), (4,), ()),
    ((4,), (), ()),
    ((), (), (4,)),
    ((1,), (4,), ()),
    ((1,), (1,), (1,)),
    ((2, 3), (2, 3), (2, 3)),
    ((3,), (2, 1), ()),
    ((2, 1), (1, 3), (3,)),
    ((2, 1, 3), (1,), (4, 1)),
    ((0,), (0,), (0,)),
    ((0,), (), (1,)),
    ((2, 0), (), (0,)),
]


@pytest.mark.parametrize("leads", SHAPES, ids=str)
def test_a_batch_is_the_loop_over_its_elements(layer, jax_layer, leads):
    batch = np.broadcast_shapes(*leads)
    A, p, b = (draw(*lead, *own, seed=i) for i, (lead, own) in enumerate(zip(leads, OWN, strict=True)))
    inputs = [t.requires_grad_() for t in (0.3 * A + torch.from_numpy(A_VALUE), p, b.abs())]
    x, dual = layer(*inputs)
    assert x.shape == (*batch, 3) and dual.shape == (*batch, 2)
    weight_x, weight_dual = draw(*batch, 3, seed=5), draw(*batch, 2, seed=6)
    ((x * weight_x).sum() + (dual * weight_dual).sum()).backward()
    gradients = [t.grad.clone() for t in inputs]

    copies = [t.detach().clone().requires_grad_() for t in inputs]
    wide = [c.expand((*batch, *own)) for c, own in zip(copies, OWN, strict=True)]
    total = sum((c.sum() for c in copies), torch.zeros(())) * 0.0
    for index in np.ndindex(*batch):
        x_one, dual_one = layer(*(w[index] for w in wide))
        close(x_one.detach(), x[index].detach(), 1e-12)
        close(dual_one.detach(), dual[index].detach(), 1e-12)
        total = total + (x_one * weight_x[index]).sum() + (dual_one * weight_dual[index]).sum()
    total.backward()
    for gradient, copy, given in zip(gradients, copies, inputs, strict=True):
        assert gradient.shape == given.shape
        close(gradient, copy.grad, 1e-9)

    arrays = [t.detach().numpy() for t in inputs]
    x_jax, dual_jax = jax_layer(*arrays)
    close(x_jax, x.detach(), 1e-12)
    close(dual_jax, dual.detach(), 1e-12)
    if leads in (((), (4,), ()), ((3,), (2, 1), ()), ((0,), (), (1,))):
        loss = jax.jit(jax.grad(lambda v: (jax_layer(*v)[0] * weight_x.numpy()).sum()))
        g_jax = loss(tuple(map(jnp.asarray, arrays)))
        again = [t.detach().clone().requires_grad_() for t in inputs]
        (layer(*again)[0] * weight_x).sum().backward()
        for a, b in zip(g_jax, again, strict=True):
            close(a, b.grad, 1e-9)


def test_the_gradient_of_a_shared_parameter_is_the_sum_over_the_batch(layer):
    p = draw(5, 3)
    A, b = torch.from_numpy(A_VALUE).requires_grad_(), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    layer(A, p, b)[0].square().sum().backward()
    A_each = A.detach().expand(5, 2, 3).clone().requires_grad_()
    b_each = b.detach().expand(5).clone().requires_grad_()
    layer(A_each, p, b_each)[0].square().sum().backward()
    close(A.grad, A_each.grad.sum(0), 1e-12)
    close(b.grad, b_each.grad.sum(0), 1e-12)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_float32_in_gives_float32_out(layer, jax_layer, library):
    p, b = np.array([1.0, 2.0, -3.0], np.float32), np.float32(0.2)
    A = A_VALUE.astype(np.float32)
    expected = [v.numpy() for v in layer(*map(torch.as_tensor, (A_VALUE, p.astype(float), float(b))))]
    if library == "torch":
        inputs = [torch.as_tensor(v).requires_grad_() for v in (A, p, b)]
        result = layer.solve(*inputs)
        result.variables[0].sum().backward()
        assert all(t.grad.dtype == torch.float32 for t in inputs)
        assert result.objective.dtype == torch.float32
        dtypes = {v.dtype for v in result.variables}
        assert dtypes == {torch.float32}
    else:
        result = jax_layer.solve(*map(jnp.asarray, (A, p, b)))
        assert {v.dtype for v in (*result.variables, result.objective)} == {np.dtype("float32")}
        gradients = jax.jit(jax.grad(lambda v: jax_layer(*v)[0].sum()))(tuple(map(jnp.asarray, (A, p, b))))
        assert {g.dtype for g in gradients} == {np.dtype("float32")}
    for got, wanted in zip(result.variables, expected, strict=True):
        close(got.detach() if library == "torch" else got, wanted, 1e-6)


def test_mixed_dtypes_give_the_widest(layer, jax_layer):
    A, p, b = A_VALUE.astype(np.float32), np.zeros(3), np.float32(0.0)
    assert layer(*map(torch.as_tensor, (A, p, b)))[0].dtype == torch.float64
    assert jax_layer(*map(jnp.asarray, (A, p, b)))[0].dtype == np.float64
    inputs = [torch.as_tensor(v).requires_grad_() for v in (A, p, b)]
    layer(*inputs)[0].sum().backward()
    assert [t.grad.dtype for t in inputs] == [torch.float32, torch.float64, torch.float32]


def test_half_precision_is_solved_in_double(layer):
    A, p = torch.as_tensor(A_VALUE).half(), torch.ones(3).half().requires_grad_()
    x, _ = layer(A, p, 0.5)
    assert x.dtype == torch.float16
    x.sum().backward()
    assert p.grad.dtype == torch.float16
    assert layer(A.bfloat16(), p.detach().bfloat16(), 0.5)[0].dtype == torch.bfloat16


def test_arrays_numbers_and_lists(layer, jax_layer):
    expected = layer(
        torch.as_tensor(A_VALUE), torch.ones(3, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    )
    ones = torch.ones(3, dtype=torch.float64, requires_grad=True)
    for b in (0.5, np.float64(0.5), np.array(0.5), torch.tensor(0.5)):
        x, dual = layer(A_VALUE, ones, b)
        close(x.detach(), expected[0], 1e-7)
        assert x.dtype == torch.float64 and x.requires_grad
    x, _ = layer(A_VALUE.tolist(), [1, 1, 1], 0.5)
    assert x.dtype == torch.get_default_dtype()
    close(x, expected[0], 1e-6)
    for b in (0.5, np.float64(0.5), np.array(0.5)):
        close(jax_layer(A_VALUE, jnp.ones(3), b)[0], expected[0], 1e-7)


@pytest.mark.parametrize(
    "array",
    [
        np.array([3.0, 2.0, 1.0])[::-1],
        np.broadcast_to(np.array([1.0, 2.0, 3.0]), (2, 3)),
        np.array([1.0, 2.0, 3.0], ">f8"),
        np.array([1, 2, 3], np.uint8),
        np.array([1, 2, 3], np.float16),
        np.array([1, 2, 3], np.longdouble),
        np.asarray(jnp.array([1.0, 2.0, 3.0])),
        np.array([1.0, 2.0, 3.0, 4.0])[:3],
        np.array([[1.0], [2.0], [3.0]])[:, 0],
    ],
    ids=["reversed", "read-only", "big-endian", "uint8", "float16", "longdouble", "from JAX", "slice", "column"],
)
def test_arrays_of_any_layout(layer, array):
    expected = layer(A_VALUE, np.array([1.0, 2.0, 3.0]), 0.5)[0]
    close(
        layer(A_VALUE, array, 0.5)[0].double(),
        np.broadcast_to(expected, array.shape),
        1e-6 if array.itemsize > 2 else 2e-3,
    )


def test_arrays_that_hold_no_numbers(layer):
    for array in (np.array(["a", "b", "c"]), np.array([1, 2, None], object)):
        with pytest.raises(ShapeError):
            layer(A_VALUE, array, 0.5)


def test_numbers_follow_the_dtype_of_arrays(layer, jax_layer):
    A, p = A_VALUE.astype(np.float32), np.ones(3, np.float32)
    assert layer(torch.as_tensor(A), torch.as_tensor(p), 0.5)[0].dtype == torch.float32
    assert jax_layer(jnp.asarray(A), jnp.asarray(p), 0.5)[0].dtype == np.float32


def test_integers_are_values_not_dtypes(layer, jax_layer):
    A, p = torch.as_tensor(A_VALUE), torch.tensor([1, 2, 3])
    x, _ = layer(A, p, torch.tensor(1))
    close(x, layer(A, p.double(), 1.0)[0], 1e-12)
    assert x.dtype == torch.float64
    x, _ = layer(np.ones((2, 3), int), p, 1)
    assert x.dtype == torch.get_default_dtype()
    close(jax_layer(A_VALUE, jnp.array([1, 2, 3]), 1)[0], layer(A, p.double(), 1.0)[0], 1e-12)


def test_a_parameter_that_does_not_require_grad(layer):
    A, p = torch.as_tensor(A_VALUE), torch.ones(3, dtype=torch.float64, requires_grad=True)
    layer(A, p, 0.2)[0].sum().backward()
    assert A.grad is None and p.grad is not None
    x, _ = layer(A, p.detach(), 0.2)
    assert not x.requires_grad


def test_views_expanded_and_strided_tensors(layer):
    A = torch.as_tensor(A_VALUE.T.copy()).T
    assert not A.is_contiguous()
    p = draw(3, 10).T[::2, :]
    assert p.shape == (5, 3) and not p.is_contiguous()
    b = torch.tensor(0.3, dtype=torch.float64).expand(5)
    inputs = [A.requires_grad_(), p.clone().T.contiguous().T.requires_grad_(), b]
    x, _ = layer(*inputs)
    x_plain, _ = layer(A.detach().contiguous(), p.contiguous(), b.contiguous())
    close(x.detach(), x_plain, 1e-14)
    weights = torch.ones(1, dtype=torch.float64).expand(5, 3)
    x.backward(weights)
    plain = [t.detach().contiguous().clone().requires_grad_() for t in inputs[:2]]
    layer(*plain, b)[0].sum().backward()
    for a, c in zip(inputs, plain, strict=False):
        close(a.grad, c.grad, 1e-14)


def test_global_state_is_not_touched():
    before = torch.get_default_dtype(), jax.config.jax_enable_x64, np.geterr(), torch.get_num_threads()
    filters, printing = list(warnings.filters), np.get_printoptions()
    for library in (cvxlayers.torch, cvxlayers.jax):
        made = nearest(library)
        made.solve(A_VALUE, np.ones(3), 0.5)
    cvxlayers.solve(cp.Problem(cp.Minimize(cp.square(cp.Variable() - 1))))
    assert before == (torch.get_default_dtype(), jax.config.jax_enable_x64, np.geterr(), torch.get_num_threads())
    assert filters == warnings.filters and printing == np.get_printoptions()


def test_inputs_are_not_changed(layer):
    inputs = [torch.as_tensor(A_VALUE), torch.ones(3, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64)]
    before = [t.clone() for t in inputs]
    inputs[1].requires_grad_()
    layer(*inputs)[0].sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(before, inputs, strict=True))


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_wrong_shapes_name_the_parameter(layer, jax_layer, library):
    call = layer if library == "torch" else jax_layer
    with pytest.raises(ShapeError, match=r"parameter 'A' should end in \(2, 3\); got \(10, 3, 2\)"):
        call(np.ones((10, 3, 2)), np.ones(3), 1.0)
    with pytest.raises(ShapeError, match="parameter 'p'"):
        call(A_VALUE, 1.0, 1.0)
    with pytest.raises(ShapeError, match=r"\(4,\) of parameter 'b' do not broadcast with \(3,\)"):
        call(A_VALUE, np.ones((3, 3)), np.ones(4))
    with pytest.raises(ShapeError, match=r"3 parameters \('A', 'p', 'b'\); got 2"):
        call(A_VALUE, np.ones(3))
    with pytest.raises(ShapeError, match="got 4"):
        call(A_VALUE, np.ones(3), 1.0, 1.0)
    for nothing in (None, "text", object(), {}):
        with pytest.raises(ShapeError):
            call(A_VALUE, np.ones(3), nothing)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_a_complex_value_for_a_real_parameter(layer, jax_layer, library):
    call = layer if library == "torch" else jax_layer
    with pytest.raises(ShapeError, match="'p'"):
        call(A_VALUE, np.ones(3) + 1j, 1.0)


def test_unusual_tensors(layer):
    A, p = torch.as_tensor(A_VALUE), torch.ones(3, dtype=torch.float64)
    with pytest.raises(ShapeError):
        layer(A.to("meta"), p.to("meta"), torch.tensor(0.5, device="meta"))
    with pytest.raises(ShapeError):
        layer(A, p.to("meta"), 0.5)
    with pytest.raises(ShapeError, match="A"):
        layer(A.to_sparse(), p, 0.5)


def test_errors_are_value_errors():
    for error in (ProblemError, ShapeError, SettingsError):
        assert issubclass(error, ValueError) and issubclass(error, CvxlayersError)
    assert issubclass(SolverError, RuntimeError) and issubclass(SolverError, CvxlayersError)


def test_no_parameters():
    x = cp.Variable(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - 1)), [x <= 0.5])
    (in_torch,) = cvxlayers.torch.CvxpyLayer(problem, [], [x])()
    (in_jax,) = jax.jit(cvxlayers.jax.CvxpyLayer(problem, [], [x]))()
    close(in_torch, [0.5, 0.5], 1e-6)
    close(in_jax, [0.5, 0.5], 1e-6)
    assert in_torch.dtype == torch.get_default_dtype()
    close(cvxlayers.solve(problem)[x], [0.5, 0.5], 1e-6)
    result = cvxlayers.torch.CvxpyLayer(problem, [], [x]).solve()
    close(result.objective, 0.5, 1e-6)
    assert result.certificate.unique.all()


def test_the_count_of_parameters_that_was_expected():
    x, p = cp.Variable(2), cp.Parameter(2, name="p")
    objective = cp.Minimize(cp.sum_squares(x - 1))
    with pytest.raises(ShapeError, match="expected 0 parameters; got 1"):
        cvxlayers.torch.CvxpyLayer(cp.Problem(objective), [], [x])(1.0)
    with pytest.raises(ShapeError, match=r"expected 1 parameter \('p'\); got 2"):
        cvxlayers.torch.CvxpyLayer(cp.Problem(objective, [x >= p]), [p], [x])(np.ones(2), 1.0)


def test_no_variables_asked_for():
    x, p = cp.Variable(2), cp.Parameter(2)
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x <= 0])
    layer = cvxlayers.torch.CvxpyLayer(problem, [p], [])
    v = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)
    assert layer(v) == ()
    result = layer.solve(v)
    result.objective.sum().backward()
    close(v.grad, 2 * np.ones((3, 2)), 1e-6)


def test_an_empty_parameter():
    x, p, e = cp.Variable(2), cp.Parameter(2), cp.Parameter((0, 2))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [e @ x == 0])
    for library in (cvxlayers.torch, cvxlayers.jax):
        layer = library.CvxpyLayer(problem, [p, e], [x])
        close(layer(np.ones(2), np.zeros((0, 2)))[0], [1, 1], 1e-7)
        close(layer(np.ones((3, 2)), np.zeros((3, 0, 2)))[0], np.ones((3, 2)), 1e-7)
    v, nothing = torch.ones(3, 2, requires_grad=True), torch.zeros(3, 0, 2, requires_grad=True)
    cvxlayers.torch.CvxpyLayer(problem, [p, e], [x])(v, nothing)[0].sum().backward()
    assert nothing.grad.shape == (3, 0, 2)


def test_a_parameter_without_influence():
    x, p, q = cp.Variable(2), cp.Parameter(2), cp.Parameter((2, 3))
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x - p) + 0 * cp.sum(q)))
    for library in (cvxlayers.torch, cvxlayers.jax):
        layer = library.CvxpyLayer(problem, [p, q], [x])
        for p_lead, q_lead in (((), ()), ((4,), (4,)), ((), (4,)), ((4,), ())):
            p_value, q_value = np.ones((*p_lead, 2)), np.ones((*q_lead, 2, 3))
            if library is cvxlayers.torch:
                inputs = [torch.from_numpy(v).requires_grad_() for v in (p_value, q_value)]
                layer(*inputs)[0].sum().backward()
                gradient = inputs[1].grad
            elif p_lead == q_lead:
                gradient = jax.jit(jax.grad(lambda q, p=p_value, f=layer: f(p, q)[0].sum()))(q_value)
            else:
                continue
            assert gradient.shape == q_value.shape and not np.asarray(gradient).any()


def test_a_huge_batch_of_tiny_problems():
    x, p = cp.Variable(2), cp.Parameter(2)
    layer = cvxlayers.torch.CvxpyLayer(cp.Problem(cp.Minimize(cp.sum_squares(x - p)), [x >= 0]), [p], [x])
    v = draw(10_000, 2).requires_grad_()
    (y,) = layer(v)
    close(y.detach(), v.detach().clamp(min=0), 1e-7)
    y.sum().backward()
    close(v.grad, (v.detach() > 0).double(), 1e-6)


@pytest.mark.parametrize("solver", [None, "native"])
def test_the_gradient_of_an_empty_batch_of_conic_programs(solver):
    x, a, b = cp.Variable(4), cp.Parameter((3, 4)), cp.Parameter(3)
    problem = cp.Problem(cp.Minimize(cp.norm(a @ x - b)), [x >= -1, x <= 1])
    A = torch.zeros(0, 3, 4, dtype=torch.float64, requires_grad=True)
    cvxlayers.torch.CvxpyLayer(problem, [a, b], [x], solver=solver)(A, torch.zeros(3, dtype=torch.float64))[
        0
    ].sum().backward()
    assert A.grad is not None and A.grad.shape == A.shape
