"""Streams beside the caller's, with a driver that only keeps a record of what it is asked."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from cvxlayers.array import cuda

CALLER = 7


class Driver:
    """Streams do at once what is queued; those in ``recorded`` belong to a CUDA graph that is recorded."""

    CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=1)
    CUevent_flags = SimpleNamespace(CU_EVENT_DISABLE_TIMING=2)
    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_RELAXED=2)

    def __init__(self) -> None:
        self.made, self.alive, self.log, self.recorded, self.events = 100, set(), [], set(), {}
        self.mode, self.ready, self.memory = 0, True, {}

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
        return (0,)

    def cuCtxPopCurrent(self):
        return 0, 0


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
