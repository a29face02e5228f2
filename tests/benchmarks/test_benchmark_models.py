import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABSENT = ("ray", "av", "typer", "rich", "huggingface_hub", "safetensors", "fsspec", "scenedetect", "matplotlib")
"""What a machine that is lent for benchmarks may lack."""


@pytest.mark.slow
def test_models_are_measured_with_torch_alone(tmp_path):
    program = f"""
import sys
for name in {ABSENT!r}:
    sys.modules[name] = None
sys.argv = ["models", "--frames", "5", "--resolutions", "64x48", "--results", {str(tmp_path)!r}]
from benchmarks import models
models.main()
"""
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    (path,) = tmp_path.glob("*.json")
    (row,) = json.loads(path.read_text())["rows"]
    assert "failed" not in row, row
    assert (row["model"], row["frames"], row["padded"]) == ("tiny", 5, [64, 80])
    assert set(row["stages"]) == {"encode", "transform", "decode", "finish"}
    assert row["seconds"] >= sum(stage["seconds"] for stage in row["stages"].values()) * 0.99
    assert row["stages"]["decode"]["tflop"] >= row["stages"]["encode"]["tflop"]
