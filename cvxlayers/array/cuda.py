"""Kernels for NVIDIA GPUs: CUDA text, compiled at run time by NVRTC and started on a stream of PyTorch or of XLA.

The driver and the compiler are reached through the package cuda-bindings, which PyTorch's CUDA builds bring along; no
nvcc is needed. Machine code is kept in the user's cache folder (XDG_CACHE_HOME). Where anything is missing, `available`
says so, and nothing raises.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from array_api_compat import is_torch_array

LEAST_CAPABILITY = (8, 0)  # matrix instructions in float64
MOST_SIDES = 24  # streams of a device that are kept while nobody uses them
SIDE_NUMBERS = 1024  # that can be copied to the host beside such a stream
_DIGEST = 32  # bytes in front of machine code that is kept
_NOT_READY = 600  # the driver's word for what has not ended


class CudaError(RuntimeError):
    """A call of the driver or of the compiler failed."""


def _bindings() -> tuple[Any, Any]:
    from cuda.bindings import driver, nvrtc  # pyright: ignore[reportMissingImports]

    return driver, nvrtc


def _check(result: tuple, log: str = "") -> Any:
    error, *values = result
    if int(error) != 0:
        raise CudaError(f"{error.name}{log and ': ' + log}")
    return values[0] if len(values) == 1 else values


@cache
def _primary(index: int) -> Any:
    """The context of a device that PyTorch and XLA share; made if there is none."""
    driver, _ = _bindings()
    _check(driver.cuInit(0))
    return _check(driver.cuDevicePrimaryCtxRetain(_check(driver.cuDeviceGet(index))))


@contextmanager
def _on(context: Any) -> Iterator[None]:
    """With the context as the thread's current one."""
    driver, _ = _bindings()
    _check(driver.cuCtxPushCurrent(context))
    try:
        yield
    finally:
        _check(driver.cuCtxPopCurrent())


@cache
def _attribute(index: int, name: str) -> int:
    driver, _ = _bindings()
    attribute = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
    return _check(driver.cuDeviceGetAttribute(attribute, _check(driver.cuDeviceGet(index))))


@cache
def _capability(index: int) -> tuple[int, int] | None:
    """The compute capability of a device that can compile and run kernels; None for any other."""
    try:
        driver, _ = _bindings()
        with _on(_primary(index)):
            major, minor = (_attribute(index, f"COMPUTE_CAPABILITY_{part}") for part in ("MAJOR", "MINOR"))
            # A compiler that is newer than the driver makes code that the driver does not load.
            code = _machine_code(b'extern "C" __global__ void probe() {}', "probe.cu", [_target((major, minor))])
            _check(driver.cuModuleUnload(_check(driver.cuModuleLoadData(code))))
    except Exception:  # no driver, no compiler, libraries of other versions: whatever it is, there are no kernels
        return None
    return (major, minor) if (major, minor) >= LEAST_CAPABILITY else None


def of_jax(device: Any) -> bool:
    """Whether a device is one of JAX; else it is one of PyTorch."""
    return hasattr(device, "local_hardware_id")


def _index(device: Any) -> int | None:
    """The driver's number of a device of PyTorch or JAX, or that number; None if it is no NVIDIA GPU."""
    if isinstance(device, int):
        return device
    if of_jax(device):
        return device.local_hardware_id if device.platform in ("gpu", "cuda") else None
    import torch

    device = torch.device(device)
    if device.type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return None
    return torch.cuda.current_device() if device.index is None else device.index


def available(device: Any) -> bool:
    """Whether kernels can be compiled for, and run on, a device of PyTorch or JAX."""
    index = _index(device)
    return index is not None and _capability(index) is not None


def reachable(x: Any) -> bool:
    """Whether x is a PyTorch tensor on such a device, and not one of a transform: a kernel may be given its address."""
    if not (is_torch_array(x) and x.is_cuda):
        return False
    import torch

    return not torch._C._are_functorch_transforms_active() and available(x.device)


def shared_memory(device: Any) -> int:
    """The most shared memory, in bytes, that one thread block may have; of a device that is `available`."""
    index = _index(device)
    return 0 if index is None else _attribute(index, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN")


def multiprocessors(device: Any) -> tuple[int, bool]:
    """How many multiprocessors a device has, and whether thread blocks can work in clusters there."""
    index = _index(device)
    if index is None:
        return 0, False
    return _attribute(index, "MULTIPROCESSOR_COUNT"), _attribute(index, "COMPUTE_CAPABILITY_MAJOR") >= 9


def cache_folder() -> Path | None:
    """Where machine code is kept; None for a user without a home."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvxlayers" / "cuda"
    except RuntimeError:
        return None


def _target(capability: tuple[int, int]) -> str:
    return "--gpu-architecture=sm_{}{}".format(*capability)


def _machine_code(text: bytes, name: str, options: list[str]) -> bytes:
    _, nvrtc = _bindings()
    program = _check(nvrtc.nvrtcCreateProgram(text, name.encode(), 0, [], []))
    done = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    if int(done[0]) != 0:
        log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        _check(done, log.decode(errors="replace"))
    code = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
    _check(nvrtc.nvrtcGetCUBIN(program, code))
    _check(nvrtc.nvrtcDestroyProgram(program))
    return code


def compile_text(source: Path, macros: dict[str, int], capability: tuple[int, int]) -> bytes:
    """Machine code of the text in ``source``, from the cache if it is there."""
    _, nvrtc = _bindings()
    options = [_target(capability), "--std=c++17", f"--include-path={source.parent}"]
    options += [f"-D{name}={value}" for name, value in sorted(macros.items())]
    key = hashlib.sha256(repr((_check(nvrtc.nvrtcVersion()), options[:2], options[3:], source.name)).encode())
    for file in sorted([*source.parent.glob("*.cuh"), source]):
        key.update(file.read_bytes())
    folder = cache_folder()
    cached = folder and folder / f"{key.hexdigest()[:32]}.code"
    code = cached and _kept(cached)
    if code is None:
        code = _machine_code(source.read_bytes(), source.name, options)
        if cached:
            _keep(cached, code)
    return code


def _kept(file: Path) -> bytes | None:
    """Machine code from the cache; None where there is none, or not all of it, as after a full disk or a power cut."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, code = content[:_DIGEST], content[_DIGEST:]
    return code if hashlib.sha256(code).digest() == digest else None


def _keep(file: Path, code: bytes) -> None:
    """Put machine code behind its digest into the cache, in one step; a read-only home keeps none."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        part = tempfile.NamedTemporaryFile(dir=file.parent, delete=False)  # noqa: SIM115
        try:
            with part:
                part.write(hashlib.sha256(code).digest() + code)
            os.replace(part.name, file)
        except BaseException:
            os.unlink(part.name)
            raise


class Kernel:
    """One kernel on one device, with the shared memory of its blocks allowed for."""

    def __init__(self, source: Path, name: str, macros: dict[str, int], shared_bytes: int, device: Any) -> None:
        index = _index(device)
        capability = None if index is None else _capability(index)
        if index is None or capability is None:
            raise CudaError(f"kernels cannot be compiled for {device}")
        self.index, self.shared_bytes = index, shared_bytes
        driver, _ = _bindings()
        code = compile_text(source, macros, capability)
        with _on(_primary(index)):
            self._module = _check(driver.cuModuleLoadData(code))
            self._function = _check(driver.cuModuleGetFunction(self._module, name.encode()))
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _check(driver.cuFuncSetAttribute(self._function, attribute, shared_bytes))

    def __call__(self, blocks: int, threads: int, arguments: ctypes.Structure, stream: int | None = None) -> None:
        """Start ``blocks`` thread blocks with one structure of arguments.

        On PyTorch's current stream, or on ``stream``, the address of one of this device.
        """
        if stream is None:
            import torch

            stream = torch.cuda.current_stream(self.index).cuda_stream
        with _on(_primary(self.index)):  # a thread may have none yet
            self.prepared(blocks, threads, arguments)(stream)

    def prepared(self, blocks: int, threads: int, arguments: ctypes.Structure) -> Prepared:
        """The same start with everything but the stream; it can be repeated."""
        return Prepared(self._function, (blocks, 1, 1, threads, 1, 1, self.shared_bytes), arguments)


class Prepared:
    """A start of a kernel, which tells it what the structure of arguments says at that time."""

    def __init__(self, function: Any, sizes: tuple[int, ...], arguments: ctypes.Structure) -> None:
        driver, _ = _bindings()
        self._launch, self._function, self._sizes, self._arguments = driver.cuLaunchKernel, function, sizes, arguments
        self._pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        self._address = ctypes.addressof(self._pointers)

    def __call__(self, stream: Any) -> None:
        """Queue it on a stream of the kernel's device, whose context is the thread's current one."""
        _check(self._launch(self._function, *self._sizes, stream, self._address, 0))


class Side:
    """A stream beside the caller's, with an event, and memory of the host that copies from the device go to.

    Of the thread's current context; for one call at a time.
    """

    def __init__(self) -> None:
        driver, _ = _bindings()
        self.stream = _check(driver.cuStreamCreate(int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING)))
        self.event = _check(driver.cuEventCreate(int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
        self._memory = int(_check(driver.cuMemHostAlloc(4 * SIDE_NUMBERS, 0)))
        self._copied = 0

    def recorded(self) -> bool:
        """Whether what is queued becomes part of a CUDA graph."""
        driver, _ = _bindings()
        return int(_check(driver.cuStreamIsCapturing(self.stream))) != 0

    def copy(self, address: int, count: int) -> None:
        """Queue a copy of ``count`` integers of 32 bits to the host; see `came`."""
        if count > SIDE_NUMBERS:
            raise ValueError(f"at most {SIDE_NUMBERS} numbers can be copied; got {count}.")
        driver, _ = _bindings()
        _check(driver.cuMemcpyDtoHAsync(self._memory, address, 4 * count, self.stream))
        _check(driver.cuEventRecord(self.event, self.stream))
        self._copied = count

    def came(self) -> np.ndarray | None:
        """What was copied, if it has come by now; until the next copy."""
        driver, _ = _bindings()
        result = driver.cuEventQuery(self.event)
        if int(result[0]) == _NOT_READY:
            return None
        _check(result)
        return np.ctypeslib.as_array((ctypes.c_int32 * self._copied).from_address(self._memory))

    def follow(self, stream: Any) -> None:
        """Go on from where another stream is now."""
        driver, _ = _bindings()
        _check(driver.cuEventRecord(self.event, stream))
        _check(driver.cuStreamWaitEvent(self.stream, self.event, 0))

    def lead(self, stream: Any) -> None:
        """Let another stream wait for this one."""
        driver, _ = _bindings()
        _check(driver.cuEventRecord(self.event, self.stream))
        _check(driver.cuStreamWaitEvent(stream, self.event, 0))

    def close(self) -> None:
        """Free all of it, when what was queued has ended."""
        driver, _ = _bindings()
        _check(driver.cuStreamSynchronize(self.stream))
        _check(driver.cuStreamDestroy(self.stream))
        _check(driver.cuEventDestroy(self.event))
        _check(driver.cuMemFreeHost(self._memory))


_sides: dict[int, list[Side]] = {}  # of each device, those that nobody uses
_sides_lock = threading.Lock()


@contextmanager
def beside(device: Any, count: int, stream: int | None = None) -> Iterator[Sequence[Side]]:
    """``count`` streams of a device that go on from where ``stream`` is, which waits for them at the end.

    ``stream`` is the address of one of this device, or None for PyTorch's current one. While they are used, the context
    of the device is the thread's current one. The caller may be recording a CUDA graph: all that is queued becomes part
    of it.
    """
    index = _index(device)
    if index is None:
        raise CudaError(f"{device} has no streams")
    if stream is None:
        import torch

        stream = torch.cuda.current_stream(index).cuda_stream
    with _on(_primary(index)), _relaxed():
        sides = _taken(index, count)
        try:
            for side in sides:
                side.follow(stream)
            try:
                yield sides
            finally:
                for side in sides:
                    side.lead(stream)
        finally:
            _returned(index, sides)


def _taken(index: int, count: int) -> list[Side]:
    """Streams of the current context that nobody else uses, nor a graph that is still recorded."""
    with _sides_lock:
        kept = _sides.setdefault(index, [])
        found = [side for side in kept if not side.recorded()][:count]
        for side in found:
            kept.remove(side)
    return found + [Side() for _ in range(count - len(found))]


def _returned(index: int, sides: Sequence[Side]) -> None:
    with _sides_lock:
        kept = _sides[index]
        kept += sides
        # A stream stays with a graph until its recording ends, and cannot be closed before.
        gone = [side for side in kept if not side.recorded()][: max(0, len(kept) - MOST_SIDES)]
        for side in gone:
            kept.remove(side)
    for side in gone:
        side.close()


@contextmanager
def _relaxed() -> Iterator[None]:
    """With this thread free to make and to ask events while another one records a CUDA graph."""
    driver, _ = _bindings()
    mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
    before = _check(driver.cuThreadExchangeStreamCaptureMode(mode))
    try:
        yield
    finally:
        _check(driver.cuThreadExchangeStreamCaptureMode(before))


def device_of(stream: int) -> int:
    """The driver's number of the device that a stream belongs to."""
    driver, _ = _bindings()
    return _device_of(int(_check(driver.cuStreamGetCtx(stream))))


@cache
def _device_of(context: int) -> int:
    driver, _ = _bindings()
    with _on(driver.CUcontext(context)):
        return int(_check(driver.cuCtxGetDevice()))
