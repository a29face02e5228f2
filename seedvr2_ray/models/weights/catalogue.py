"""Every released checkpoint: where it lies, how large it is, what it must hash to, under which licence."""

import difflib
from dataclasses import dataclass
from typing import Literal

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.models.seedvr2.config import SEEDVR2_3B, SEEDVR2_7B, DiTConfig, SeedVR2Config
from seedvr2_ray.models.seedvr2.nano_config import NANO_DIT, NANO_VAE
from seedvr2_ray.models.seedvr2.vae.config import SEEDVR2_VAE
from seedvr2_ray.models.swiftvr.config import SWIFTVR, SwiftVRConfig

Role = Literal["transformer", "vae", "positive", "negative", "autoencoder", "prompt"]
"""What a file holds; ``positive``, ``negative`` and ``prompt`` are embeddings of texts that never change."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One file with weights. Its name is the same in a weights folder, on a mirror and in its repository.

    A publisher may replace a file under its name: then two of these share it, and the SHA-256 tells them apart.
    """

    name: str
    repository: str | None
    """On the Hugging Face hub; None when the file ships inside this package, below ``models/``."""
    licence: str
    num_gigabytes: float
    """For people; rounded."""
    size_bytes: int | None = None
    """Exactly, where it is known."""
    sha256: str | None = None
    """None where no trustworthy source gives it: then the hub's own value is used after a download."""
    release: str = ""
    """Commit of the repository and its date, where the repository has had other weights under this name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Component:
    """What one part of a model can be loaded from."""

    role: Role
    files: tuple[WeightFile, ...]
    """Alternatives of one release: its numbers in full, or those rounded to the nearest half-precision ones. The first
    that is found is used, the first of all is downloaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelEntry:
    """A restorer that ``RestoreSettings.model`` can name."""

    name: str
    summary: str
    """One line for a person."""
    licence: str
    networks: SeedVR2Config | SwiftVRConfig | None = None
    """Its shape, whose type says of which family it is. None for a classical filter, which has no components either."""
    components: tuple[Component, ...] = ()
    takes_streams: bool = False
    """Whether it can begin before anybody knows how many frames there are; others are given segments."""

    @property
    def seedvr2(self) -> SeedVR2Config:
        """The shape of a model of SeedVR2's family."""
        if not isinstance(self.networks, SeedVR2Config):
            raise ValueError(f"{self.name} is no model of SeedVR2's family")
        return self.networks

    @property
    def swiftvr(self) -> SwiftVRConfig:
        """The shape of a model of SwiftVR's family."""
        if not isinstance(self.networks, SwiftVRConfig):
            raise ValueError(f"{self.name} is no model of SwiftVR's family")
        return self.networks

    def component(self, role: Role) -> Component:
        """Return the part of that role."""
        return next(component for component in self.components if component.role == role)


_APACHE = "Apache-2.0"
_CONVERTED = "numz/SeedVR2_comfyUI"
_ORIGINAL_3B = "ByteDance-Seed/SeedVR2-3B"
_ORIGINAL_7B = "ByteDance-Seed/SeedVR2-7B"


def _hub(repository: str, name: str, size_bytes: int, sha256: str, *, release: str = "") -> WeightFile:
    return WeightFile(
        name=name,
        repository=repository,
        licence=_APACHE,
        num_gigabytes=float(f"{size_bytes / 1e9:.2g}"),
        size_bytes=size_bytes,
        sha256=sha256,
        release=release,
    )


def bundled(name: str, *, licence: str, size_bytes: int, sha256: str) -> WeightFile:
    """Describe a file that ships inside the package.

    Args:
        name: relative to ``seedvr2_ray/models``, with forward slashes: ``nano/transformer.safetensors``.
        licence: SPDX name.
        size_bytes, sha256: of the file as committed; a package that was built wrongly is told apart at load.
    """
    return WeightFile(
        name=name,
        repository=None,
        licence=licence,
        num_gigabytes=round(size_bytes / 1e9, 3),
        size_bytes=size_bytes,
        sha256=sha256,
    )


_VAE = Component(
    role="vae",
    files=(
        _hub(
            _CONVERTED,
            "ema_vae_fp16.safetensors",
            501_324_814,
            "20678548f420d98d26f11442d3528f8b8c94e57ee046ef93dbb7633da8612ca1",
        ),
        # Of the 7B's repository: of the 3B's file of this name nobody says what it hashes to.
        _hub(
            _ORIGINAL_7B,
            "ema_vae.pth",
            1_002_691_902,
            "c7df8a67e68b7f9aca3d5d2153d2ce8ab4373687741a0f9ce87cb356ace51cac",
        ),
    ),
)
_POSITIVE = Component(
    role="positive",
    files=(
        _hub(
            _ORIGINAL_3B,
            "pos_emb.pt",
            595_100,
            "fa07a14844314772266b66c3b95deb0027696d8fe7065721263db5176f45d799",
        ),
    ),
)
_NEGATIVE = Component(
    role="negative",
    files=(
        _hub(
            _ORIGINAL_3B,
            "neg_emb.pt",
            656_540,
            "6a43e5800ef2354f1c156d27535834da055cbec8248298b8923492bba2076581",
        ),
    ),
)


def _seedvr2(name: str, summary: str, config: DiTConfig, *files: WeightFile) -> ModelEntry:
    transformer = Component(role="transformer", files=files)
    return ModelEntry(
        name=name,
        summary=summary,
        licence=_APACHE,
        networks=SeedVR2Config(transformer=config, vae=SEEDVR2_VAE),
        components=(transformer, _VAE, _POSITIVE, _NEGATIVE),
    )


_NANO_TEXT = bundled(
    "nano/text.safetensors",
    licence=_APACHE,
    size_bytes=328,
    sha256="2d1afd5adc80d55fa28a97e08b745add2363c8430f4eed87143a633c7ee20731",
)
_NANO_TRANSFORMER = bundled(
    "nano/transformer.safetensors",
    licence=_APACHE,
    size_bytes=1152608,
    sha256="d5bec4fa56423968d17efd566e0f790e66df6bc3ca8f40196d3e84d3106c5474",
)
_NANO_VAE = bundled(
    "nano/vae.safetensors",
    licence=_APACHE,
    size_bytes=639766,
    sha256="8563cf02b5fba34f3ae6ea1d5bace1175b7126c900ab1d0f35560fbb56124813",
)

_SWIFTVR = "H-oliday/SwiftVR"
_SWIFTVR_COMPONENTS = (
    Component(
        role="transformer",
        files=(
            _hub(
                _SWIFTVR,
                "transformer/diffusion_pytorch_model.safetensors",
                19_999_235_584,
                "f7ade5b8f7f4ff8b4e26a581772ebe5bcfb6a619ece2dd3483c5395c2d7e1a31",
            ),
        ),
    ),
    Component(
        role="autoencoder",
        files=(
            _hub(
                _SWIFTVR,
                "reae.safetensors",
                163_797_568,
                "c915205d1833677b6887e2fdf675499d3fc781af0c644c99330f7d22fd855514",
            ),
        ),
    ),
    Component(
        role="prompt",
        files=(
            _hub(
                _SWIFTVR,
                "prompt_embedding.safetensors",
                4_202_976,
                "cc4cf7b9aa9def4026bb5952b8aaec846ffc83eee43cafff0d3796b7e9fdf922",
            ),
        ),
    ),
)

_ENTRIES = (
    _seedvr2(
        "seedvr2-3b",
        "SeedVR2 3B as first released, which published figures are of: half the weights, about 7 % faster end to end",
        SEEDVR2_3B,
        _hub(
            _CONVERTED,
            "seedvr2_ema_3b_fp16.safetensors",
            6_783_018_808,
            "2fd0e03a3dad24e07086750360727ca437de4ecd456f769856e960ae93e2b304",
        ),
        _hub(
            _ORIGINAL_3B,
            "seedvr2_ema_3b.pth",
            13_566_090_228,
            "91627bba45175e1f5913378bc16151dc9c28c78fd608913546238ac13041d97d",
            release="e2bc8d4, 2025-06-11 to 2025-06-20",
        ),
    ),
    _seedvr2(
        "seedvr2-3b-20250622",
        "SeedVR2 3B as replaced on 2025-06-22: other weights, further from the source in comparisons",
        SEEDVR2_3B,
        _hub(
            _ORIGINAL_3B,
            "seedvr2_ema_3b.pth",
            13_566_090_228,
            "6bcc5ac59447e97b100477480aebb01be2ec724c8340bb83faae21f64848604b",
            release="37255ff, since 2025-06-22",
        ),
    ),
    _seedvr2(
        "seedvr2-7b",
        "SeedVR2 7B",
        SEEDVR2_7B,
        _hub(
            _CONVERTED,
            "seedvr2_ema_7b_fp16.safetensors",
            16_479_334_424,
            "7b8241aa957606ab6cfb66edabc96d43234f9819c5392b44d2492d9f0b0bbe4a",
        ),
        _hub(
            _ORIGINAL_7B,
            "seedvr2_ema_7b.pth",
            32_958_774_606,
            "e1b2ae25505607e61f2a7dc7967ba778aaf3e3626d9969ce6e24c52d9ddebfcd",
        ),
    ),
    _seedvr2(
        "seedvr2-7b-sharp",
        "SeedVR2 7B, sharper: closest to the source in published comparisons",
        SEEDVR2_7B,
        _hub(
            _CONVERTED,
            "seedvr2_ema_7b_sharp_fp16.safetensors",
            16_479_334_424,
            "20a93e01ff24beaeebc5de4e4e5be924359606c356c9c51509fba245bd2d77dd",
        ),
        _hub(
            _ORIGINAL_7B,
            "seedvr2_ema_7b_sharp.pth",
            32_958_774_606,
            "ced5706c976d5879efcab9e108349d67abcbd8a9b36a1f48bf0f19c24164a264",
        ),
    ),
    ModelEntry(
        name="swiftvr",
        summary="SwiftVR: streams in chunks of 24 frames with one cheap step, less work per frame than SeedVR2",
        licence=_APACHE,
        networks=SWIFTVR,
        components=_SWIFTVR_COMPONENTS,
        takes_streams=True,
    ),
    ModelEntry(
        name="nano",
        summary="For demonstration and tests: the whole path in seconds without a GPU; see docs/nano.md",
        licence=_APACHE,
        networks=SeedVR2Config(transformer=NANO_DIT, vae=NANO_VAE, anchor_rows=0),
        components=(
            Component(role="transformer", files=(_NANO_TRANSFORMER,)),
            Component(role="vae", files=(_NANO_VAE,)),
            # Trained without a negative prompt: with one text for both, guidance changes nothing.
            Component(role="positive", files=(_NANO_TEXT,)),
            Component(role="negative", files=(_NANO_TEXT,)),
        ),
    ),
    ModelEntry(
        name="lanczos",
        summary="Lanczos filter: no weights, no restoration; for tests and comparisons",
        licence=_APACHE,
        takes_streams=True,
    ),
)

CATALOGUE: dict[str, ModelEntry] = {entry.name: entry for entry in _ENTRIES}
"""By name, in the order in which they are listed to people."""


def models_with(sha256: str) -> tuple[str, ...]:
    """Name the models that a file belongs to, by its content."""
    return tuple(
        entry.name
        for entry in CATALOGUE.values()
        if any(file.sha256 == sha256 for part in entry.components for file in part.files)
    )


def find_entry(name: str) -> ModelEntry:
    """Look a model up by name.

    Raises:
        SettingsError: there is none of that name.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        close = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SettingsError(f"unknown model {name!r}; {hint}known are {', '.join(CATALOGUE)}")
    return entry


def default_model(*, cuda_available: bool) -> str:
    """Return the model that ``auto`` stands for on this machine.

    The 7B-sharp on a GPU: the VAE costs most of the time in either size, so the 3B saves little. Elsewhere
    the small model of this package, which takes the same path and gains about half a decibel on degraded video
    (docs/nano.md says where it does not).
    """
    return "seedvr2-7b-sharp" if cuda_available else "nano"
