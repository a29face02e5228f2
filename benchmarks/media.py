"""What a path through the pipeline costs, against one ffmpeg process doing the same work.

Both decode the same clip, enlarge it with Lanczos, and encode with the same encoder settings; both are
measured as whole processes, one after the other, in one run. The ratio is what counts: at most 2.5.

The proof of decode, the check values of all pictures in the pass that looks for shots and again in the
segments, is measured beside it in processor time: at most 3 % of the run.

    python -m benchmarks.media --seconds 20
"""

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av

from benchmarks.machine import describe_machine, results_folder
from seedvr2_ray.media.output.master import plan_master
from seedvr2_ray.media.probe import probe
from seedvr2_ray.media.reading.proof import picture_crc
from seedvr2_ray.settings import RestoreSettings

LIMIT = 2.5
PROOF_LIMIT = 0.03


def make_source(path: Path, seconds: int) -> None:
    """Write a 960x540 clip with motion, texture, one cut every five seconds and sound."""
    video = "testsrc2=size=960x540:rate=24,noise=alls=6:allf=t"
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        video,
        "-f",
        "lavfi",
        "-i",
        "sine=440:sample_rate=48000",
    ]
    command += ["-t", str(seconds), "-c:v", "libx264", "-preset", "veryfast", "-crf", "20", "-pix_fmt", "yuv420p"]
    subprocess.run([*command, "-c:a", "aac", str(path)], check=True)


def run_ffmpeg(source: Path, target: Path) -> float:
    """Return the seconds one ffmpeg process takes with our encoder settings."""
    media = probe(str(source))
    master, _ = plan_master(media, RestoreSettings(), width=1920, height=1080, target=str(target))
    options = [word for name, value in master.options for word in (f"-{name}", value)]
    command = ["ffmpeg", "-v", "error", "-y", "-i", str(source), "-vf", "scale=1920:1080:flags=lanczos"]
    command += ["-c:v", master.codec, "-pix_fmt", master.pixel_format, *options, "-c:a", "copy", str(target)]
    return _seconds(command)


def run_ours(source: Path, target: Path) -> float:
    """Return the seconds our command line takes, from its start to its end, report left out."""
    command = [sys.executable, "-m", "seedvr2_ray", "restore", str(source), str(target)]
    return _seconds([*command, "--model", "lanczos", "--resolution", "1080p", "--no-report", "--json"])


def proof_seconds(source: Path) -> float:
    """Return the processor time that the check values of all pictures take once."""
    seconds = 0.0
    with av.open(str(source)) as container:
        for frame in container.decode(video=0):
            began = time.thread_time()
            picture_crc(frame)
            seconds += time.thread_time() - began
    return seconds


def _processor_seconds() -> float:
    """Processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, and keep the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20, help="length of the clip")
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("ffmpeg") is None:
        sys.exit("this benchmark compares with ffmpeg, which is not installed: apt-get install ffmpeg")
    result = measure(arguments.seconds, arguments.repeats)
    print(json.dumps(result, indent=1))
    (results_folder() / "media.json").write_text(json.dumps(result, indent=1) + "\n")
    if result["ratio"] > LIMIT:
        sys.exit(f"the ratio {result['ratio']} exceeds {LIMIT}")
    if result["proof_share"] > PROOF_LIMIT:
        sys.exit(f"the proof takes {result['proof_share']} of the run, more than {PROOF_LIMIT}")


def measure(seconds: int, repeats: int) -> dict[str, Any]:
    """Return the times of both, alternating, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.mp4"
        make_source(source, seconds)
        times: dict[str, list[float]] = {"ffmpeg": [], "ours": []}
        shares: list[float] = []
        for number in range(repeats):
            times["ffmpeg"].append(run_ffmpeg(source, Path(folder) / f"ffmpeg{number}.mp4"))
            before = _processor_seconds()
            times["ours"].append(run_ours(source, Path(folder) / f"ours{number}.mp4"))
            shares.append(2 * proof_seconds(source) / (_processor_seconds() - before))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "benchmark": "media",
        "machine": describe_machine(),
        "clip": f"960x540 to 1920x1080, {seconds} s at 24 frames/s",
        "seconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "proof_share": round(statistics.median(shares), 4),
        "proof_limit": PROOF_LIMIT,
        "ratio": round(medians["ours"] / medians["ffmpeg"], 3),
        "limit": LIMIT,
    }


if __name__ == "__main__":
    main()
