from seedvr2_ray.restoration.gang.waiting import Waiting


def waiting() -> tuple[Waiting, list[float]]:
    now = [1000.0]
    return Waiting(30.0, clock=lambda: now[0]), now


def test_somebody_who_is_silent_while_others_look_is_lost_when_the_time_is_over() -> None:
    silence, now = waiting()
    looks = 0
    while not silence.is_over():
        now[0] += 0.25
        looks += 1
    assert looks == 4 * 30 + 1


def test_whoever_is_heard_has_all_the_time_again() -> None:
    silence, now = waiting()
    for _ in range(9):
        now[0] += 3.0
        assert not silence.is_over()
    silence.begin_anew()
    for _ in range(9):
        now[0] += 3.0
        assert not silence.is_over()


def test_nobody_is_lost_because_whoever_looks_was_held_up_himself() -> None:
    silence, now = waiting()
    for _ in range(9):
        now[0] += 3600.0
        assert not silence.is_over()
