"""Laws of a stream whose process is asked to end."""

import os
import signal
import threading

import pytest

from tests.live.senders import stream_bytes
from tests.live.streams import bytes_opener, make_session


class _Stalled:
    """Takes the first bytes and then nothing, until the gate is opened."""

    def __init__(self) -> None:
        self.is_written, self.gate = threading.Event(), threading.Event()

    def write(self, data: bytes) -> int:
        self.is_written.set()
        self.gate.wait(240)
        return len(data)

    def close(self) -> None:
        pass


def test_a_stream_that_is_asked_twice_to_end_ends_at_once_though_nobody_takes_what_comes_out() -> None:
    target = _Stalled()
    session = make_session(bytes_opener(stream_bytes(40, has_sound=False)), target)

    def ask_twice() -> None:
        target.is_written.wait(240)
        os.kill(os.getpid(), signal.SIGINT)
        while signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            threading.Event().wait(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    too_late = threading.Timer(100, target.gate.set)
    too_late.start()
    with pytest.raises(KeyboardInterrupt), session.ended_by_signals():
        threading.Thread(target=ask_twice).start()
        session.run()
    is_in_time = not target.gate.is_set()
    too_late.cancel()
    target.gate.set()
    assert is_in_time
