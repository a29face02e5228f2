"""Laws of what holds an execution back. No Ray."""

import threading
import time

from seedvr2_ray.batch.execution.feed import Restraint


def waits(restraint: Restraint) -> threading.Thread:
    thread = threading.Thread(target=restraint.wait, daemon=True)
    thread.start()
    return thread


def test_an_execution_waits_while_more_is_unfinished_than_may_wait_and_goes_on_as_soon_as_it_is_less():
    restraint = Restraint(2)
    restraint.note(2)
    restraint.wait()
    restraint.note(3)
    thread = waits(restraint)
    time.sleep(0.1)
    assert thread.is_alive()
    restraint.note(2)
    thread.join(timeout=60)
    assert not thread.is_alive()


def test_an_execution_that_is_to_end_is_not_held_back():
    restraint = Restraint(2)
    restraint.note(100)
    thread = waits(restraint)
    restraint.end()
    thread.join(timeout=60)
    assert not thread.is_alive() and restraint.is_over
