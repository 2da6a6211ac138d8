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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from array_api_compat import is_torch_array

LEAST_CAPABILITY = (8, 0)  # matrix instructions in float64


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


def in_turn(runs: Sequence[Iterator[None]], device: Any) -> None:
    """All of the runs, each on a stream of its own, and in turn: a run yields while it waits for its stream.

    The streams go on from where PyTorch's current one is, which waits for them at the end.
    """
    import torch

    current = torch.cuda.current_stream(device)
    going = {run: torch.cuda.Stream(device) for run in runs}
    streams = list(going.values())
    for stream in streams:
        stream.wait_stream(current)
    try:
        while going:
            for run, stream in list(going.items()):
                with torch.cuda.stream(stream):
                    if next(run, going) is going:
                        del going[run]
            time.sleep(0)  # other threads may go on
    finally:
        for stream in streams:
            current.wait_stream(stream)


def on_its_way(values: Any) -> tuple[Any, Callable[[], bool]]:
    """A copy of a PyTorch tensor on the host, and whether it has come by now; queued on the current stream.

    While the caller records a CUDA graph, there is none: (None, always true).
    """
    import torch

    if torch.cuda.is_current_stream_capturing():
        return None, lambda: True
    copy, event = torch.empty(values.shape, dtype=values.dtype, pin_memory=True), torch.cuda.Event()
    copy.copy_(values, non_blocking=True)
    event.record()
    return copy, event.query


def cache_folder() -> Path:
    """Where machine code is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cvxlayers" / "cuda"


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
    cached = cache_folder() / f"{key.hexdigest()[:32]}.cubin"
    with suppress(OSError):
        return cached.read_bytes()
    code = _machine_code(source.read_bytes(), source.name, options)
    with suppress(OSError):  # a read-only home keeps no cache
        cached.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cached.parent, delete=False) as file:
            file.write(code)
        os.replace(file.name, cached)
    return code


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
        self._launch = driver.cuLaunchKernel

    def __call__(self, blocks: int, threads: int, arguments: ctypes.Structure, stream: int | None = None) -> None:
        """Start ``blocks`` thread blocks with one structure of arguments.

        On PyTorch's current stream, or on ``stream``, the address of one of this device.
        """
        if stream is None:
            import torch

            with torch.cuda.device(self.index):
                self._start(blocks, threads, arguments, torch.cuda.current_stream().cuda_stream)
        else:
            with _on(_primary(self.index)):
                self._start(blocks, threads, arguments, stream)

    def _start(self, blocks: int, threads: int, arguments: ctypes.Structure, stream: int) -> None:
        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        sizes = (blocks, 1, 1, threads, 1, 1, self.shared_bytes)
        _check(self._launch(self._function, *sizes, stream, ctypes.addressof(pointers), 0))


def device_of(stream: int) -> int:
    """The driver's number of the device that a stream belongs to."""
    driver, _ = _bindings()
    return _device_of(int(_check(driver.cuStreamGetCtx(stream))))


@cache
def _device_of(context: int) -> int:
    driver, _ = _bindings()
    with _on(driver.CUcontext(context)):
        return int(_check(driver.cuCtxGetDevice()))
