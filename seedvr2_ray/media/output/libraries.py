"""Which multimedia libraries are at work: encoded bytes depend on them, so they are part of addresses."""

import av

from seedvr2_ray.media.codecs import CODECS


def library_versions() -> dict[str, str]:
    """Return PyAV's and FFmpeg's versions by name."""
    libraries = {name: ".".join(map(str, version)) for name, version in sorted(av.library_versions.items())}
    return {"pyav": av.__version__, **libraries}


def available_codecs() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codecs of masters that this build of FFmpeg can encode, and those it cannot."""
    present = tuple(name for name, facts in CODECS.items() if _has_encoder(facts.encoder))
    return present, tuple(name for name in CODECS if name not in present)


def _has_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except ValueError:
        return False
    return True
