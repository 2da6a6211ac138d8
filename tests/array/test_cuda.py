"""Streams beside the caller's, starts of kernels and the cache, with a driver that only keeps a record."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cvxlayers.array import cuda
from cvxlayers.solvers.interior_point.cuda.launch import FactorArguments

CALLER = 7


class Driver:
    """Streams do at once what is queued; those in ``recorded`` belong to a CUDA graph that is recorded."""

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self) -> None:
        self.made, self.alive, self.log, self.recorded, self.events = 100, set(), [], set(), {}
        self.mode, self.ready, self.memory, self.contexts = 0, True, {}, []

    def new(self, *_):
        self.made += 1
        self.alive.add(self.made)
        return 0, self.made

    cuStreamCreate = cuEventCreate = new

    def free(self, handle):
        self.alive.remove(handle)
        return (0,)

    cuStreamDestroy = cuEventDestroy = free

    def cuMemHostAlloc(self, size, flags):
        memory = (ctypes.c_char * size)()
        self.memory[ctypes.addressof(memory)] = memory
        return 0, ctypes.addressof(memory)

    def cuMemFreeHost(self, address):
        del self.memory[address]
        return (0,)

    def cuEventRecord(self, event, stream):
        self.events[event] = stream
        return (0,)

    def cuStreamWaitEvent(self, stream, event, flags):
        self.log.append((stream, "waits for", self.events[event]))
        if self.events[event] in self.recorded:
            self.recorded.add(stream)
        return (0,)

    def cuStreamIsCapturing(self, stream):
        return 0, int(stream in self.recorded)

    def cuStreamSynchronize(self, stream):
        assert stream not in self.recorded
        return (0,)

    def cuMemcpyDtoHAsync(self, to, address, size, stream):
        ctypes.memmove(to, address, size)
        return (0,)

    def cuEventQuery(self, event):
        return (0 if self.ready else 600,)

    def cuThreadExchangeStreamCaptureMode(self, mode):
        before, self.mode = self.mode, mode
        return 0, before

    def cuCtxPushCurrent(self, context):
        self.contexts.append(context)
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, self.contexts.pop()


@pytest.fixture
def driver(monkeypatch):
    made = Driver()
    monkeypatch.setattr(cuda, "_bindings", lambda: (made, None))
    monkeypatch.setattr(cuda, "_primary", lambda index: 1)
    monkeypatch.setattr(cuda, "_sides", {})
    return made


def streams(sides):
    return [side.stream for side in sides]


def test_they_follow_the_caller_who_waits_for_them(driver):
    for _ in range(2):
        driver.log.clear()
        with cuda.beside(0, 3, CALLER) as sides:
            used = streams(sides)
            assert driver.log == [(stream, "waits for", CALLER) for stream in used] and driver.mode == 2
        assert driver.log[3:] == [(CALLER, "waits for", stream) for stream in used] and driver.mode == 0
    assert len(set(used)) == 3 and len(driver.alive) == 6  # the same ones again


def test_the_caller_waits_after_an_error(driver):
    with pytest.raises(ValueError, match="broken"), cuda.beside(0, 2, CALLER) as sides:
        raise ValueError("broken")
    assert driver.log[2:] == [(CALLER, "waits for", stream) for stream in streams(sides)]
    assert len(cuda._sides[0]) == 2 and driver.mode == 0


def test_calls_at_the_same_time_share_nothing(driver):
    with cuda.beside(0, 2, CALLER) as one, cuda.beside(0, 2, CALLER) as two:
        handles = [handle for side in (*one, *two) for handle in (side.stream, side.event, side._memory)]
        assert len(set(handles)) == 12
    with cuda.beside(1, 1, CALLER) as other:  # of another device
        assert not set(streams(other)) & set(handles)


def test_what_a_graph_records_is_left_to_it(driver):
    """Streams stay with a recording until it ends; another call would become part of it."""
    driver.recorded.add(CALLER)
    with cuda.beside(0, 2, CALLER) as sides:
        assert all(side.recorded() for side in sides)
        used = streams(sides)
    with cuda.beside(0, 2, 8) as others:
        assert not set(used) & set(streams(others)) and not any(side.recorded() for side in others)
    driver.recorded.clear()
    with cuda.beside(0, 4, 8) as again:
        assert set(streams(again)) == {*used, *streams(others)}


def test_few_are_kept(driver, monkeypatch):
    monkeypatch.setattr(cuda, "MOST_SIDES", 2)
    with cuda.beside(0, 5, CALLER):
        assert len(driver.alive) == 10 and len(driver.memory) == 5
    assert len(driver.alive) == 4 and len(driver.memory) == len(cuda._sides[0]) == 2


def test_copies_come_when_they_come(driver):
    numbers = np.arange(5, dtype=np.int32)
    with cuda.beside(0, 1, CALLER) as (side,):
        driver.ready = False
        side.copy(numbers.ctypes.data + 4, 3)
        assert side.came() is None
        driver.ready = True
        found = side.came()
        assert found is not None and found.tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="at most 1024"):
            side.copy(numbers.ctypes.data, 1025)


def test_there_are_none_on_the_host(driver):
    with pytest.raises(cuda.CudaError, match="no streams"), cuda.beside("cpu", 1, CALLER):
        pass


def test_what_is_prepared_can_be_started_again(driver):
    """A start tells the kernel what the arguments say by then."""

    class Arguments(ctypes.Structure):
        _fields_ = [("number", ctypes.c_int)]

    told = []

    def launch(function, *rest):
        *sizes, stream, pointers, _ = rest
        address = ctypes.c_void_p.from_address(pointers).value
        assert address is not None
        told.append((function, *sizes, stream, Arguments.from_address(address).number))
        return (0,)

    driver.cuLaunchKernel = launch
    arguments = Arguments(3)
    start = cuda.Prepared("f", (2, 1, 1, 64, 1, 1, 99), arguments)
    start(CALLER)
    arguments.number = 4
    start(CALLER)
    assert told == [("f", 2, 1, 1, 64, 1, 1, 99, CALLER, number) for number in (3, 4)]


@pytest.mark.parametrize("stream", [None, CALLER])
def test_a_kernel_starts_in_the_context_of_its_device(driver, monkeypatch, stream):
    """Also in a thread that has none yet, where PyTorch makes none for device 0."""
    launched = []
    driver.cuModuleLoadData = driver.cuModuleGetFunction = lambda *args: (0, "f")
    driver.cuFuncSetAttribute = lambda *args: (0,)
    driver.CUfunction_attribute = SimpleNamespace(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8)
    driver.cuLaunchKernel = lambda *args: launched.append((args[8], list(driver.contexts))) or (0,)
    monkeypatch.setattr(cuda, "_capability", lambda index: (9, 0))
    monkeypatch.setattr(cuda, "compile_text", lambda *args: b"code")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(cuda_stream=CALLER))
    kernel = cuda.Kernel(Path("f.cu"), "f", {}, 99, 0)
    kernel(2, 64, FactorArguments(), stream)
    assert launched == [(CALLER, [1])] and not driver.contexts


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Texts that were compiled, by a compiler that hands them back."""
    made = []

    def machine_code(text, name, options):
        made.append(name)
        return b"code of " + text

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "_bindings", lambda: (None, SimpleNamespace(nvrtcVersion=lambda: (0, 12, 8))))
    monkeypatch.setattr(cuda, "_machine_code", machine_code)
    (tmp_path / "f.cu").write_text("text")
    return SimpleNamespace(
        made=made, source=tmp_path / "f.cu", get=lambda: cuda.compile_text(tmp_path / "f.cu", {}, (9, 0))
    )


def kept(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and file.name != "f.cu"]


@pytest.mark.parametrize("rest", [0, 1, 32, 40])
def test_machine_code_that_was_cut_off_is_made_again(compiled, tmp_path, rest):
    assert compiled.get() == compiled.get() == b"code of text" and len(compiled.made) == 1
    (file,) = kept(tmp_path)
    file.write_bytes(file.read_bytes()[:rest])
    assert compiled.get() == compiled.get() == b"code of text" and len(compiled.made) == 2


def test_nothing_is_left_of_code_that_cannot_be_kept(compiled, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    assert compiled.get() == b"code of text" and not kept(tmp_path)


def test_without_a_home_nothing_is_kept(compiled, tmp_path, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cuda.cache_folder() is None
    assert compiled.get() == compiled.get() == b"code of text" and len(compiled.made) == 2
