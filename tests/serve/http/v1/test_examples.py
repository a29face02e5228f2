import re
import subprocess
from pathlib import Path

import pytest

from tests.missing import require_programs
from tests.serve.http.v1.ingress import serving

DOCUMENT = Path(__file__).parents[4] / "docs" / "api.md"


@pytest.mark.slow
def test_the_examples_of_the_documentation_run_as_they_stand(tmp_path, clip):
    require_programs("curl", "jq")
    script = "\n".join(re.findall(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
    folder = tmp_path / "here"
    folder.mkdir()
    with serving(tmp_path, runs_jobs=True, auth="keys") as ingress:
        key = ingress.client("anna").headers["authorization"].removeprefix("Bearer ")
        ran = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            env={"PATH": "/usr/bin:/bin", "SERVICE": ingress.url, "KEY": key, "VIDEO": str(clip)},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    words = ran.stdout.split()
    assert words[0] == "queued" or words[0] in ("planning", "restoring")
    assert "completed" in words
    assert {"film.mp4", "lanczos", "nano"} <= set(words)
    whole = (folder / "restored.mp4").read_bytes()
    assert (folder / "first-kilobyte").read_bytes() == whole[:1000]
    assert (folder / "after.jpg").read_bytes()[:2] == b"\xff\xd8"
