"""What Python's garbage collector looks through in a process that restores."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loaded_for_good() -> Iterator[None]:
    """Take whatever is there after the block, modules and a model, out of what the collector looks through.

    Ray has all processes of a machine collect several times a minute while a task waits for room there. To look
    through a quarter of a million objects, most of them PyTorch's, holds the interpreter for a quarter of a second, in
    which a device is given nothing to do, and 64 processes on a few cores do nothing else.

    What an earlier block loaded is looked through again at the begin: a model that was left in cycles goes before
    the next one comes.
    """
    if gc.get_freeze_count():
        gc.unfreeze()
        gc.collect()
    yield
    gc.collect()
    gc.freeze()
