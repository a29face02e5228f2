"""Which fill around the picture suits a checkpoint: the tone it gives, and what it does to the border.

    python -m benchmarks.padding --model seedvr2-7b-sharp --clip video.mp4

The clip is taken for the truth, halved, and restored to its size, without matching colours. Once at a size that
needs no fill: the picture that the others are held against. Then with a strip cut off below and to the right, so
that fill is needed, under every rule. Good fill gives the truth's mean colour, and at the border what the network
makes where the picture goes on. Rows are kept in ``benchmarks/results/padding-<model>.json``.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.frames import Frames, FrameSpan, to_codes, to_unit_range
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.decode import decode_span
from seedvr2_ray.models.weights.catalogue import ModelEntry, Role, find_entry
from seedvr2_ray.models.weights.download import FoundFile, WeightsSource, require_model
from seedvr2_ray.restoration.device import default_dtype
from seedvr2_ray.restoration.diffusion.load import load_networks
from seedvr2_ray.restoration.diffusion.noise import draw_noise
from seedvr2_ray.restoration.diffusion.restorer import DiffusionRestorer
from seedvr2_ray.restoration.load import local_device
from seedvr2_ray.restoration.planning.geometry import Geometry
from seedvr2_ray.restoration.resize import resize_frames
from seedvr2_ray.restoration.restorer import RestorerIdentity, SegmentTask
from seedvr2_ray.settings import Padding, RestoreSettings

CUT = 26
"""Rows and columns taken away, so that 10 are missing to the next multiple of 16, and 2 to that of 4."""
CANVAS = 512
"""Latents along each side of which every picture gets the upper left part."""
BORDER = 16
"""Rows and columns that count as border."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to fill."""

    padding: Padding
    anchor_rows: int


RULES = (Rule("reflect", 0), Rule("black", 0), Rule("reflect_black", 16), Rule("reflect_black", 32))


def main() -> None:
    """Measure every rule and print a table."""
    arguments = _parse()
    entry = find_entry(arguments.model)
    files = require_model(entry, WeightsSource(weights_dir=arguments.weights_dir), may_download=False)
    truth_TCHW = read_truth(arguments.clip, arguments.first, arguments.frames, arguments.max_side)
    source_TCHW = resize_frames(truth_TCHW, truth_TCHW.shape[2] // 2, truth_TCHW.shape[3] // 2).clamp(0, 1)
    whole_TCHW = restore(entry, files, source_TCHW, Rule("reflect", 0))[..., :-CUT, :-CUT]
    part_TCHW, truth_TCHW = source_TCHW[..., : -CUT // 2, : -CUT // 2], truth_TCHW[..., :-CUT, :-CUT]
    rows = []
    for rule in RULES:
        restored_TCHW = restore(entry, files, part_TCHW, rule)
        row = {
            "padding": rule.padding,
            "anchor_rows": rule.anchor_rows,
            **compare(restored_TCHW, whole_TCHW, truth_TCHW),
        }
        print(json.dumps(row))
        rows.append(row)
    record = {
        "model": entry.name,
        "clip": Path(arguments.clip).name,
        "frames": arguments.frames,
        "size": f"{truth_TCHW.shape[3]}x{truth_TCHW.shape[2]}",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        "rows": rows,
    }
    path = arguments.results / f"padding-{entry.name}.json"
    path.write_text(json.dumps(record, indent=2) + "\n")


def read_truth(clip: str, first: int, num_frames: int, max_side: int) -> Tensor:
    """Return frames in 0..1, cut to sizes that need no fill at full and at half size."""
    media = probe(clip)
    span = FrameSpan(first, tuple(media.frame_pts[first : first + num_frames]))
    codes_TCHW = torch.cat([frames.data_TCHW[:, :3] for frames in decode_span(clip, media.video, span)])
    height, width = (min(side, max_side) // 32 * 32 for side in codes_TCHW.shape[2:])
    return to_unit_range(codes_TCHW[..., :height, :width])


def restore(entry: ModelEntry, files: dict[Role, FoundFile], source_TCHW: Tensor, rule: Rule) -> Tensor:
    """Return restored frames of twice the size in 0..1."""
    device = local_device()
    dtype = default_dtype(device)
    ruled = replace(entry, networks=replace(entry.seedvr2, anchor_rows=rule.anchor_rows))
    model = load_networks(ruled, files, device=device, dtype=dtype)
    restorer = DiffusionRestorer(model, RestorerIdentity(entry.name, ""), device=device, draw=draw_from_one_canvas)
    num_frames, _, height, width = source_TCHW.shape
    task = SegmentTask(
        first_frame=0,
        num_frames=num_frames,
        geometry=Geometry(source_width=width, source_height=height, width=2 * width, height=2 * height),
        settings=RestoreSettings(padding=rule.padding, colour_match="none"),
        output_depth=16,
    )

    def frames() -> Iterator[Frames]:
        for number, frame_CHW in enumerate(to_codes(source_TCHW, torch.uint16)):
            yield Frames(frame_CHW[None], (number,), Fraction(1, 25))

    return torch.cat([to_unit_range(batch.data_TCHW) for batch in restorer.restore(frames(), task)])


def draw_from_one_canvas(seed: int, frame_numbers: Sequence[int], size_HWC: tuple[int, int, int]) -> Tensor:
    """Return noise that is the same in the region that pictures of different sizes share."""
    height, width, channels = size_HWC
    return draw_noise(seed, list(frame_numbers), (CANVAS, CANVAS, channels))[:, :height, :width]


def compare(restored_TCHW: Tensor, whole_TCHW: Tensor, truth_TCHW: Tensor) -> dict[str, float]:
    """Return errors in 8-bit codes, and the distance to the truth in dB.

    Args:
        restored_TCHW: with fill.
        whole_TCHW: the same region of a picture that goes on.
        truth_TCHW: the same region as it should be.
    """
    tone_C = (restored_TCHW - truth_TCHW).mean((0, 2, 3))
    change_TCHW = (restored_TCHW - whole_TCHW).square()
    border_HW = torch.ones(change_TCHW.shape[2:], dtype=torch.bool)
    border_HW[:-BORDER, :-BORDER] = False
    return {
        "tone_error": round(255 * tone_C.abs().mean().item(), 3),
        "border_error": round(255 * change_TCHW[..., border_HW].mean().sqrt().item(), 3),
        "interior_error": round(255 * change_TCHW[..., ~border_HW].mean().sqrt().item(), 3),
        "psnr_to_truth": round(-10 * (restored_TCHW - truth_TCHW).square().mean().log10().item(), 3),
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="nano", help="as seedvr2-ray models list names it")
    parser.add_argument("--clip", default="examples/demo.mp4", help="a clean clip; it is the truth")
    parser.add_argument("--first", type=int, default=0, help="its first frame to use")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--max-side", type=int, default=512, help="larger frames are cut to this many pixels")
    parser.add_argument("--weights-dir", type=Path, help="folder with checkpoints")
    parser.add_argument("--results", type=Path, default=results_folder(), help="folder of the JSON file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
