"""The pool of threads: covers what it is given, never deadlocks, survives fork and spawn."""

import multiprocessing
import os
import threading
import time

import numpy as np
import pytest

from cvxlayers import pool
from cvxlayers.solvers.blas import one_blas_thread
from cvxlayers.solvers.clarabel import Clarabel
from tests.solvers.problems import CONES, dense_program, solvable


@pytest.fixture
def many_cpus(monkeypatch):
    """Pretend to have eight CPUs, with a pool made for them."""
    monkeypatch.setattr(pool, "available_cpus", lambda: 8)
    monkeypatch.setattr(pool, "_executor", None)
    yield
    if pool._executor is not None:
        pool._executor.shutdown()


def cover(size, threads, grain=1, pause=0.0):
    hits, used = np.zeros(size, dtype=int), set()

    def worker():
        used.add(threading.get_ident())

        def do(start, stop):
            hits[start:stop] += 1
            time.sleep(pause)

        return do

    pool.run(worker, size, threads, grain)
    return hits, used


@pytest.mark.parametrize("size", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("threads", [1, 2, 3, 8, 1000])
def test_every_element_once(many_cpus, size, threads):
    hits, used = cover(size, threads, pause=1e-4)
    assert (hits == 1).all()
    assert len(used) <= min(threads, 8)


def test_more_than_one_thread_takes_part(many_cpus):
    _, used = cover(16, 4, pause=0.01)
    assert 2 <= len(used) <= 4


def test_small_work_stays_in_the_calling_thread(many_cpus):
    _, used = cover(10, 8, grain=10)
    assert used == {threading.get_ident()}


def test_nested_runs_end(many_cpus):
    total = []

    def worker():
        def do(start, stop):
            for _ in range(start, stop):
                hits, _ = cover(20, 8, pause=1e-4)
                total.append(hits.sum())

        return do

    pool.run(worker, 40, 8)
    assert total == [20] * 40


def test_several_user_threads(many_cpus):
    results = [None] * 6

    def use(k):
        results[k] = cover(50, 4, pause=1e-4)[0]

    users = [threading.Thread(target=use, args=(k,)) for k in range(6)]
    for user in users:
        user.start()
    for user in users:
        user.join(timeout=30)
    assert all((hits == 1).all() for hits in results)


def test_the_first_error_is_raised_and_the_pool_lives_on(many_cpus):
    def worker():
        def do(start, stop):
            if start <= 30 < stop:
                raise ZeroDivisionError("element 30")

        return do

    with pytest.raises(ZeroDivisionError, match="element 30"):
        pool.run(worker, 60, 4)
    assert (cover(60, 4)[0] == 1).all()


def test_never_more_cpus_than_affinity():
    assert 1 <= pool.available_cpus() <= os.cpu_count()


def test_quota(tmp_path):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert pool._quota_of(tmp_path) == 1.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert pool._quota_of(tmp_path) == np.inf
    (tmp_path / "cpu.max").unlink()
    (tmp_path / "cpu.cfs_quota_us").write_text("200000\n")
    (tmp_path / "cpu.cfs_period_us").write_text("100000\n")
    assert pool._quota_of(tmp_path) == 2.0
    assert pool._quota_of(tmp_path / "nowhere") == np.inf


@pytest.mark.parametrize("threads", [1, 2, 5, 8])
def test_solutions_do_not_depend_on_the_size_of_the_pool(many_cpus, threads):
    program = dense_program(CONES["everything"], 4)
    data = solvable(program, 24)
    prepared = Clarabel().prepare(program)
    one, other = prepared.solve(data, threads=1), prepared.solve(data, threads=threads)
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.z, other.z)


def solve_in_a_child() -> float:
    program = dense_program(CONES["linear"], 4)
    return float(Clarabel().prepare(program).solve(solvable(program, 20), threads=2).x.sum())


def send_solution(queue):
    queue.put(solve_in_a_child())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning", "ignore:.*fork.*:RuntimeWarning")
@pytest.mark.parametrize("method", sorted({"fork", "spawn"} & set(multiprocessing.get_all_start_methods())))
def test_child_processes(method):
    expected = solve_in_a_child()  # the parent's pool is running when it forks
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=send_solution, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0


def test_blas_threads_are_set_back():
    from threadpoolctl import threadpool_info

    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with one_blas_thread(), one_blas_thread():
        assert set(threads()) <= {1}
    assert threads() == before
