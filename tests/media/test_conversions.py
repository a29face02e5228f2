import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from av.video.reformatter import Interpolation

from seedvr2_ray.media import conversions
from seedvr2_ray.media.conversions import conversions_fingerprint
from seedvr2_ray.media.output import encode
from seedvr2_ray.media.picture import pixels, siting


@pytest.fixture(autouse=True)
def _forgetful() -> Iterator[None]:
    conversions_fingerprint.cache_clear()
    yield
    conversions_fingerprint.cache_clear()


@pytest.mark.slow
def test_the_same_conversions_have_the_same_fingerprint_in_every_process() -> None:
    program = "from seedvr2_ray.media.conversions import conversions_fingerprint as f; print(f())"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == conversions_fingerprint()


def _rougher_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "EXACT", Interpolation.BILINEAR)


def _other_siting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(siting, "_is_taken_for_centred", lambda frame: False)


def _other_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_SWS_FLAGS", "bilinear+bitexact")


def _other_white(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "_swscale_white", lambda codes: codes)


def _other_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    def unfiltered(found: Iterator[conversions.Found]) -> Iterator[object]:
        return (item.frame for item in found)

    monkeypatch.setattr(conversions, "deinterlaced", unfiltered)


@pytest.mark.slow
@pytest.mark.parametrize("change", [_rougher_reading, _other_siting, _other_writing, _other_white, _other_fields])
def test_another_conversion_has_another_fingerprint(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
) -> None:
    before = conversions_fingerprint()
    conversions_fingerprint.cache_clear()
    change(monkeypatch)
    assert conversions_fingerprint() != before


@pytest.mark.slow
def test_pictures_are_converted_once_per_process() -> None:
    for _ in range(1000):
        conversions_fingerprint()
    assert conversions_fingerprint.cache_info().misses == 1
