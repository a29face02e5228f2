"""Laws of the pipe inside a process."""

import threading

from seedvr2_ray.live.byte_queue import ByteQueue


def test_bytes_come_out_as_they_went_in_however_they_are_cut() -> None:
    queue, data = ByteQueue(100), bytes(range(256)) * 20

    def write() -> None:
        for start in range(0, len(data), 37):
            queue.write(data[start : start + 37])
        queue.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert queue.peek(10)[:10] == data[:10]
    read = bytearray()
    while piece := queue.read(13):
        assert len(piece) <= 13
        read += piece
    writer.join(60)
    assert bytes(read) == data


def test_a_full_queue_refuses_after_a_while_and_a_closed_one_at_once() -> None:
    queue = ByteQueue(4)
    assert queue.write(b"abcd")
    assert not queue.write(b"e", timeout=0.01)
    queue.close()
    assert not queue.write(b"f")
    assert (queue.read(), queue.read()) == (b"abcd", b"")
