"""Make examples/demo.mp4: seven seconds of old-looking video with three shots, a tune and two chapters.

The photographs come with scikit-image and are free to use (NOTICE names them). The camera moves over them in
steps far smaller than a pixel, then the picture loses what small old video has lost: sharpness to the lens, smooth
areas to noise, and details to compression. The same packages give the same file: every random number is seeded and
everything runs on one thread.
"""

import argparse
import math
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from skimage import data
from torch import Tensor

WIDTH, HEIGHT = 320, 180
FRAME_RATE = 24
SAMPLE_RATE = 48_000
SUPERSAMPLING = 3
"""Points per pixel and axis that are averaged, so that fine detail does not flicker as the camera moves."""
BLUR_SIGMA = 0.55
NOISE_SIGMA = 2.5 / 255
CRF = 27


@dataclass(frozen=True)
class View:
    """A 16:9 cut-out of a photograph, in its pixels."""

    x: float
    """Of the centre."""
    y: float
    width: float


@dataclass(frozen=True)
class Shot:
    """One camera move over one photograph."""

    photograph: str
    start: View
    end: View
    num_frames: int


SHOTS = (
    Shot("rocket", View(320, 232, 600), View(306, 296, 380), 56),
    Shot("camera", View(270, 190, 470), View(250, 140, 340), 56),
    Shot("chelsea", View(232, 118, 300), View(226, 142, 430), 56),
)
"""None of these photographs was used to train the small model in the package."""
CHAPTERS = ((0, 1, "Before a launch"), (1, 3, "A photographer, and a cat"))
"""First shot, the shot after the last, title."""
NUM_FRAMES = sum(shot.num_frames for shot in SHOTS)


def view_at(shot: Shot, progress: float) -> View:
    """Return where the camera looks at 0..1 of the shot; it starts and stops gently."""
    eased = progress * progress * (3 - 2 * progress)
    return View(
        shot.start.x + eased * (shot.end.x - shot.start.x),
        shot.start.y + eased * (shot.end.y - shot.start.y),
        # The width shrinks by equal factors in equal times: that is what a steady zoom looks like.
        shot.start.width * (shot.end.width / shot.start.width) ** eased,
    )


def look(photograph_CHW: Tensor, view: View) -> Tensor:
    """Render one view at the clip's size."""
    _, height, width = photograph_CHW.shape
    columns, rows = WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING
    xs_W = view.x + view.width * ((torch.arange(columns) + 0.5) / columns - 0.5)
    ys_H = view.y + view.width * HEIGHT / WIDTH * ((torch.arange(rows) + 0.5) / rows - 0.5)
    grid_HW2 = torch.stack(torch.meshgrid(2 * xs_W / width - 1, 2 * ys_H / height - 1, indexing="xy"), dim=-1)
    fine = F.grid_sample(photograph_CHW[None], grid_HW2[None], "bicubic", "reflection", align_corners=False)
    return F.avg_pool2d(fine, SUPERSAMPLING)[0]


def degrade(frames_TCHW: Tensor, generator: torch.Generator) -> Tensor:
    """Soften a little and add the noise of a small sensor."""
    positions = torch.arange(-2, 3, dtype=torch.float32)
    kernel = torch.exp(-(positions**2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 5)
    soft = F.conv2d(F.pad(frames_TCHW, (2, 2, 2, 2), mode="replicate"), kernel, groups=3)
    soft = F.conv2d(soft, kernel.transpose(2, 3), groups=3)
    return soft + NOISE_SIGMA * torch.randn(soft.shape, generator=generator)


def load_photograph(name: str) -> Tensor:
    """Return one of scikit-image's photographs in 0..1, 3 x H x W."""
    picture = np.atleast_3d(getattr(data, name)())
    return torch.from_numpy(picture).permute(2, 0, 1).expand(3, -1, -1).float() / 255


def render_pictures() -> NDArray[np.uint8]:
    """Return all frames, T x H x W x 3."""
    generator = torch.Generator().manual_seed(1)
    frames = []
    for shot in SHOTS:
        photograph_CHW = load_photograph(shot.photograph)
        frames += [look(photograph_CHW, view_at(shot, i / (shot.num_frames - 1))) for i in range(shot.num_frames)]
    restless = degrade(torch.stack(frames), generator)
    return restless.clamp(0, 1).mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def render_sound() -> NDArray[np.float32]:
    """Return a small tune of plucked notes over four chords, 2 x samples."""
    heartbeat = NUM_FRAMES / FRAME_RATE / 16
    chords = ((60, 64, 67, 71), (57, 60, 64, 67), (53, 57, 60, 64), (55, 59, 62, 67))
    num_samples = NUM_FRAMES * SAMPLE_RATE // FRAME_RATE
    sound = np.zeros((2, num_samples))
    for index in range(16):
        chord = chords[index // 4]
        pan = 0.5 + 0.3 * math.sin(index * 1.7)
        notes = [(chord[(index * 3) % 4] + 12, 0.22)]
        if index % 4 == 0:
            notes += [(note - 12, 0.16) for note in chord[:3]]
        start = round(index * heartbeat * SAMPLE_RATE)
        seconds = np.arange(num_samples - start) / SAMPLE_RATE
        for note, loudness in notes:
            tone = _pluck(440 * 2 ** ((note - 69) / 12), seconds)
            sound[:, start:] += loudness * np.outer((math.cos(pan * math.pi / 2), math.sin(pan * math.pi / 2)), tone)
    fade = np.minimum(1, np.arange(num_samples)[::-1] / (0.6 * SAMPLE_RATE))
    return np.asarray(0.9 * np.tanh(1.5 * sound * fade), dtype=np.float32)


def _pluck(frequency: float, seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    overtones = sum(
        np.sin(2 * math.pi * frequency * n * seconds) * np.exp(-seconds * (2.2 + 1.6 * n)) / n**1.6 for n in range(1, 6)
    )
    return np.asarray(overtones * np.minimum(1, seconds / 0.004))


def write_clip(target: Path) -> None:
    """Encode pictures and sound into one MP4."""
    pictures, sound = render_pictures(), render_sound()
    with av.open(str(target), "w", options={"movflags": "+faststart"}) as output:
        output.metadata.update({"title": "Three small shots", "comment": "The example clip of seedvr2-ray"})
        video = output.add_stream("libx264", rate=FRAME_RATE)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.time_base = Fraction(1, FRAME_RATE * 512)
        # Without cpu-independent, x264's macroblock tree gives other bytes on every run on some CPUs.
        video.options = {"crf": str(CRF), "threads": "1", "g": "48", "x264-params": "cpu-independent=1"}
        context = video.codec_context
        # H.273: 6 is BT.601 with 525 lines, what a player assumes for a picture this small anyway.
        context.color_primaries = context.color_trc = context.colorspace = 6
        context.color_range = 1
        audio = output.add_stream("aac", rate=SAMPLE_RATE, layout="stereo", bit_rate=96_000)
        output.set_chapters(
            [
                {
                    "id": index,
                    "start": _milliseconds(first_shot),
                    "end": _milliseconds(stop_shot),
                    "time_base": Fraction(1, 1000),
                    "metadata": {"title": title},
                }
                for index, (first_shot, stop_shot, title) in enumerate(CHAPTERS)
            ]
        )
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU601", dst_color_range="MPEG", interpolation="BICUBIC"
            )
            frame.pts, frame.time_base = index * 512, Fraction(1, FRAME_RATE * 512)
            output.mux(video.encode(frame))
        output.mux(video.encode(None))
        samples = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound), "fltp", "stereo")
        samples.sample_rate, samples.pts, samples.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        output.mux(audio.encode(samples))
        output.mux(audio.encode(None))


def _milliseconds(num_shots: int) -> int:
    """Return how long the first shots take together."""
    return 1000 * sum(shot.num_frames for shot in SHOTS[:num_shots]) // FRAME_RATE


def main() -> None:
    """Write the clip where the arguments say."""
    parser = argparse.ArgumentParser(description="Make the example clip.")
    parser.add_argument("target", nargs="?", type=Path, default=Path(__file__).parent / "demo.mp4")
    target = parser.parse_args().target
    torch.set_num_threads(1)  # Sums of floats depend on how they are split.
    write_clip(target)
    print(f"{target}: {NUM_FRAMES} frames, {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
