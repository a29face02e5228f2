"""What the VAE holds at its fullest, walked layer by layer over numbers as :mod:`vae` walks over tensors.

Counts the way with ``conv_elements``, whose heights of bands are asked of :mod:`vae_bands`. Weights and what is
remembered between slices come on top; so does whatever a kernel needs for scratch.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from seedvr2_ray.models.seedvr2.vae.bands import ConvSize, band_edges, rows_at_once
from seedvr2_ray.models.seedvr2.vae.config import VAEConfig
from seedvr2_ray.models.seedvr2.vae.layers import FP32_ROWS

_FLOAT = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """How a slice is computed, and how much of it is there."""

    height: int
    """Rows of a frame, or those of one rank where ranks share them."""
    width: int
    item_bytes: int
    conv_elements: int
    frames_in_flight: int | None
    starts_clip: bool
    """Whether no slice came before."""
    num_ranks: int = 1
    """Processes that share a frame's rows. Each is handed the rows next to its own by its neighbours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """One step of the walk."""

    kind: str
    """``conv``, ``resnet``, ``attention``, ``down`` or ``up``."""
    before: int
    """Channels that come in."""
    after: int
    time: bool = False
    """Whether the number of frames changes with the size."""


@dataclass(frozen=True, slots=True)
class _Clip:
    """A tensor on its way, without its data."""

    channels: int
    frames: int
    height: int
    width: int

    def values(self) -> int:
        return self.channels * self.frames * self.height * self.width


def encoder_layers(config: VAEConfig) -> tuple[list[Layer], list[Layer]]:
    """Return what runs a few frames at a time, and what runs on the whole slice."""
    widths = config.block_out_channels
    first_slow = config.num_levels - 1 - config.num_temporal_stages
    fast = [Layer(kind="conv", before=config.image_channels, after=widths[0])]
    slow: list[Layer] = []
    for level, width in enumerate(widths):
        resnets = _resnets(config.encoder_inputs(level), width)
        (fast if level <= first_slow else slow).extend(resnets)
        if level < config.num_levels - 1:
            after = config.width_after(widths, level)
            down = Layer(kind="down", before=width, after=after, time=config.downsamples_time(level))
            (fast if level < first_slow else slow).append(down)
    slow += [] if config.is_light else _middle(config)
    slow += [Layer(kind="conv", before=widths[-1], after=2 * config.latent_channels)]
    return fast, slow


def decoder_layers(config: VAEConfig) -> tuple[list[Layer], list[Layer]]:
    """Return what runs on the whole slice, and what runs a few frames at a time, the last doubling of time first."""
    widths = config.block_out_channels[::-1]
    slow = [Layer(kind="conv", before=config.latent_channels, after=widths[0]), *_middle(config)]
    fast: list[Layer] = []
    for level, width in enumerate(widths):
        is_fast = level >= config.num_temporal_stages
        (fast if is_fast else slow).extend(_resnets(config.decoder_inputs(level), width))
        if level < config.num_levels - 1:
            after = config.width_after(widths, level)
            up = Layer(kind="up", before=width, after=after, time=config.upsamples_time(level))
            (fast if level >= config.num_temporal_stages - 1 else slow).append(up)
    fast.append(Layer(kind="conv", before=widths[-1], after=config.image_channels))
    return slow, fast


@lru_cache(maxsize=1024)
def encode_bytes(config: VAEConfig, work: Work, num_frames: int, *, keeps: bool = True) -> int:
    """Return what encoding a slice of so many frames takes at its fullest, these and what is remembered included.

    Args:
        keeps: whether another slice follows or came before.
    """
    fast, slow = encoder_layers(config)
    frames = _Clip(config.image_channels, num_frames, work.height, work.width)
    # Once as they came and once in the network's layout.
    held = 2 * frames.values() * work.item_bytes
    step = min(num_frames, work.frames_in_flight or num_frames)
    clip = _Clip(frames.channels, step, frames.height, frames.width)
    is_cut = step < num_frames
    _, out = _walk(fast, clip, work)
    refined = _Clip(out.channels, num_frames, out.height, out.width)
    of_fast, of_slow = _all_remembered(fast, clip, work), _all_remembered(slow, refined, work)
    past = of_slow if keeps and not work.starts_clip else 0
    peak, _ = _walk(fast, clip, work, fills=keeps and work.starts_clip and not is_cut)
    if is_cut:
        peak = max(peak, out.values() * work.item_bytes) + refined.values() * work.item_bytes
    if is_cut or (keeps and not work.starts_clip):
        peak += of_fast
    slow_peak, _ = _walk(slow, refined, work, fills=keeps and work.starts_clip)
    slow_peak += of_fast if keeps or is_cut else 0
    return held + past + max(peak, slow_peak)


@lru_cache(maxsize=1024)
def decode_bytes(config: VAEConfig, work: Work, num_latents: int, *, keeps: bool = True) -> int:
    """Return what decoding a slice of so many latents takes at its fullest; see :func:`encode_bytes`."""
    slow, fast = decoder_layers(config)
    stride = config.spatial_stride
    latents = _Clip(config.latent_channels, num_latents, work.height // stride, work.width // stride)
    fills = keeps and work.starts_clip
    slow_peak, clip = _walk(slow, latents, work, fills=fills)
    of_slow = _all_remembered(slow, latents, work) if keeps else 0
    of_fast = _all_remembered(fast, _Clip(clip.channels, 1, clip.height, clip.width), work)
    num_frames = config.num_frames(num_latents) if work.starts_clip else num_latents * config.temporal_stride
    pictures = _FLOAT * config.image_channels * num_frames * work.height * work.width
    in_flight = work.frames_in_flight
    # Nested steps: the last doubling of time, if there is one, then the frames it makes.
    doubling, rest = fast[: int(config.num_temporal_stages > 0)], fast[int(config.num_temporal_stages > 0) :]
    most = max(in_flight // (2 if doubling else 1), 1) if in_flight else clip.frames
    outer = _Clip(clip.channels, min(clip.frames, most), clip.height, clip.width)
    fills = fills and outer.frames == clip.frames and (in_flight is None or outer.frames == 1)
    peak, doubled = _walk(doubling, outer, work, fills=fills)
    inner = _Clip(doubled.channels, min(doubled.frames, in_flight or doubled.frames), doubled.height, doubled.width)
    rest_peak, _ = _walk(rest, inner, work, fills=fills)
    if inner.frames < doubled.frames:
        rest_peak += doubled.values() * work.item_bytes
    is_cut = outer.frames < clip.frames or inner.frames < doubled.frames
    # The tensor before the doubling waits in the step that is done with it, whether there are others or not.
    waiting = clip.values() * work.item_bytes if doubling else 0
    peak = max(peak + (waiting if outer.frames < clip.frames else 0), rest_peak + waiting + pictures * is_cut)
    if (keeps and not fills) or is_cut:
        peak += of_fast
    past = of_fast if keeps and not work.starts_clip else 0
    slow_peak += past + (of_slow if keeps and not work.starts_clip else 0)
    return 2 * latents.values() * work.item_bytes + max(slow_peak, peak + of_slow)


def _resnets(inputs: Iterable[int], width: int) -> list[Layer]:
    return [Layer(kind="resnet", before=before, after=width) for before in inputs]


def _middle(config: VAEConfig) -> list[Layer]:
    width = config.block_out_channels[-1]
    resnet = Layer(kind="resnet", before=width, after=width)
    attention = [Layer(kind="attention", before=width, after=width)] if config.mid_attention else []
    return [resnet, *attention, resnet]


def _walk(layers: Iterable[Layer], clip: _Clip, work: Work, *, fills: bool = False) -> tuple[int, _Clip]:
    """Return the most that exists while layers run one after the other, their inputs included, and what comes out.

    Args:
        fills: whether every layer leaves behind something to remember that was not there before.
    """
    peak, remembered = 0, 0
    for layer in layers:
        beside, clip_out = _STEPS[layer.kind](layer, clip, work)
        if fills:
            remembered += _remembered(layer, clip) * work.item_bytes
        peak = max(peak, clip.values() * work.item_bytes + beside + remembered)
        clip = clip_out
    return peak, clip


def _remembered(layer: Layer, clip: _Clip) -> int:
    """How many values a layer keeps for the next slice."""
    frames = {"conv": 2, "resnet": 2, "attention": 0, "down": int(layer.time), "up": 1 if layer.time else 2}[layer.kind]
    channels = layer.before + (layer.after if layer.kind == "resnet" else 0)
    return frames * channels * clip.height * clip.width


def _all_remembered(layers: Iterable[Layer], clip: _Clip, work: Work) -> int:
    total = 0
    for layer in layers:
        total += _remembered(layer, clip)
        _, clip = _STEPS[layer.kind](layer, clip, work)
    return total * work.item_bytes


def _conv(layer: Layer, clip: _Clip, work: Work) -> tuple[int, _Clip]:
    out = _Clip(layer.after, clip.frames, clip.height, clip.width)
    # The decoder's last one computes in float32, some rows at a time.
    is_last = layer.after == 3
    beside = _step(clip, out, work, item_out=_FLOAT if is_last else work.item_bytes)
    if is_last:
        band = _band(clip, out, work, taps=3)
        rows = min(FP32_ROWS, band.rows) + 2
        beside += band.bytes_in + _FLOAT * 3 * clip.channels * rows * clip.width + band.rows * clip.width * 12
    return beside, out


def _resnet(layer: Layer, clip: _Clip, work: Work) -> tuple[int, _Clip]:
    out = _Clip(layer.after, clip.frames, clip.height, clip.width)
    hidden = out.values() * work.item_bytes
    has_shortcut = layer.before != layer.after
    first = _step(clip, out, work)
    second = _step(out, out, work, in_place=True)
    if has_shortcut:
        # Its result, and its input in the order the kernel wants, for the rows of a band.
        band = _band(out, out, work, taps=3)
        copied = layer.before if clip.frames > 1 and band.rows < clip.height else 0
        shortcut = (copied + layer.after) * clip.frames * band.rows * clip.width * work.item_bytes
        second = max(second, _whole_or_band(out, work) + shortcut)
    return max(first, hidden + second), out


def _attention(layer: Layer, clip: _Clip, work: Work) -> tuple[int, _Clip]:
    # The norm in float32 and rounded; tokens, queries, keys, values, what was attended to, and its projection.
    own = clip.values() * max(_FLOAT + work.item_bytes, 7 * work.item_bytes)
    if work.num_ranks == 1:
        return own, clip
    # Every rank needs the keys and values of all: as they came and joined, beside its tokens and what it handed over.
    return max(own, (4 * work.num_ranks + 3) * clip.values() * work.item_bytes), clip


def _down(layer: Layer, clip: _Clip, work: Work) -> tuple[int, _Clip]:
    frames = (clip.frames + 1) // 2 if layer.time else clip.frames
    out = _Clip(layer.after, frames, clip.height // 2, clip.width // 2)
    band = _band(clip, out, work, taps=3 if layer.time else 1, stride=2)
    # Padded to the right and below in a copy.
    return _step(clip, out, work, taps=3 if layer.time else 1, stride=2) + band.bytes_in, out


def _up(layer: Layer, clip: _Clip, work: Work) -> tuple[int, _Clip]:
    factor = 2 if layer.time else 1
    frames = factor * clip.frames - (1 if layer.time and work.starts_clip and clip.frames > 1 else 0)
    out = _Clip(layer.after, frames, 2 * clip.height, 2 * clip.width)
    known = clip.frames + (1 if layer.time else 2)
    row = clip.channels * known * clip.width
    size = ConvSize(row_in=row, row_out=2 * factor * row, above=1, below=1, stride=1, growth=2)
    shares = work.num_ranks > 1
    # Rows that neighbours hand over are joined to those that are here, and cut off again from what is made of them.
    rows = min(_tallest_band(size, clip.height, work) + 2, clip.height + 2 * shares)
    piece = 2 * 2 * factor * clip.channels * known * clip.width * rows
    whole = out.values() if rows < clip.height or shares else 0
    beside = (whole + row * rows + piece) * work.item_bytes
    if layer.time and work.starts_clip:
        beside = max(beside, _opening(clip, out, work))
    return beside, out


def _opening(clip: _Clip, out: _Clip, work: Work) -> int:
    """The plain way of a clip's first two frames, rows by rows, and its result beside that of the others."""
    row = clip.channels * clip.width
    expanded = 4 * row * 5
    size = ConvSize(row_in=expanded, row_out=expanded, above=1, below=1, stride=1)
    shares = work.num_ranks > 1
    rows = min(_tallest_band(size, clip.height, work) + 2, clip.height + 2 * shares)
    opened = _Clip(out.channels, min(3, out.frames), out.height, out.width)
    whole = opened.values() if rows < clip.height or shares else 0
    transient = 11 * 4 * row * rows + whole
    joined = 2 * out.values() if clip.frames > 2 else 0
    return max(transient, joined) * work.item_bytes


@dataclass(frozen=True, slots=True)
class _Band:
    """What one band of a convolution reads and makes."""

    rows: int
    """Of the input, without the halo."""
    bytes_in: int
    values_out: int
    is_whole: bool


def _band(clip: _Clip, out: _Clip, work: Work, *, taps: int, stride: int = 1) -> _Band:
    frames_in = clip.frames + taps - 1
    halo = 1 if stride == 2 else 2
    size = ConvSize(
        row_in=clip.channels * frames_in * (clip.width + halo),
        row_out=out.channels * out.frames * out.width,
        above=halo - 1,
        below=1,
        stride=stride,
    )
    rows = _tallest_band(size, clip.height, work)
    bytes_in = clip.channels * frames_in * (rows + halo) * (clip.width + 1) * work.item_bytes
    values_out = out.channels * out.frames * out.width * (rows // stride)
    return _Band(rows, bytes_in, values_out, rows == clip.height)


def _tallest_band(size: ConvSize, height: int, work: Work) -> int:
    """Rows of the tallest of the bands that are cut nearly equal in height."""
    start, stop = max(
        band_edges(height, rows_at_once(size, work.conv_elements), size.stride), key=lambda edges: edges[1] - edges[0]
    )
    return stop - start


def _step(
    clip: _Clip,
    out: _Clip,
    work: Work,
    *,
    taps: int = 3,
    stride: int = 1,
    item_out: int | None = None,
    in_place: bool = False,
) -> int:
    """Norm, activation and convolution in bands, beside the input: with the result, unless it takes its place."""
    item_out = item_out or work.item_bytes
    band = _band(clip, out, work, taps=taps, stride=stride)
    # Rows above and below are handed over in copies, and others come in their place.
    halo = 0 if work.num_ranks == 1 else 8 * clip.channels * (clip.frames + taps - 1) * clip.width * work.item_bytes
    if band.is_whole:
        return band.bytes_in + band.values_out * item_out + halo
    whole = 0 if in_place else out.values() * item_out
    # The rows that the next band is given, beside the band they were taken from.
    carried = 2 * clip.channels * (clip.frames + taps - 1) * clip.width * work.item_bytes
    return whole + band.bytes_in + band.values_out * item_out + carried + halo


def _whole_or_band(out: _Clip, work: Work) -> int:
    """What a convolution has made when its residual is added."""
    return _band(out, out, work, taps=3).values_out * work.item_bytes


_STEPS = {"conv": _conv, "resnet": _resnet, "attention": _attention, "down": _down, "up": _up}
