"""SwiftVR written out plainly, operation after operation, to measure and check ours against.

Nothing is folded, fused or rewritten: timestep, prompt and modulation are computed for every chunk and layer, rotations
as products of cosines and sines, windows by slicing, and the autoencoder grows in time by a convolution over pairs
after it has enlarged. It takes the released checkpoint's names.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_ray.models.swiftvr.config import TIMESTEP, ReAEConfig, TransformerConfig
from seedvr2_ray.models.swiftvr.rope import token_angles
from seedvr2_ray.models.swiftvr.windows import window_owners, window_starts

State = Mapping[str, Tensor]


def plain_velocity(state: State, config: TransformerConfig, latents_CTHW: Tensor, prompt_KC: Tensor) -> Tensor:
    """Predict the velocity of one chunk's latents."""
    temb, tproj, context = _conditions(state, config, prompt_KC)
    tokens = F.conv3d(latents_CTHW[None], state["patch_embedding.weight"], state["patch_embedding.bias"], (1, 2, 2))
    grid = (tokens.shape[2], tokens.shape[3], tokens.shape[4])
    x = tokens[0].flatten(1).T
    angles = token_angles(grid, config.head_dim).to(x.device)
    for layer in range(config.num_layers):
        x = _block(state, f"blocks.{layer}.", config, x, tproj, context, grid, angles, shifted=layer % 2 == 1)
    shift, scale = (state["scale_shift_table"] + temb[None, None])[0]
    x = F.layer_norm(x, x.shape[-1:], eps=config.norm_eps) * (1 + scale) + shift
    squares = _linear(state, "proj_out", x).view(*grid, 2, 2, config.latent_channels)
    return squares.permute(5, 0, 1, 3, 2, 4).reshape(config.latent_channels, grid[0], grid[1] * 2, grid[2] * 2)


def plain_encode(state: State, frames_TCHW: Tensor) -> Tensor:
    """Encode a whole stream of 4n frames."""
    x = F.relu(_conv(state, "encoder.0", F.pixel_unshuffle(frames_TCHW, 2)))
    for pool, pooled in ((2, 2), (7, 2), (12, 1)):
        groups = x.reshape(len(x) // pooled, -1, *x.shape[2:])
        x = F.conv2d(groups, state[f"encoder.{pool}.conv.weight"])
        x = _conv(state, f"encoder.{pool + 1}", x, stride=2)
        for place in range(pool + 2, pool + 5):
            x = _memory(state, f"encoder.{place}", x)
    return _conv(state, "encoder.17", x)


def plain_decode(state: State, latents_TCHW: Tensor) -> Tensor:
    """Decode a whole stream; the first three frames stand for nothing."""
    x = F.relu(_conv(state, "decoder.1", 3 * torch.tanh(latents_TCHW / 3)))
    for first in (3, 9, 15):
        for place in range(first, first + 3):
            x = _memory(state, f"decoder.{place}", x)
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        grow = f"decoder.{first + 4}"
        if f"{grow}.proj.weight" in state:
            x = F.conv2d(x, state[f"{grow}.proj.weight"])
        else:
            pairs = torch.stack([x, x], dim=2)
            pairs = F.conv3d(pairs, state[f"{grow}.conv3d.weight"], padding=(1, 0, 0))
            x = pairs.transpose(1, 2).flatten(0, 1)
        x = _conv(state, f"decoder.{first + 5}", x)
    x = _conv(state, "decoder.22", F.relu(x))
    return F.pixel_shuffle(x, 2)


def random_transformer(config: TransformerConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of a transformer under the released names."""
    from seedvr2_ray.models.swiftvr.transformer import SwiftVRTransformer

    torch.manual_seed(seed)
    return _randomised(SwiftVRTransformer(config).state_dict())


def random_reae(config: ReAEConfig, seed: int = 0) -> dict[str, Tensor]:
    """Return random weights of an autoencoder under the released names."""
    from seedvr2_ray.models.swiftvr.reae import ReAE

    torch.manual_seed(seed)
    return _randomised(ReAE(config).state_dict())


def _randomised(state: State) -> dict[str, Tensor]:
    def values(name: str, tensor: Tensor) -> Tensor:
        if ".norm" in name and name.endswith("weight"):
            return torch.ones_like(tensor)
        fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 16
        return torch.randn_like(tensor) / math.sqrt(fan_in)

    return {name: values(name, tensor) for name, tensor in state.items()}


def _conditions(state: State, config: TransformerConfig, prompt_KC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    half = config.time_channels // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float32) / half)
    wave = torch.cat([(TIMESTEP * frequencies).cos(), (TIMESTEP * frequencies).sin()]).to(prompt_KC)
    embedder = "condition_embedder."
    temb = _linear(state, f"{embedder}time_embedder.linear_1", wave)
    temb = _linear(state, f"{embedder}time_embedder.linear_2", F.silu(temb))
    tproj = _linear(state, f"{embedder}time_proj", F.silu(temb)).view(6, -1)
    context = _linear(state, f"{embedder}text_embedder.linear_1", prompt_KC)
    context = _linear(state, f"{embedder}text_embedder.linear_2", F.gelu(context, approximate="tanh"))
    return temb, tproj, context


def _block(
    state: State,
    prefix: str,
    config: TransformerConfig,
    x: Tensor,
    tproj: Tensor,
    context: Tensor,
    grid: tuple[int, int, int],
    angles: Tensor,
    *,
    shifted: bool,
) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = (state[f"{prefix}scale_shift_table"] + tproj[None])[0]
    normed = F.layer_norm(x, x.shape[-1:], eps=config.norm_eps) * (1 + scale1) + shift1
    q, k, v = _heads(state, f"{prefix}attn1", config, normed, normed)
    q, k = _rotated(q, angles), _rotated(k, angles)
    out = _windowed(q, k, v, grid, config.window, shifted=shifted)
    x = x + gate1 * _linear(state, f"{prefix}attn1.to_out.0", out.flatten(1))
    normed = F.layer_norm(
        x, x.shape[-1:], state[f"{prefix}norm2.weight"], state[f"{prefix}norm2.bias"], config.norm_eps
    )
    q, k, v = _heads(state, f"{prefix}attn2", config, normed, context)
    x = x + _linear(state, f"{prefix}attn2.to_out.0", _attend(q, k, v).flatten(1))
    normed = F.layer_norm(x, x.shape[-1:], eps=config.norm_eps) * (1 + scale2) + shift2
    hidden = F.gelu(_linear(state, f"{prefix}ffn.net.0.proj", normed), approximate="tanh")
    result: Tensor = x + gate2 * _linear(state, f"{prefix}ffn.net.2", hidden)
    return result


def _heads(
    state: State, prefix: str, config: TransformerConfig, asking: Tensor, asked: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    def normed(name: str, x: Tensor) -> Tensor:
        x = _linear(state, f"{prefix}.to_{name}", x)
        scale = torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + config.norm_eps)
        weighted: Tensor = (x.float() * scale).to(x.dtype) * state[f"{prefix}.norm_{name}.weight"]
        return weighted

    shape = (config.num_heads, config.head_dim)
    heads = (normed("q", asking), normed("k", asked), _linear(state, f"{prefix}.to_v", asked))
    q, k, v = (x.reshape(*x.shape[:-1], *shape) for x in heads)
    return q, k, v


def _rotated(heads: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos().float()[:, None], angles.sin().float()[:, None]
    even, odd = heads[..., 0::2].float(), heads[..., 1::2].float()
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(heads.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1)


def _windowed(
    q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int, int], window: tuple[int, int], *, shifted: bool
) -> Tensor:
    """Attend window by window, and give each position the result of the window that owns it."""
    frames, height, width = grid
    rows, columns = min(window[0], height), min(window[1], width)
    tops, lefts = window_starts(height, rows, shifted=shifted), window_starts(width, columns, shifted=shifted)
    row_owners = torch.tensor(window_owners(tops, height, rows, shifted=shifted))
    column_owners = torch.tensor(window_owners(lefts, width, columns, shifted=shifted))
    q, k, v = (x.view(*grid, *x.shape[1:]) for x in (q, k, v))
    out = torch.empty_like(q)
    for i, top in enumerate(tops):
        for j, left in enumerate(lefts):
            ys, xs = slice(top, top + rows), slice(left, left + columns)
            inside = [x[:, ys, xs].flatten(0, 2) for x in (q, k, v)]
            result = _attend(*inside).view(frames, rows, columns, *q.shape[3:])
            own = (row_owners[ys] == i)[:, None] & (column_owners[xs] == j)
            out[:, ys, xs][:, own] = result[:, own]
    return out.flatten(0, 2)


def _memory(state: State, prefix: str, x: Tensor) -> Tensor:
    past = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    y = F.relu(_conv(state, f"{prefix}.conv.0", torch.cat([x, past], dim=1)))
    y = F.relu(_conv(state, f"{prefix}.conv.2", y))
    return F.relu(_conv(state, f"{prefix}.conv.4", y) + x)


def _conv(state: State, prefix: str, x: Tensor, *, stride: int = 1) -> Tensor:
    return F.conv2d(x, state[f"{prefix}.weight"], state.get(f"{prefix}.bias"), stride=stride, padding=1)


def _linear(state: State, prefix: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{prefix}.weight"], state[f"{prefix}.bias"])
