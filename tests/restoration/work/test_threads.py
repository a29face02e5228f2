import _thread
import signal
import threading
import time

import pytest

from seedvr2_ray.restoration.work.threads import ReadAhead, WriteBehind


@pytest.fixture(autouse=True)
def _ctrl_c_is_listened_to():
    """Shells start programs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_read_ahead_gives_the_items_in_order():
    with ReadAhead(range(100)) as items:
        assert list(items) == list(range(100))


@pytest.mark.slow
def test_read_ahead_keeps_a_bounded_number_of_items_in_flight():
    made = []

    def source():
        for number in range(100):
            made.append(number)
            yield number

    with ReadAhead(source(), depth=2) as items:
        reader = iter(items)
        next(reader)
        time.sleep(0.2)
        assert len(made) <= 1 + 2 + 1  # read, queued, and one in the producer's hand


def test_read_ahead_raises_what_its_source_raised_after_the_items_before_it():
    def source():
        yield 1
        raise OSError("unreadable")

    with ReadAhead(source()) as items:
        reader = iter(items)
        assert next(reader) == 1
        with pytest.raises(OSError, match="unreadable"):
            next(reader)


def test_read_ahead_raises_also_what_closing_its_source_raised():
    class Source:
        def __iter__(self):
            return self

        def __next__(self):
            raise StopIteration

        def close(self):
            raise OSError("cannot be closed")

    with ReadAhead(Source()) as items:
        with pytest.raises(OSError, match="cannot be closed"):
            list(items)


def test_leaving_read_ahead_early_closes_the_source_and_its_thread():
    closed, makers = threading.Event(), []

    def source():
        makers.append(threading.current_thread())
        try:
            while True:
                yield 0
        finally:
            closed.set()

    with ReadAhead(source()) as items:
        next(iter(items))
    assert closed.is_set()
    assert makers != [threading.current_thread()] and not makers[0].is_alive()


def test_write_behind_has_written_everything_in_order_when_it_is_left():
    written = []
    with WriteBehind(written.append) as writer:
        for number in range(50):
            writer.put(number)
    assert written == list(range(50))


def test_write_behind_raises_what_the_writer_raised_and_never_blocks():
    def write(number):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), WriteBehind(write, depth=1) as writer:
        for number in range(100):
            writer.put(number)


def test_write_behind_drops_what_waits_when_it_is_left_by_an_exception():
    written, is_full = [], threading.Event()

    def write(number):
        is_full.wait(60)
        time.sleep(0.02)
        written.append(number)

    with pytest.raises(KeyError), WriteBehind(write, depth=50) as writer:
        for number in range(50):
            writer.put(number)
        is_full.set()
        raise KeyError("cancelled")
    assert len(written) < 50


@pytest.mark.slow
def test_ctrl_c_while_the_last_frame_is_written_is_raised_after_it_is():
    written, leaving = [], threading.Event()

    def write(item):
        leaving.wait()
        time.sleep(0.05)
        _thread.interrupt_main()
        time.sleep(0.1)
        written.append(item)

    with pytest.raises(KeyboardInterrupt):
        with WriteBehind(write) as behind:
            behind.put(1)
            leaving.set()
    assert written == [1]
