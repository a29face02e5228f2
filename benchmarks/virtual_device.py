"""A GPU that is not there: tensors without data on a device of their own, and a tally of what they would ask of it.

Nothing is computed, so networks of any size run in seconds on any machine; torch alone is needed. What a tally cannot
see: kernels' scratch space, fragments, and time.
"""

import sys
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

MOST_ELEMENTS = 2**31 - 1
_VALUES = ("_local_scalar_dense", "item", "is_nonzero")
_SYNCS = (*_VALUES, "nonzero", "equal", "masked_select", "_unique2", "unique_dim")
_CONVOLUTIONS = ("conv2d", "conv3d", "conv_transpose2d", "conv_transpose3d")
_IN_PLACE = ("add_", "mul_", "copy_", "silu_", "zero_", "fill_", "sub_", "div_", "clamp_")
_VIEWS = frozenset({"slice", "view", "unsqueeze", "squeeze", "narrow", "select", "detach", "alias"})
_VIEWS |= {"expand", "transpose", "permute", "t", "unflatten", "chunk", "split"}
"""Never anything but another look at the same memory."""
_NO_WORK = ("prim::device", "empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided")


@lru_cache(maxsize=1)
def virtual_device() -> torch.device:
    """Return the device, which torch learns of on the first call; no build of torch needs CUDA for it."""
    _setup_privateuseone_for_python_backend("virtual")
    return torch.device("virtual:0")


class OutOfVirtualMemoryError(torch.OutOfMemoryError):
    """An allocation went over the limit that was set."""


@dataclass(slots=True)
class StageTally:
    """What one stage asked of the device."""

    peak_bytes: int = 0
    """Of everything that was alive on the device, weights included."""
    peak_at: str = ""
    flops: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By the type that is computed in."""
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    """By what :func:`counting` was told to price launches for."""
    bytes_by_operation: Counter[str] = field(default_factory=Counter)
    """Read and written."""
    launches: Counter[str] = field(default_factory=Counter)
    to_device: Counter[str] = field(default_factory=Counter)
    """Bytes by place in the code."""
    to_host: Counter[str] = field(default_factory=Counter)
    syncs: Counter[str] = field(default_factory=Counter)
    """Places where the host waits for the device, copies back included."""
    mixed: Counter[str] = field(default_factory=Counter)
    """Operations on tensors of both sides."""
    layouts: Counter[str] = field(default_factory=Counter)
    """Of convolutions: of input, weight and output."""
    largest_convolution: int = 0
    """Elements of its input or output, whichever is more."""

    def add(self, other: "StageTally") -> None:
        """Count what another counted as well; peaks are not sums and stay."""
        for name in ("flops", "seconds"):
            for key, value in getattr(other, name).items():
                getattr(self, name)[key] += value
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.largest_convolution = max(self.largest_convolution, other.largest_convolution)


_COUNTERS = ("bytes_by_operation", "launches", "to_device", "to_host", "syncs", "mixed", "layouts")
Prices = Callable[[float, int, bool], dict[str, float]]
"""Maps floating-point operations, bytes and whether in float32 of a launch to seconds by name of a device."""


class Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class hook has no types
    """Counts per stage. Entered inside a ``FakeTensorMode``; see :func:`counting`."""

    def __init__(self, prices: Prices, limit_bytes: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.stages: defaultdict[str, StageTally] = defaultdict(StageTally)
        self.stage = "setup"
        self.live_bytes = 0
        self.num_allocations = 0
        self.limit_bytes = limit_bytes
        self.fail_at: int | None = None
        """Number of the allocation that fails, whatever the limit."""
        self._prices = prices
        self._known: set[int] = set()

    @contextmanager
    def watch(self, stage: str) -> Iterator[None]:
        """Count for a stage."""
        before, self.stage = self.stage, stage
        self._note_peak(0, "")
        try:
            yield
        finally:
            self.stage = before

    @contextmanager
    def apart(self) -> Iterator[StageTally]:
        """Count a part of a stage by itself, and then as the stage's."""
        stage, before = self.stage, self.stages[self.stage]
        part = self.stages[stage] = StageTally()
        try:
            yield part
        finally:
            self.stages[stage] = before
            before.add(part)
            if part.peak_bytes > before.peak_bytes:
                before.peak_bytes, before.peak_at = part.peak_bytes, part.peak_at

    def repeat(self, part: StageTally, more_bytes: int) -> None:
        """Count a part once more, which would hold so many bytes at its fullest beside what is alive now."""
        tally = self.stages[self.stage]
        tally.add(part)
        if self.live_bytes + more_bytes > tally.peak_bytes:
            tally.peak_bytes, tally.peak_at = self.live_bytes + more_bytes, part.peak_at

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        kwargs = kwargs or {}
        name = func.name().removeprefix("aten::").partition(".")[0]
        if name in _VIEWS:
            return func(*args, **kwargs)
        ins = [value for value in tree_iter((args, kwargs)) if isinstance(value, Tensor)]
        if name in _SYNCS:
            if any(_is_virtual(tensor) for tensor in ins):
                self.stages[self.stage].syncs[_place()] += 1
            if name in _VALUES and getattr(ins[0], "constant", None) is None:
                # What a tensor holds is not known: the way with more work is taken.
                return True if ins[0].dtype == torch.bool else 1
        if any(isinstance(v, torch.device) and v.type == "virtual" for v in (*args, *kwargs.values())):
            for tensor in ins:
                # Small constants are computed for real, which ends where there is no memory.
                tensor.constant = None  # type: ignore[attr-defined]
        if ("out" in kwargs or name in _IN_PLACE) and all(_is_virtual(tensor) or tensor.dim() == 0 for tensor in ins):
            # The result is there already; what shapes it may have is checked where numbers are computed.
            out = kwargs.get("out", args[0])
        else:
            out = func(*args, **kwargs)
        if name in _CONVOLUTIONS:
            out = self._convolution(args, out)
        outs = [value for value in tree_iter(out) if isinstance(value, Tensor)]
        if any(_is_virtual(tensor) for tensor in (*ins, *outs)):
            self._count(name, func, ins, outs)
        for tensor in outs:
            self._allocate(tensor)
        return out

    def _count(self, name: str, func: Any, ins: list[Tensor], outs: list[Tensor]) -> None:
        tally = self.stages[self.stage]
        writes = any(one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments)
        if name in _NO_WORK or (not writes and _share_memory(ins, outs)):
            return
        if name in ("to", "_to_copy", "copy_"):
            source, target = (ins[1], ins[0]) if name == "copy_" else (ins[0], outs[0])
            if _is_virtual(source) != _is_virtual(target):
                self._note_copy(tally, source, to_device=_is_virtual(target))
                return
        elif any(not _is_virtual(t) and t.dim() > 0 for t in ins) and any(_is_virtual(t) for t in ins):
            tally.mixed[f"{name} in {_place()}"] += 1
        moved = sum(t.numel() * t.element_size() for t in (*ins, *outs))
        flops = _flops(name, ins, outs)
        is_fp32 = bool(outs) and outs[0].dtype in (torch.float32, torch.float64)
        tally.launches[name] += 1
        tally.bytes_by_operation[name] += moved
        if flops:
            tally.flops[str(outs[0].dtype).removeprefix("torch.")] += flops
        self._price(tally, flops, moved, is_fp32=is_fp32)

    def _price(self, tally: StageTally, flops: float, moved: int, *, is_fp32: bool) -> None:
        for name, seconds in self._prices(flops, moved, is_fp32).items():
            tally.seconds[name] += seconds

    def _note_copy(self, tally: StageTally, source: Tensor, *, to_device: bool) -> None:
        place = _place()
        (tally.to_device if to_device else tally.to_host)[place] += source.numel() * source.element_size()
        if not to_device:
            tally.syncs[place] += 1

    def attention(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Answer as a kernel does that keeps no scores: a result laid out like the queries."""
        out = torch.empty_like(q)
        flops = 4 * q.numel() * k.shape[-2]
        tally = self.stages[self.stage]
        tally.launches["attention"] += 1
        tally.flops[str(q.dtype).removeprefix("torch.")] += flops
        moved = sum(t.numel() * t.element_size() for t in (q, k, v, out))
        tally.bytes_by_operation["attention"] += moved
        self._price(tally, flops, moved, is_fp32=q.dtype == torch.float32)
        # Wide heads are summed in float32 first, and every row has the logarithm of its sum.
        scratch = 4 * (q.numel() * (q.shape[-1] > 256) + q.numel() // q.shape[-1])
        self._note_peak(scratch, "attention")
        return out

    def _convolution(self, args: Any, out: Tensor) -> Tensor:
        """Give the result the layout cuDNN gives, and count the copies it makes of what lies otherwise."""
        x, weight = args[0], args[1]
        if not _is_virtual(out):
            return out
        last = torch.channels_last_3d if x.ndim == 5 else torch.channels_last
        is_last = _is_last(x, last) or _is_last(weight, last)
        layout = last if is_last else torch.contiguous_format
        tally = self.stages[self.stage]
        tally.largest_convolution = max(tally.largest_convolution, x.numel(), out.numel())
        copied = sum(t.numel() * t.element_size() for t in (x, weight) if not t.is_contiguous(memory_format=layout))
        names = ["last" if _is_last(t, last) else "first" if t.is_contiguous() else "strided" for t in (x, weight)]
        tally.layouts[" ".join(names)] += 1
        out = torch.empty(out.shape, dtype=out.dtype, device=out.device, memory_format=layout)
        self._note_peak(copied + out.numel() * out.element_size() if copied else 0, "a convolution's copy")
        return out

    def _allocate(self, tensor: Tensor) -> None:
        if not _is_virtual(tensor):
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self.num_allocations += 1
        over = self.limit_bytes is not None and self.live_bytes + size > self.limit_bytes
        if over or self.num_allocations == self.fail_at:
            raise OutOfVirtualMemoryError(f"virtual device: {size} bytes beside {self.live_bytes}")
        self._known.add(key)
        self.live_bytes += size
        weakref.finalize(storage, self._free, key, size)
        self._note_peak(0, tuple(tensor.shape))

    def move(self, tensors: list[Tensor], others: list[Tensor]) -> None:
        """Have tensors lie where others do, as exchanging their memory would; these keep no memory of their own."""
        for tensor, other in zip(tensors, others, strict=True):
            if _is_virtual(tensor) != _is_virtual(other):
                size = tensor.untyped_storage().nbytes()
                self.live_bytes += size if _is_virtual(other) else -size
                tensor.fake_device = other.device  # type: ignore[attr-defined]

    def _free(self, key: int, size: int) -> None:
        self.live_bytes -= size
        self._known.discard(key)

    def _note_peak(self, more: int, what: object) -> None:
        tally = self.stages[self.stage]
        if self.live_bytes + more > tally.peak_bytes:
            tally.peak_bytes = self.live_bytes + more
            tally.peak_at = f"{_place()} {what}"


@contextmanager
def _shims(tally: Tally) -> Iterator[None]:
    """Answer what torch does below the reach of a dispatch mode, or by devices that it knows."""
    real_attention, real_tensor = torch.nn.functional.scaled_dot_product_attention, torch.tensor

    def attention(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
        return tally.attention(q, k, v) if _is_virtual(q) else real_attention(q, k, v, **options)

    def tensor(data: Any, *, device: Any = None, **options: Any) -> Tensor:
        made: Tensor = real_tensor(data, **options)
        return made if device is None else made.to(device)

    with (
        patch.object(torch.nn.functional, "scaled_dot_product_attention", attention),
        patch.object(torch, "tensor", tensor),
    ):
        yield


@contextmanager
def counting(prices: Prices = lambda *_: {}, *, limit_bytes: int | None = None) -> Iterator[Tally]:
    """Make every new tensor one without data, and count.

    Args:
        prices: says how long a launch takes, on whichever devices.
        limit_bytes: of the device; None has no end.
    """
    virtual_device()
    tally = Tally(prices, limit_bytes)
    with FakeTensorMode(allow_non_fake_inputs=True), tally, _shims(tally):
        yield tally


def _is_virtual(tensor: Tensor) -> bool:
    # Asking a tensor without data for its device is itself an operation.
    device: torch.device = getattr(tensor, "fake_device", None) or tensor.device
    return device.type == "virtual"


def _share_memory(ins: list[Tensor], outs: list[Tensor]) -> bool:
    given = {tensor.untyped_storage()._cdata for tensor in ins}
    return bool(outs) and all(tensor.untyped_storage()._cdata in given for tensor in outs)


def _is_last(tensor: Tensor, layout: torch.memory_format) -> bool:
    return tensor.shape[1] > 1 and tensor.stride(1) == 1 and tensor.is_contiguous(memory_format=layout)


def _flops(name: str, ins: list[Tensor], outs: list[Tensor]) -> float:
    if name in _CONVOLUTIONS:
        # A transposed one meets its whole kernel at every position of its input, another of its output.
        positions = ins[0].numel() // ins[0].shape[1] if "transpose" in name else outs[0].numel() // outs[0].shape[1]
        return 2.0 * ins[1].numel() * positions
    if name == "linear":
        return 2.0 * ins[0].numel() * ins[1].shape[0]
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        first, second = ins[-2:]
        return 2.0 * first.numel() * second.shape[-1]
    return 0.0


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        path = frame.f_code.co_filename
        if "seedvr2_ray" in path:
            return f"{path.rpartition('seedvr2_ray/')[2]}:{frame.f_lineno} {frame.f_code.co_name}"
        if frame.f_back is None:
            break
        frame = frame.f_back
    return "elsewhere"
