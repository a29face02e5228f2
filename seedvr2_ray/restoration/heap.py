"""What the C library does with freed memory, which is not the same good for every restorer."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL, _LARGE = 1 << 20, 32 << 20  # The second is the most that glibc takes.


def tune_heap(*, reuse_buffers: bool) -> None:
    """Decide for this process whether large freed buffers go back to the system or are kept for the next ones.

    Left to itself, glibc keeps more the longer a process runs: decoder, restorer and encoder are many threads, and
    each one's heap stays at its worst moment. A filter that passes frames on needs none of that: with buffers
    given back at once its memory is that of the frames in flight, however long the film (``benchmarks/memory.py``).
    A network on the CPU asks for the same large buffers thousands of times a frame, and to have each one
    mapped and cleared again took a third of its time.

    Does nothing where the C library is not glibc.

    Args:
        reuse_buffers: keep buffers of up to 32 MiB, for networks on the CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGE if reuse_buffers else _SMALL)
    mallopt(_M_TRIM_THRESHOLD, 16 * _LARGE if reuse_buffers else _SMALL)
