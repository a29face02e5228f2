"""Peak memory of a restoration, for a short and a long video: it must not grow with the length.

python -m benchmarks.memory --short 30 --long 300
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.machine import describe_machine, results_folder

LIMIT = 1.10


def peak_mebibytes(source: Path, target: Path, resolution: str) -> float:
    """Restore in a process of its own and return the largest resident set it ever had."""
    command = [sys.executable, "-m", "seedvr2_ray", "restore", str(source), str(target)]
    command += ["--model", "lanczos", "--resolution", resolution, "--preset", "ultrafast", "--no-report", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return usage.ru_maxrss / 1024


def make_source(path: Path, seconds: int, size: str, rate: int) -> None:
    """Write a clip with a moving test pattern and sound."""
    command = ["ffmpeg", "-v", "error", "-y", "-f", "lavfi", "-i", f"testsrc2=size={size}:rate={rate}"]
    command += ["-f", "lavfi", "-i", "sine=440:sample_rate=48000", "-t", str(seconds), "-c:v", "libx264"]
    subprocess.run([*command, "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-c:a", "aac", str(path)], check=True)


def measure(short: int, long: int, size: str, rate: int, resolution: str) -> dict[str, Any]:
    """Return both peaks and their ratio."""
    peaks = {}
    with tempfile.TemporaryDirectory() as folder:
        for seconds in (short, long):
            source = Path(folder) / f"{seconds}.mp4"
            make_source(source, seconds, size, rate)
            peaks[seconds] = peak_mebibytes(source, Path(folder) / f"{seconds}.out.mp4", resolution)
    return {
        "benchmark": "memory",
        "machine": describe_machine(),
        "clip": f"{size} at {rate} frames/s, restored to {resolution}",
        "peak_mebibytes": {f"{seconds} s": round(peak, 1) for seconds, peak in peaks.items()},
        "ratio": round(peaks[long] / peaks[short], 3),
        "limit": LIMIT,
    }


def main() -> None:
    """Measure, print, and keep the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=30, help="seconds")
    parser.add_argument("--long", type=int, default=300, help="seconds")
    parser.add_argument("--size", default="1920x1080")
    parser.add_argument("--rate", type=int, default=24)
    parser.add_argument("--resolution", default="1080p")
    arguments = parser.parse_args()
    result = measure(arguments.short, arguments.long, arguments.size, arguments.rate, arguments.resolution)
    print(json.dumps(result, indent=1))
    (results_folder() / "memory.json").write_text(json.dumps(result, indent=1) + "\n")
    if result["ratio"] > LIMIT:
        sys.exit(f"peak memory grew by a factor of {result['ratio']}, more than {LIMIT}")


if __name__ == "__main__":
    main()
