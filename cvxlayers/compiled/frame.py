"""The frame of a call through XLA's foreign function interface, as compiled code reads it.

XLA calls ``XLA_FFI_Error *handler(XLA_FFI_CallFrame *)``; ``xla/ffi/api/c_api.h`` in ``jax.ffi.include_dir()`` has the
structures, which have been the same since its version 0.1. Here each is the array of its words of 64 bits, of which the
first says how many bytes XLA has filled in.
"""

from __future__ import annotations

import numpy as np

from cvxlayers.compiled.compiler import apart, lent, memory

carray, pointer = memory()

OPERANDS, RESULTS, ATTRIBUTES = 9, 14, 20  # words of a frame, where the addresses of these lie
_OPERANDS, _RESULTS, _ATTRIBUTES = 7, 12, 17  # and how many there are
_EXTENSION, _STAGE, _FRAME = 1, 4, 21
_DTYPE, _DATA, _RANK, _DIMS, _BUFFER = 2, 3, 4, 5, 6  # words of a buffer
_FLOAT32, _FLOAT64, _INT32 = 11, 12, 4  # types of its entries
_HALF = 0xFFFFFFFF  # an enumeration fills the lower half of its word
_EXECUTE = 3  # the stage in which there is work to do


@apart
def words(address, count):
    """The words at an address."""
    return carray(pointer(address), count, np.int64)


@apart
def is_a_call(frame, operands, results, attributes):
    """Whether this is a call as the handler knows them, with so many operands, results and attributes."""
    of = words(frame, 1)
    if of[0] < 8 * _FRAME:
        return False
    of = words(frame, _FRAME)
    counts = of[_OPERANDS], of[_RESULTS], of[_ATTRIBUTES]
    if of[_EXTENSION] != 0 or (of[_STAGE] & _HALF) != _EXECUTE or counts != (operands, results, attributes):
        return False
    for kind, count in ((OPERANDS, operands), (RESULTS, results)):
        buffers = words(of[kind], count)
        for i in range(count):
            buffer = words(buffers[i], _BUFFER)
            dtype = buffer[_DTYPE] & _HALF
            if buffer[0] < 8 * _BUFFER or (dtype != _FLOAT32 and dtype != _FLOAT64 and dtype != _INT32):
                return False
    return True


@apart
def attribute(frame, i):
    """The address of the value of scalar attribute i, in the order of their names."""
    scalar = words(words(words(frame, _FRAME)[ATTRIBUTES], i + 1)[i], 2)
    return scalar[1]


@apart
def integer(frame, i):
    return words(attribute(frame, i), 1)[0]


@apart
def real(frame, i):
    return carray(pointer(attribute(frame, i)), 1, np.float64)[0]


@apart
def buffer(frame, kind, i):
    """Operand or result i, as its words."""
    return words(words(words(frame, _FRAME)[kind], i + 1)[i], _BUFFER)


@apart
def shape(buffer):
    return words(buffer[_DIMS], buffer[_RANK])


@apart
def stacked(buffer, lead):
    """The entries of a buffer (*own lead, rows, columns) or (*own lead, columns) in double precision, as (k, entries).

    ``lead`` are the batch dimensions of the call, of which the buffer has as many, and ones in the place of those along
    which it is the same: k is 1 where it is so along all of them, else the size of the batch. (1, 0) is an empty one.
    """
    dims = shape(buffer)
    have, size = 1, 1
    for k in range(dims.size):
        if k < lead.size:
            have *= dims[k]
        else:
            size *= dims[k]
    batch = 1
    for k in range(lead.size):
        batch *= lead[k]
    if size == 0 or dims.size <= lead.size:
        return np.empty((1, 0))
    single = (buffer[_DTYPE] & _HALF) == _FLOAT32
    if (have == 1 or have == batch) and not single:
        return carray(pointer(buffer[_DATA]), (have, size), np.float64)
    count = 1 if have == 1 else batch
    out = np.empty((count, size))
    narrow = carray(pointer(buffer[_DATA]), (have, size), np.float32)
    wide = carray(pointer(buffer[_DATA]), (have, size), np.float64)
    for i in range(count):
        at = i if have == count else place(i, lead, dims)
        if single:
            for j in range(size):
                out[i, j] = narrow[at, j]
        else:
            for j in range(size):
                out[i, j] = wide[at, j]
    return out


@lent
def place(i, lead, own):
    """Where element i of a batch of shape ``lead`` stands in one of shape ``own``, which has ones in some places."""
    at, step = 0, 1
    for k in range(lead.size - 1, -1, -1):
        if own[k] > 1:
            at += step * (i % lead[k])
            step *= own[k]
        i //= lead[k]
    return at


@apart
def write(buffer, values):
    """Values (size,) to a buffer of any of the types."""
    dtype = buffer[_DTYPE] & _HALF
    if dtype == _FLOAT64:
        doubles = carray(pointer(buffer[_DATA]), values.size, np.float64)
        for k in range(values.size):
            doubles[k] = values[k]
    elif dtype == _FLOAT32:
        floats = carray(pointer(buffer[_DATA]), values.size, np.float32)
        for k in range(values.size):
            floats[k] = values[k]
    else:
        integers = carray(pointer(buffer[_DATA]), values.size, np.int32)
        for k in range(values.size):
            integers[k] = np.int32(values[k])
