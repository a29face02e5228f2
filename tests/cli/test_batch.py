import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_command_that_needs_no_ray_does_not_wait_for_its_import():
    loaded = "import sys, seedvr2_ray.cli.main; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
