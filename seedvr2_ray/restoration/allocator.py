"""What the C library does with freed memory, which is not the same good for every restorer."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
_SMALL, _KEPT = 1 << 20, 1 << 30
_USUAL_MAPS = 65536


def tune_allocator(*, reuse_buffers: bool) -> None:
    """Decide for this process whether large freed buffers go back to the system or are kept for the next ones.

    Left to itself, glibc keeps more the longer a process runs: decoder, restorer and encoder are many threads, and
    each one keeps the memory of its worst moment. A filter that passes frames on needs none of that: with buffers
    given back at once its memory is that of the frames in flight, however long the video (``benchmarks/memory.py``).
    A network on the CPU asks for the same large buffers thousands of times a frame, and to have each one
    mapped and cleared again took a third of its time.

    Does nothing where the C library is not glibc.

    Args:
        reuse_buffers: keep up to a GiB of freed buffers of any size, for networks on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # A threshold may be at most 32 MiB, and a layer's buffers are several times that: no buffer gets a map of its own.
    mallopt(_M_MMAP_MAX, 0 if reuse_buffers else _USUAL_MAPS)
    mallopt(_M_MMAP_THRESHOLD, _SMALL)
    mallopt(_M_TRIM_THRESHOLD, _KEPT if reuse_buffers else _SMALL)
