"""In a process of its own: what the collector looks through is one for all of a process."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, weakref
from seedvr2_ray.restoration.garbage import loaded_for_good

class Model:
    def __init__(self):
        self.itself = self

with loaded_for_good():
    first = Model()
assert not gc.get_objects(), "all that was there is left out"
gone = weakref.ref(first)
del first
gc.collect()
assert gone() is not None, "and so is not collected"
with loaded_for_good():
    assert gone() is None, "until the next one is loaded"
later = Model()
later_gone = weakref.ref(later)
del later
gc.collect()
assert later_gone() is None, "what came after is collected as ever"
try:
    with loaded_for_good():
        raise ValueError
except ValueError:
    assert gc.get_freeze_count() == 0, "nothing was loaded"
"""


def test_what_is_loaded_is_not_looked_through_until_something_else_is_loaded() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, cwd=Path(__file__).parents[2])
