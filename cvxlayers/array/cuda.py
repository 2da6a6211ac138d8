"""Kernels for NVIDIA GPUs: CUDA text, compiled at run time by NVRTC and started on PyTorch's current stream.

The driver and the compiler are reached through the package cuda-bindings, which PyTorch's CUDA builds bring along; no
nvcc is needed. Machine code is kept in the user's cache folder (XDG_CACHE_HOME). Where anything is missing, `available`
says so, and nothing raises.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import tempfile
from contextlib import suppress
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
def _capability(index: int) -> tuple[int, int] | None:
    """The compute capability of a device that can compile and run kernels; None for any other."""
    import torch

    try:
        driver, _ = _bindings()
        capability = torch.cuda.get_device_capability(index)
        with torch.cuda.device(index):
            torch.cuda.current_stream().synchronize()
            # A compiler that is newer than the driver makes code that the driver does not load.
            code = _machine_code(b'extern "C" __global__ void probe() {}', "probe.cu", [_target(capability)])
            _check(driver.cuModuleUnload(_check(driver.cuModuleLoadData(code))))
    except Exception:  # no driver, no compiler, libraries of other versions: whatever it is, there are no kernels
        return None
    return capability if capability >= LEAST_CAPABILITY else None


def _index(device: Any) -> int:
    import torch

    device = torch.device(device)
    return torch.cuda.current_device() if device.index is None else device.index


def available(device: Any) -> bool:
    """Whether kernels can be compiled for, and run on, a PyTorch device."""
    import torch

    if torch.device(device).type != "cuda" or torch.version.cuda is None or not torch.cuda.is_available():
        return False
    return _capability(_index(device)) is not None


def reachable(x: Any) -> bool:
    """Whether x is a PyTorch tensor on such a device, and not one of a transform: a kernel may be given its address."""
    if not (is_torch_array(x) and x.is_cuda):
        return False
    import torch

    return not torch._C._are_functorch_transforms_active() and available(x.device)


def shared_memory(device: Any) -> int:
    """The most shared memory, in bytes, that one thread block may have."""
    import torch

    properties = torch.cuda.get_device_properties(_index(device))
    return int(getattr(properties, "shared_memory_per_block_optin", 0))


def multiprocessors(device: Any) -> tuple[int, bool]:
    """How many multiprocessors a device has, and whether thread blocks can work in clusters there."""
    import torch

    properties = torch.cuda.get_device_properties(_index(device))
    return properties.multi_processor_count, properties.major >= 9


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
        import torch

        self.device, self.shared_bytes = torch.device("cuda", _index(device)), shared_bytes
        driver, _ = _bindings()
        with torch.cuda.device(self.device):
            torch.cuda.current_stream().synchronize()  # there is a context from here on
            code = compile_text(source, macros, torch.cuda.get_device_capability(self.device))
            self._module = _check(driver.cuModuleLoadData(code))
            self._function = _check(driver.cuModuleGetFunction(self._module, name.encode()))
            attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            _check(driver.cuFuncSetAttribute(self._function, attribute, shared_bytes))
        self._launch = driver.cuLaunchKernel

    def __call__(self, blocks: int, threads: int, arguments: ctypes.Structure) -> None:
        """Start ``blocks`` thread blocks with one structure of arguments, on the current stream of the device."""
        import torch

        pointers = (ctypes.c_void_p * 1)(ctypes.addressof(arguments))
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream().cuda_stream
            _check(
                self._launch(
                    self._function, blocks, 1, 1, threads, 1, 1, self.shared_bytes, stream,
                    ctypes.addressof(pointers), 0,
                )
            )  # fmt: skip
