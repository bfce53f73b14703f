# SPDX-License-Identifier: Apache-2.0
"""Fills the gaps in the memory of the parent, so that what comes after lies together.

Importing modules leaves gaps all over the memory. What a fork makes would be put into them, and
each is on a page that the fork has to copy first. With the gaps filled it is put side by side on
pages that are nobody else's. What fills them is never looked at again, and costs a fork nothing.
"""

import sys

try:
    import ctypes
except ImportError:
    ctypes = None

# The memory for objects comes in pools of one size of object each.
_POOL = 16384 if sys.version_info >= (3, 10) else 4096
_POOL_HEADER = 48
_LARGEST = 512
_STEP = 16
# What an object of bytes takes beside its bytes.
_BYTES = sys.getsizeof(b"")

# More gaps of one size are not filled, and no more bytes of gaps: a library that keeps its memory
# in another way is left alone.
_MOST = 4096
_MOST_BYTES = 8 << 20
# So many blocks in a row that lie side by side are not in gaps.
_IN_A_ROW = 8


def fill():
    """Fills the gaps; returns what has to be kept for ever."""
    kept = []
    _fill_pools(kept)
    if ctypes is not None:
        _fill_blocks()
    return kept


def _fill_pools(kept):
    makers = [object, lambda: float(len(kept))]
    makers += [
        lambda size=size: bytes(size - _BYTES)
        for size in range(3 * _STEP, _LARGEST + 1, _STEP)
    ]
    for make in makers:
        for _ in range(_MOST):
            block = make()
            if id(block) % _POOL == _POOL_HEADER:
                # The first of a pool: all others of this size are full.
                break
            kept.append(block)


def _fill_blocks():
    """The same for what is too large for pools, which the C library keeps by size."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = (ctypes.c_size_t,)
    libc.free.argtypes = (ctypes.c_void_p,)
    libc.free.restype = None
    if hasattr(libc, "malloc_trim"):
        # What has no memory behind it is not copied either.
        libc.malloc_trim(0)
    # Large gaps first: a smaller block would leave the rest of one.
    sizes = [1 << power for power in range(16, 10, -1)]
    gaps, gap_bytes = [], 0
    for size in sizes + list(range(1024, 0, -_STEP)):
        row = []
        while len(row) < _IN_A_ROW and gap_bytes <= _MOST_BYTES:
            block = libc.malloc(size)
            if not block:
                break
            if row and not size <= block - row[-1] < size + 2 * _STEP:
                gaps += row
                gap_bytes += size * len(row)
                row = []
            row.append(block)
        for block in reversed(row):
            libc.free(block)
    if gap_bytes > _MOST_BYTES:
        for block in gaps:
            libc.free(block)
