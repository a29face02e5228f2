"""What is said of a source is said once, and the last word counts."""

from seedvr2_ray.media.info import Notice, merge_notices


def test_what_was_foretold_to_be_left_out_and_is_kept_after_all_is_said_to_be_kept():
    foretold = [Notice("left_out", "video stream 1", "only one is restored"), Notice("kept", "HDR", "tagged so")]
    decided = [Notice("kept", "video stream 1", "h264 is copied as it is and not restored"), foretold[1]]
    assert merge_notices(foretold, decided) == (foretold[1], decided[0])


def test_what_stays_left_out_stays_said():
    left = Notice("left_out", "video stream 1", "only one is restored")
    assert merge_notices([left], []) == (left,)
    unknown = Notice("left_out", "video stream 1", "its codec is unknown here")
    assert merge_notices([left], [unknown]) == (left, unknown)
