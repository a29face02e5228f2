import torch

from seedvr2_ray.models.seedvr2.transformer.dit import SeedVR2Transformer
from seedvr2_ray.models.seedvr2.transformer.precision import parameter_dtype
from seedvr2_ray.models.seedvr2.vae.video_vae import VideoVAE
from tests.models.tiny import DIT, VAE


def test_modulation_of_the_transformer_stays_in_float32():
    wide = {name for name, _ in SeedVR2Transformer(DIT).named_parameters() if "ada" in name}
    assert len(wide) == 20
    for name, _ in SeedVR2Transformer(DIT).named_parameters():
        assert parameter_dtype(torch.bfloat16, name) == (torch.float32 if name in wide else torch.bfloat16), name


def test_norms_of_the_vae_stay_in_float32():
    for name, _ in VideoVAE(VAE).named_parameters():
        expected = torch.float32 if "norm" in name else torch.bfloat16
        assert parameter_dtype(torch.bfloat16, name) == expected, name
