"""Which parameters stay in float32 when a network computes in a narrower type."""

import torch


def parameter_dtype(dtype: torch.dtype, name: str) -> torch.dtype:
    """Return what type a parameter of the transformer or the VAE is kept in.

    Modulation vectors of the transformer and norms of the VAE stay in float32: casting the former costs 1 % of
    accuracy, and the statistics that the latter are multiplied with are float32 anyway.

    Args:
        dtype: what the network computes in.
        name: of the parameter in the state dict.
    """
    parts = name.split(".")
    is_modulation = "ada" in parts or "vid_out_ada" in parts
    is_vae_norm = parts[0] in ("encoder", "decoder") and any("norm" in part for part in parts)
    return torch.float32 if is_modulation or is_vae_norm else dtype
