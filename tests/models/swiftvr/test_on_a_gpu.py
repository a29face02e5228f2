"""A GPU gives the published numbers too, as near as its type allows."""

import pytest
import torch

from tests.models.swiftvr.tiny import golden, load_reae, load_transformer

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-3), (torch.bfloat16, 6e-2), (torch.float16, 2e-2)])
@torch.inference_mode()
def test_velocities_are_the_published_ones(dtype, atol):
    published = golden("transformer")
    transformer = load_transformer((4, 4), dtype=dtype).to("cuda")
    velocity = transformer(published["caseA.latent"].to("cuda"))
    torch.testing.assert_close(velocity.float().cpu(), published["caseA.velocity"], atol=atol, rtol=0)


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 5e-3), (torch.bfloat16, 3e-2)])
@torch.inference_mode()
def test_the_autoencoder_gives_the_published_pictures(dtype, atol):
    published = golden("reae")
    reae = load_reae().to("cuda", dtype)
    latents, _ = reae.encode(published["video"][0][:12].to("cuda", dtype), None)
    pictures, _ = reae.decode(latents, None)
    torch.testing.assert_close(pictures[3:].clamp(0, 1).float().cpu(), published["first.rgb"][0], atol=atol, rtol=0)
