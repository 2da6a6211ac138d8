"""Compilation that takes long says so, once in a process."""

import time

from cvxlayers.compiled import compiler


def test_long_compilation_is_announced_once(monkeypatch, caplog):
    monkeypatch.setattr(compiler, "_LONG", 0.01)
    compiler._announce.cache_clear()
    for _ in range(2):
        with compiler._announced():
            time.sleep(0.3)
    assert [record.name for record in caplog.records] == ["cvxlayers"]
    assert "compiles kernels" in caplog.text


def test_kernels_from_the_cache_are_not_announced(caplog):
    compiler._announce.cache_clear()
    with compiler._announced():
        pass
    time.sleep(0.1)
    assert not caplog.records
