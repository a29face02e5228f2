import pytest

from benchmarks import serve
from benchmarks.serve_control import Load, loads
from benchmarks.serve_figures import (
    UPLOAD_GROWTH_LIMIT,
    against_goals,
    milliseconds,
    missed_limits,
    quantile,
    speedups,
)
from benchmarks.serve_forms import form_of, padded
from benchmarks.serve_picture import draw
from seedvr2_ray.settings import RestoreSettings


def upload(protocol, growth):
    return {
        "protocol": protocol,
        "num_bytes": 500 * 10**6,
        "ingress_growth_bytes": growth,
        "ingress_growth_megabytes_by_second": [[0.1, 1.0], [0.2, 2.0]],
    }


def test_a_quantile_is_the_smallest_value_that_reaches_its_share():
    values = list(range(100, 0, -1))
    assert (quantile(values, 0.95), quantile(values, 0.01), quantile(values, 1.0)) == (95, 1, 100)
    assert quantile([7.0], 0.95) == 7.0
    with pytest.raises(ValueError, match="no values were measured"):
        quantile([], 0.5)


def test_durations_are_told_in_milliseconds():
    assert milliseconds([0.001, 0.002, 0.006]) == {"median": 2.0, "p95": 6.0, "largest": 6.0}


def test_replicas_are_compared_with_one_that_does_its_own_share():
    assert speedups({1: 10.0, 4: 10.0, 8: 20.0}) == {1: 1.0, 4: 4.0, 8: 4.0}
    with pytest.raises(ValueError, match="measure 1 as well"):
        speedups({2: 1.0})


def test_a_limit_is_missed_only_beyond_it_and_by_name():
    assert missed_limits({"uploads": [upload("tus", UPLOAD_GROWTH_LIMIT)]}) == []
    (missed,) = missed_limits({"uploads": [upload("tus", 10**6), upload("multipart", UPLOAD_GROWTH_LIMIT + 10**6)]})
    assert missed == "the ingress grew by 201 MB during an upload of 500 MB by multipart; the limit is 200 MB"
    assert missed_limits({"latency": []}) == []


def test_without_options_everything_is_measured():
    arguments = serve.parse([])
    assert arguments.parts == serve.PARTS == ("latency", "control", "replicas", "uploads", "fronts", "start")
    assert (arguments.clients, arguments.replicas, arguments.megabytes) == ((1, 8, 32), (1, 2, 4, 8), 500)


@pytest.mark.parametrize("words", [["--parts", "uploads,speed"], ["--replicas", "2,4"], ["--clients", "0"]])
def test_options_that_mean_nothing_are_refused(words, capsys):
    with pytest.raises(SystemExit) as refused:
        serve.parse(words)
    assert refused.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_every_number_of_clients_is_tried_and_a_full_queue_and_uploads_by_a_middle_one():
    assert loads((1, 8, 32)) == [
        Load(clients=1),
        Load(clients=8),
        Load(clients=32),
        Load(clients=8, waiting=1000),
        Load(clients=8, source="upload"),
    ]


def test_a_padded_video_has_the_size_that_was_asked_for_and_one_more_box():
    pieces = list(padded(b"film", 3 * 2**20))
    data = b"".join(pieces)
    assert len(data) == 3 * 2**20
    assert data[:12] == b"film" + (3 * 2**20 - 4).to_bytes(4, "big") + b"free"
    assert max(map(len, pieces)) <= 2**20
    with pytest.raises(ValueError, match="cannot be padded"):
        next(padded(b"film", 11))


def test_a_form_ends_what_it_begins(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"bytes of a film")
    body, headers = form_of(clip, RestoreSettings(model="lanczos"))
    edge = headers["Content-Type"].partition("boundary=")[2].encode()
    assert body.startswith(b"--" + edge + b"\r\n")
    assert body.endswith(b'filename="clip.mp4"\r\n\r\nbytes of a film\r\n--' + edge + b"--\r\n")


@pytest.mark.slow
def test_a_picture_shows_whatever_has_been_measured(tmp_path):
    results = {
        "machine": {"cores": 2, "processor": "any"},
        "load_average": {"uploads": [1.0, 2.0, 3.0]},
        "uploads": [upload("tus", 10**6), upload("multipart", 2 * 10**6)],
    }
    draw(results, tmp_path / "serve.png")
    assert (tmp_path / "serve.png").read_bytes().startswith(b"\x89PNG")


def test_every_figure_of_a_front_is_held_against_its_goal():
    up = {"protocol": "tus", "megabytes_per_second": 192.0, "ingress_growth_bytes": 2_000_000}
    row = {
        "front": "nginx",
        "jobs": [{"waiting_before": 0, "jobs_per_second": 53.0}],
        "cpu_milliseconds_per_look_by_waiting": {"0": {"in_all": 4.1}},
        "up": [up],
        "down": {**up, "growth_with_stalled_readers_bytes": 0},
    }
    told = against_goals({"fronts": [row]})
    assert "nginx: jobs/s, 0 waiting: 53, at least 200 wanted: not reached" in told
    assert "nginx: ms of processor per look, 0 waiting: 4.1, at most 8 wanted: reached" in told
    assert len(told) == 6 and against_goals({}) == []
