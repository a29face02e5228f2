"""Judge ``nano`` on unseen clips: ``python -m training.evaluate``.

Restores every clip under every condition through the restorer that users run, and compares it with
bicubic and Lanczos enlargements of the same input. Writes ``docs/nano.json`` and a contact sheet, and prints a table.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.machine import describe_machine
from seedvr2_ray.restoration.lanczos import LanczosRestorer
from training import measures
from training.clips_unseen import CONDITIONS, UnseenClip, draw_unseen_clips
from training.degradation import degrade, enlarge, to_bytes
from training.export import SHIPPED_FOLDER
from training.restorers import load_nano, restore

METHODS = ("bicubic", "lanczos", "nano")
TARGETS = {"x2 moderate": 0.5, "x4 moderate": 0.3}
"""Mean gain over bicubic, in decibels, that the model is meant to reach."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Scores:
    """How close a restored clip is to the clean one; means over its frames."""

    psnr: float
    ssim: float
    haarpsi: float
    gmsd: float
    """Less is better."""
    flicker: float
    """Mean error of the change from frame to frame, in 8-bit codes; less is better."""
    colour_shift: float
    """Largest difference of a channel's mean over the clip, in 8-bit codes; less is better."""


def score(restored_TCHW: Tensor, clean_TCHW: Tensor) -> Scores:
    """Compare uint8 codes with the clean clip in 0..1."""
    restored = restored_TCHW.float() / 255
    clean = to_bytes(clean_TCHW).float() / 255
    difference = 255 * (restored - clean)
    changes = difference.diff(dim=0).abs()
    return Scores(
        psnr=float(measures.psnr(restored, clean, data_range=1.0)),
        ssim=float(measures.ssim(restored, clean, data_range=1.0)),
        haarpsi=float(measures.haarpsi(restored, clean, data_range=1.0)),
        gmsd=float(measures.gmsd(restored, clean, data_range=1.0)),
        flicker=float(changes.mean()),
        colour_shift=float(difference.mean(dim=(0, 2, 3)).abs().max()),
    )


def build_methods(folder: Path) -> dict[str, Callable[[Tensor, int, int], Tensor]]:
    """Return what is compared: functions from small frames and a size to large frames."""
    nano, lanczos = load_nano(folder), LanczosRestorer()
    return {
        "bicubic": lambda small, height, width: to_bytes(enlarge(small.float() / 255, height, width)),
        "lanczos": lambda small, height, width: restore(lanczos, small, height, width),
        "nano": lambda small, height, width: restore(nano, small, height, width),
    }


def evaluate(
    folder: Path, clips: list[UnseenClip], conditions: list[str]
) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Yield a row of scores, and the pictures behind it, for every condition and clip."""
    methods = build_methods(folder)
    for condition in conditions:
        for clip in clips:
            small = degrade(clip.frames_TCHW, CONDITIONS[condition])
            height, width = clip.frames_TCHW.shape[2:]
            pictures = {name: method(small, height, width) for name, method in methods.items()}
            scores = {name: score(picture, clip.frames_TCHW) for name, picture in pictures.items()}
            row = {"condition": condition, "clip": clip.name} | {
                name: {field: round(getattr(values, field), 4) for field in Scores.__slots__}
                for name, values in scores.items()
            }
            yield row, {"clean": to_bytes(clip.frames_TCHW), **pictures}


def summarise(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return means per condition, and the gain over bicubic in the mean and of the worst clip."""
    summary = []
    for condition in dict.fromkeys(row["condition"] for row in rows):
        chosen = [row for row in rows if row["condition"] == condition]
        gains = [row["nano"]["psnr"] - row["bicubic"]["psnr"] for row in chosen]
        means = {
            name: {field: round(float(np.mean([row[name][field] for row in chosen])), 4) for field in Scores.__slots__}
            for name in METHODS
        }
        target = next((gain for prefix, gain in TARGETS.items() if condition.startswith(prefix)), None)
        summary.append(
            {
                "condition": condition,
                "clips": len(chosen),
                "gain_db": round(float(np.mean(gains)), 3),
                "worst_gain_db": round(min(gains), 3),
                "target_db": target,
                **means,
            }
        )
    return summary


def write_table(summary: list[dict[str, Any]], rows: list[dict[str, Any]]) -> str:
    """Return the figures as Markdown."""
    lines = [
        "| condition | method | PSNR dB | SSIM | HaarPSI | GMSD (less) | flicker (less) | colour shift (less) |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for entry in summary:
        for name in METHODS:
            m = entry[name]
            lines.append(
                f"| {entry['condition']} | {name} | {m['psnr']:.2f} | {m['ssim']:.4f} | {m['haarpsi']:.4f} | "
                f"{m['gmsd']:.4f} | {m['flicker']:.2f} | {m['colour_shift']:.2f} |"
            )
    lines += ["", "Gain of nano over bicubic in decibels, clip by clip:", ""]
    conditions = [entry["condition"] for entry in summary]
    lines += ["| clip | " + " | ".join(conditions) + " |", "| --- |" + " --- |" * len(conditions)]
    for clip in dict.fromkeys(row["clip"] for row in rows):
        gains = [
            next(r["nano"]["psnr"] - r["bicubic"]["psnr"] for r in rows if r["clip"] == clip and r["condition"] == c)
            for c in conditions
        ]
        lines.append(f"| {clip} | " + " | ".join(f"{gain:+.2f}" for gain in gains) + " |")
    lines.append("| mean | " + " | ".join(f"{entry['gain_db']:+.2f}" for entry in summary) + " |")
    return "\n".join(lines) + "\n"


def draw_contact_sheet(pictures: list[tuple[str, dict[str, Tensor]]], path: Path) -> None:
    """Draw the middle frame of each clip, one per row: bicubic, Lanczos, nano, clean."""
    columns = (*METHODS, "clean")
    _, _, height, width = pictures[0][1]["clean"].shape
    sheet = Image.new("RGB", (len(columns) * (width + 4), len(pictures) * (height + 18)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (title, frames) in enumerate(pictures):
        draw.text((2, row * (height + 18) + 2), f"{title} | {', '.join(columns)}", fill="black")
        for column, name in enumerate(columns):
            frame = frames[name][len(frames[name]) // 2].permute(1, 2, 0).numpy()
            left, top = column * (width + 4), row * (height + 18)
            sheet.paste(Image.fromarray(frame), (left, top + 16))
    sheet.save(path, optimize=True)


def measure_speed(folder: Path, *, num_frames: int = 21, height: int = 360, width: int = 640) -> dict[str, Any]:
    """Restore a clip of noise to 640x360 on one core and return seconds per frame and peak memory.

    Processor time is given beside wall time, since other work may share the machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    nano = load_nano(folder)
    generator = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (num_frames, 3, height // 2, width // 2), generator=generator, dtype=torch.uint8)
    restore(nano, small[:5], height, width)
    wall, processor = time.perf_counter(), time.process_time()
    restore(nano, small, height, width)
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    torch.set_num_threads(threads)
    return {
        "size": f"{width}x{height}",
        "frames": num_frames,
        "threads": 1,
        "dtype": "float32",
        "wall_seconds_per_frame": round(wall / num_frames, 3),
        "processor_seconds_per_frame": round(processor / num_frames, 3),
        "peak_process_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "machine": describe_machine(),
    }


def main() -> None:
    """Read the command line, evaluate, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=SHIPPED_FOLDER, help="folder with the exported files")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder for figures and pictures")
    parser.add_argument("--speed", action="store_true", help="measure speed and memory only")
    parser.add_argument("--conditions", default="", help="comma-separated beginnings; by default all")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "nano.json"
    report: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if arguments.speed:
        report["speed"] = measure_speed(arguments.weights)
        print(json.dumps(report["speed"], indent=2))
    else:
        starts = tuple(arguments.conditions.split(","))
        conditions = [condition for condition in CONDITIONS if condition.startswith(starts)]
        rows, pictures = [], []
        for row, frames in evaluate(arguments.weights, draw_unseen_clips(), conditions):
            rows.append(row)
            print(f"{row['condition']}, {row['clip']}: {row['nano']['psnr'] - row['bicubic']['psnr']:+.2f} dB")
            if row["condition"] in (conditions[0], "x4 moderate: noise 3, JPEG 60"):
                pictures.append((f"{row['clip']}, {row['condition']}", frames))
        report |= {"summary": summarise(rows), "rows": rows}
        draw_contact_sheet(pictures, arguments.out / "nano.png")
        print(write_table(report["summary"], rows))
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
