"""What a caller may choose for one video: one definition for HTTP, manifests, CLI and notebooks."""

import difflib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, Self, get_args, get_origin, get_type_hints

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.excerpts import parse_excerpt

ColourMatch = Literal["lab", "wavelet", "wavelet_adaptive", "hsv", "adain", "none"]
Padding = Literal["reflect_black", "reflect", "black"]
Codec = Literal["auto", "h264", "hevc", "av1", "prores", "prores4444", "ffv1", "png", "tiff", "webp", "jpeg"]
Container = Literal["auto", "mp4", "mov", "mkv", "webm", "avi"]

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class RestoreSettings:
    """What a caller may choose for one video or image."""

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    model: str = "auto"
    """Name of a restorer in the catalogue; ``auto`` takes the best one this machine can run."""
    resolution: str = "auto"
    """Size: ``auto``, ``720p 1080p 1440p 2160p 4320p`` (short side), ``WxH``, ``xN``, or ``area:WxH``. ``auto`` is
    ``1080p`` for whatever is smaller; what is larger keeps its size, because nobody asked for less."""
    seed: int = 666
    """Decides the noise together with the frame number, and nothing else does."""
    colour_match: ColourMatch = "wavelet"
    """How the output's colours are brought back to the input's."""
    sample_steps: int = 1
    """Diffusion steps; the released models are distilled for one."""
    cfg_scale: float = 1.0
    """Classifier-free guidance; 1 evaluates the positive text only."""
    cfg_rescale: float = 0.0
    """Share of the guided prediction's spread that is pulled back to the positive one's."""
    chunk_frames: int = 21
    """Frames that go through the transformer at once, 4n + 1."""
    chunk_overlap: int = 2
    """Latent frames shared by neighbouring chunks, where they are cross-faded."""
    padding: Padding = "reflect_black"
    """How frames are filled up to multiples of 16 before the model sees them."""
    vae_tile: int = 0
    """Side in pixels of the tiles that frames are encoded and decoded in; 0 takes frames whole. Tiles need
    less memory and change the picture a little, so no machine turns to them by itself."""
    reference: bool = False
    """Follow the published script's order of operations: one chunk, area size, crop to 16."""
    detect_shots: bool = True
    """Cut segments at shots, so that nothing is carried or blended across a cut."""
    segment_seconds: float = 10.0
    """Longest segment; a longer shot is cut into several that overlap."""
    segment_overlap: int = 8
    """Frames shared by neighbouring segments of one shot, where they are cross-faded."""
    deinterlace: Literal["refuse", "bwdif", "off"] = "refuse"
    """What happens to interlaced material; ``off`` restores its frames as they are, fields and all."""
    salvage: bool = False
    """Restore what can be read of a damaged file and report what is missing."""
    excerpt: str = ""
    """Restore only a stretch of a video: seconds (``10-13.5``, ``1:02-``) or ``frames 250-324``; empty for all of it.
    What is restored of it is not restored again for the whole."""
    codec: Codec = "auto"
    """Codec of the master; ``auto`` follows the source's kind and bit depth."""
    container: Container = "auto"
    """Container of the master; ``auto`` follows the name of the target."""
    bit_depth: Literal[0, 8, 10, 12, 16] = 0
    """Bits per sample of the master; 0 keeps the source's where the codec can."""
    crf: int = -1
    """Constant quality of the lossy codecs, lower is better; -1 takes the codec's default here."""
    preset: str = "auto"
    """Speed preset of the encoder."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            _require_type(field.name, getattr(self, field.name), hints[field.name])
        if self.chunk_frames < 1 or self.chunk_frames % 4 != 1:
            raise SettingsError(f"chunk_frames must be 4n + 1 (1, 5, 9, ... 21), got {self.chunk_frames}")
        if not 0 <= self.chunk_overlap <= (self.chunk_frames - 1) // 4:
            raise SettingsError(
                f"chunk_overlap counts latents shared by two chunks and must lie in "
                f"0..{(self.chunk_frames - 1) // 4} for {self.chunk_frames} frames, got {self.chunk_overlap}"
            )
        if self.vae_tile and (not 64 <= self.vae_tile <= 8192 or self.vae_tile % 64):
            raise SettingsError(f"vae_tile must be a multiple of 64 in 64..8192, or 0 for none, got {self.vae_tile}")
        if self.vae_tile and self.reference:
            raise SettingsError("reference takes frames whole, as the published script does: leave vae_tile at 0")
        if not 1 <= self.sample_steps <= 1000:
            raise SettingsError(f"sample_steps must lie in 1..1000, got {self.sample_steps}")
        if not 0.0 <= self.cfg_rescale <= 1.0:
            raise SettingsError(f"cfg_rescale must lie in 0..1, got {self.cfg_rescale}")
        if not 0.5 <= self.segment_seconds <= 600:
            raise SettingsError(f"segment_seconds must lie in 0.5..600, got {self.segment_seconds}")
        if not 0 <= self.segment_overlap <= 64:
            raise SettingsError(f"segment_overlap must lie in 0..64 frames, got {self.segment_overlap}")
        if not -1 <= self.crf <= 63:
            raise SettingsError(f"crf must lie in 0..63, or -1 for the default, got {self.crf}")
        if self.excerpt:
            parse_excerpt(self.excerpt)
        if self.excerpt and self.reference:
            raise SettingsError("reference takes the whole video as one sequence; leave the excerpt away, or reference")
        if not 0 <= self.seed < 2**63:
            raise SettingsError(f"seed must lie in 0..2^63-1, got {self.seed}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Build settings from a manifest row or a request body; unknown keys are refused by name."""
        known = {field.name for field in fields(cls)}
        for key in values:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"; did you mean {close[0]}?" if close else f"; known are {', '.join(sorted(known))}"
                raise SettingsError(f"unknown setting {key!r}{hint}")
        return cls(**values)

    def to_mapping(self) -> dict[str, Any]:
        """Return plain values that `from_mapping` takes back."""
        return asdict(self)


def _require_type(name: str, value: object, hint: Any) -> None:
    if get_origin(hint) is Literal:
        if value not in get_args(hint) or isinstance(value, bool):
            allowed = ", ".join(str(choice) for choice in get_args(hint))
            raise SettingsError(f"{name} must be one of {allowed}; got {value!r}")
        return
    accepted = (int, float) if hint is float else (hint,)
    if not isinstance(value, accepted) or (hint is not bool and isinstance(value, bool)):
        raise SettingsError(f"{name} must be {hint.__name__}, got {value!r}")


def setting_of_text(name: str, value: Any) -> Any:
    """Read text as its setting's type: a cell of a table, or what stands behind ``name=``.

    Whole floats become integers where the setting is one: a column with an empty cell is one of floats, as pandas
    writes it. What does not fit is returned as it is, for the settings to refuse.
    """
    hint = get_type_hints(RestoreSettings).get(name)
    number = get_args(hint)[0] if get_origin(hint) is Literal else None
    is_integer = hint is int or (isinstance(number, int) and not isinstance(number, bool))
    if isinstance(value, float) and is_integer and value.is_integer():
        return int(value)
    if not isinstance(value, str) or hint is None or hint is str:
        return value
    text = value.strip()
    if hint is bool:
        return _BOOLEANS.get(text.lower(), value)
    try:
        if is_integer:
            return int(float(text)) if "." in text and float(text).is_integer() else int(text)
        return float(text) if hint is float else text
    except ValueError:
        return value
