"""Products: groups, block-by-block agreement, group eigendecompositions, and misuse of every cone."""

import copy
import pickle

import numpy as np
import pytest

from cvxlayers.errors import SettingsError, ShapeError
from cvxlayers.sets import Exponential, Free, Nonnegative, PositiveSemidefinite, Power, Product, SecondOrder, Zero
from tests.checks import CONE_CHECKS, close

BLOCKS = (
    Zero(2),
    Zero(1),
    Nonnegative(1),
    Nonnegative(3),
    SecondOrder(3),
    SecondOrder(3),
    SecondOrder(2),
    PositiveSemidefinite(2),
    Exponential(),
    Exponential(),
    Power(0.3),
    Power(0.3),
    Power(0.4),
)


def test_groups_cover_the_product():
    cone = Product(BLOCKS)
    assert cone.size == sum(block.size for block in BLOCKS)
    assert cone.groups == (
        (Zero(3), 1, 0),
        (Nonnegative(4), 1, 3),
        (SecondOrder(3), 2, 7),
        (SecondOrder(2), 1, 13),
        (PositiveSemidefinite(2), 1, 15),
        (Exponential(), 2, 18),
        (Power(0.3), 2, 24),
        (Power(0.4), 1, 30),
    )
    assert Product((Product(BLOCKS[:3]), *BLOCKS[3:])) == cone
    assert hash(Product(BLOCKS)) == hash(cone)


def test_product_acts_block_by_block():
    cone = Product(BLOCKS)
    rng = np.random.default_rng(0)
    u, h = rng.standard_normal((2, 2, 5, cone.size))
    mu = np.array([[0.1], [0.5]]) * np.ones((2, 5))
    z, s = cone.pair(u)
    smooth = cone.smooth(z, s, mu)
    results = [z, s, cone.project(u), *smooth, cone.derivative(z, s, h), cone.derivative(*smooth, h, mu)]
    start = 0
    for block in BLOCKS:
        at = np.s_[..., start : start + block.size]
        pair = block.pair(u[at])
        block_smooth = block.smooth(*pair, mu)
        expected = [
            *pair,
            block.project(u[at]),
            *block_smooth,
            block.derivative(*pair, h[at]),
            block.derivative(*block_smooth, h[at], mu),
        ]
        for actual, wanted in zip(results, expected, strict=True):
            close(actual[at], wanted, 1e-13)
        start += block.size


def test_eigen_groups_assemble_to_eigen():
    cone = Product(BLOCKS)
    u, h = np.random.default_rng(1).standard_normal((2, 4, cone.size))
    z, s = cone.pair(u)
    lam, V, margin = cone.eigen(z, s)
    product = np.einsum("nij,nj,nkj,nk->ni", V, lam, V, h)
    close(product, cone.derivative(z, s, h), 1e-9)
    least = np.ones(4)
    for group, (block, count, start) in zip(cone.eigen_groups(z, s), cone.groups, strict=True):
        assert (group.cone, group.count, group.start) == (block, count, start)
        assert group.lam.shape == (4, count, block.size) and group.margin.shape == (4, count)
        assert group.V is None or group.V.shape == (4, count, block.size, block.size)
        least = np.minimum(least, group.margin.min(-1))
    close(margin, least, 0)


def test_dual_of_a_product():
    cone = Product((Zero(1), Nonnegative(2), Exponential()))
    assert cone.dual().blocks[:2] == (Free(1), Nonnegative(2))
    assert cone.dual().dual() == cone
    u = np.random.default_rng(0).standard_normal(cone.size)
    close(cone.dual().project(u), cone.project_dual(u), 1e-15)


@pytest.mark.parametrize("check", CONE_CHECKS[:5], ids=lambda check: check.__name__)
@pytest.mark.parametrize("cone", [Product((Exponential(), Exponential(), Power(0.3), Zero(1))), Product(())], ids=repr)
def test_checks(check, cone):
    check(cone)


@pytest.mark.parametrize("cone", [*BLOCKS, Product(BLOCKS), Free(2)], ids=repr)
def test_cones_are_values(cone):
    assert pickle.loads(pickle.dumps(cone)) == cone == copy.deepcopy(cone)
    with pytest.raises(AttributeError):
        cone.size = 3


@pytest.mark.parametrize("build", [Zero, Free, Nonnegative])
def test_sizes_are_checked(build):
    assert build(0).size == 0
    with pytest.raises(ShapeError, match="at least 0; got -1"):
        build(-1)
    with pytest.raises(ShapeError, match="integer"):
        build(1.5)


def test_misuse_raises():
    for build in (SecondOrder, PositiveSemidefinite):
        with pytest.raises(ShapeError, match="at least 1; got 0"):
            build(0)
    for alpha in (0, 1, -0.5, 2.0, float("nan"), "half"):
        with pytest.raises(SettingsError, match="strictly between 0 and 1"):
            Power(alpha)
    with pytest.raises(ShapeError, match="cones"):
        Product((Zero(1), 3))
    cone = Exponential()
    with pytest.raises(ShapeError, match=r"should end in \(3,\); got \(3, 2\)"):
        cone.project(np.zeros((3, 2)))
    with pytest.raises(ShapeError, match="floating-point"):
        Nonnegative(2).project(np.array([1, 2]))
    with pytest.raises(SettingsError, match="mu should be positive"):
        cone.smooth(np.zeros(3), np.zeros(3), 0.0)
    with pytest.raises(SettingsError, match="mu should be positive"):
        Product((Nonnegative(1),)).smooth(np.zeros(1), np.zeros(1), -1.0)
    with pytest.raises(TypeError):
        cone.project([1.0, 2.0, 3.0])
