"""``python -m seedvr2_ray`` is the command ``seedvr2-ray``."""

import sys

from seedvr2_ray.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
