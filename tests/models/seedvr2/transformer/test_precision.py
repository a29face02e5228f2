import torch

from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer, cast_weights
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from tests.models.tiny import DIT, VAE


def test_parameters_are_kept_in_the_types_that_casting_would_give():
    transformer = SeedVR2Transformer(DIT)
    cast_weights(transformer, torch.bfloat16)
    for name, parameter in transformer.named_parameters():
        assert parameter.dtype == parameter_dtype(torch.bfloat16, name), name


def test_norms_of_the_vae_stay_in_float32():
    for name, _ in VideoVAE(VAE).named_parameters():
        expected = torch.float32 if "norm" in name else torch.bfloat16
        assert parameter_dtype(torch.bfloat16, name) == expected, name
