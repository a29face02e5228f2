from seedvr2_ray.restoration.rewind import Rewindable


def test_a_stream_can_be_read_again_until_it_is_told_to_forget():
    stream = Rewindable(iter(range(6)))
    reader = iter(stream)
    assert [next(reader) for _ in range(3)] == [0, 1, 2]
    stream.rewind()
    reader = iter(stream)
    assert [next(reader) for _ in range(2)] == [0, 1]
    stream.rewind()
    reader = iter(stream)
    assert [next(reader) for _ in range(4)] == [0, 1, 2, 3]
    stream.forget()
    assert not stream.can_rewind
    assert list(reader) == [4, 5]
