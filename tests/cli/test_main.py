"""The command line as a person or a script meets it: one clear line for every mistake, and nothing lost."""

import json
import os
import struct
import subprocess
import zlib
from pathlib import Path

import av
import pytest

from seedvr2_ray.cli.main import main
from seedvr2_ray.media.probe import probe
from tests.media import clips, damaged

FAST = ("--model", "lanczos", "--resolution", "x2", "--preset", "ultrafast", "--no-report")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "film.mp4"
    clips.make_clip(path, num_frames=24, audio_tracks=1, container_options={"movflags": "faststart"})
    return path


@pytest.fixture
def run(capfd):
    """Run a command in this process; return its exit code and what it printed."""

    def call(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def tree(folder):
    """Everything below a folder: names and contents."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


# What is wrong with the source: how the file is made, the exit code, and what the line says.


def missing(folder, clip):
    return folder / "nowhere.mp4"


def empty(folder, clip):
    path = folder / "empty.mp4"
    path.touch()
    return path


def text(folder, clip):
    path = folder / "text.mp4"
    path.write_text("This is no film.\n" * 100)
    return path


def a_folder(folder, clip):
    path = folder / "folder.mp4"
    path.mkdir()
    return path


def without_index(folder, clip):
    path = folder / "noindex.mp4"
    clips.make_clip(path, num_frames=24)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    return path


def cut_off(folder, clip):
    path = folder / "film.mp4"
    path.write_bytes(clip.read_bytes())
    cut = Path(damaged.cut_short(path, 0.6))
    path.unlink()
    return cut


def corrupt(folder, clip):
    path = folder / "film.mp4"
    path.write_bytes(clip.read_bytes())
    broken = Path(damaged.damage(path, 0.5, 2000))
    path.unlink()
    return broken


def no_frames(folder, clip):
    path = folder / "none.avi"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        container.start_encoding()
    return path


def sound_only(folder, clip):
    path = folder / "sound.mp4"
    with av.open(str(clip)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    return path


def enormous(folder, clip):
    """A PNG whose header names ten thousand million pixels."""
    path = folder / "huge.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


BAD_SOURCES = {
    missing: (3, "does not exist; check the name"),
    empty: (3, "is empty"),
    text: (3, "text, not a video"),
    a_folder: (3, "is a folder"),
    without_index: (3, "lost its index"),
    cut_off: (3, "pass --salvage"),
    corrupt: (3, "pass --salvage"),
    no_frames: (3, "without a single frame"),
    sound_only: (3, "no pictures to restore"),
    enormous: (3, "100000x100000 and the limit"),
}


@pytest.mark.parametrize("command", ["restore", "plan", "probe"])
@pytest.mark.parametrize("make", BAD_SOURCES, ids=lambda make: make.__name__)
def test_a_bad_source_gives_one_clear_line_and_leaves_nothing_behind(make, command, clip, run, tmp_path):
    source = make(tmp_path, clip)
    before = tree(tmp_path)
    target = tmp_path / ("out.png" if source.suffix == ".png" else "new" / Path("out.mp4"))
    code, out, err = run(command, source, *(() if command == "probe" else (target, *FAST[:4])))
    expected, words = BAD_SOURCES[make]
    require_one_line(err, words)
    assert (code, out) == (expected, "")
    assert str(source) in err
    assert tree(tmp_path) == before


def require_one_line(err, words):
    assert err.startswith("error: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert words in err


BAD_CALLS = {
    "unknown option": (("--bogus", "3"), 2, "no such option: --bogus"),
    "unknown choice": (("--codec", "mpeg7"), 2, "'mpeg7' is not one of"),
    "no number": (("--crf", "low"), 2, "--crf"),
    "value out of range": (("--crf", "64"), 2, "crf must lie in 0..63"),
    "chunk length": (("--chunk-frames", "20"), 2, "4n + 1"),
    "unknown model": (("--model", "seedvr3-3b"), 2, "did you mean seedvr2-3b?"),
    "malformed size": (("--resolution", "biggish"), 2, "biggish"),
    "absurd size": (("--resolution", "x1000"), 2, "96000x64000"),
    "source over the limit": (("--max-pixels", "100"), 2, "limit"),
    "codec for another container": (("--codec", "prores"), 2, "prores cannot be stored in mp4"),
    "odd size for 4:2:0": (("--resolution", "95x63"), 2, "even"),
    "preset of another codec": (("--preset", "warp"), 2, "ultrafast"),
    "bits the codec has not": (("--codec", "h264", "--bit-depth", "12"), 2, "8 or 10 bits"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_settings_give_one_clear_line_and_leave_nothing_behind(name, clip, run, tmp_path):
    arguments, code, words = BAD_CALLS[name]
    found = run("restore", clip, tmp_path / "out.mp4", "--model", "lanczos", *arguments)
    require_one_line(found[2], words)
    assert found[:2] == (code, "")
    assert tree(tmp_path) == {}


BAD_TARGETS = {
    "out.xyz": (2, "does not end in a format"),
    "picture.png": (2, "holds one picture"),
    "file.txt/out.mp4": (4, "file.txt"),
    "folder": (4, "is a folder"),
    "precious.mp4": (4, "--overwrite"),
}


@pytest.mark.parametrize("name", BAD_TARGETS)
def test_a_bad_target_gives_one_clear_line_and_keeps_what_is_there(name, clip, run, tmp_path):
    (tmp_path / "file.txt").write_text("a file")
    (tmp_path / "precious.mp4").write_text("precious")
    (tmp_path / "folder").mkdir()
    before = tree(tmp_path)
    code, out, err = run("restore", clip, tmp_path / name, "--model", "lanczos", "--resolution", "x2")
    require_one_line(err, BAD_TARGETS[name][1])
    assert (code, out) == (BAD_TARGETS[name][0], "")
    assert tree(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_is_named(clip, run, tmp_path):
    tmp_path.chmod(0o555)
    code, _, err = run("restore", clip, tmp_path / "out.mp4", *FAST)
    require_one_line(err, "permission")
    assert code == 4


@pytest.mark.slow
def test_images_of_a_sequence_are_not_overwritten_unasked(clip, run, tmp_path):
    (tmp_path / "frame_000013.png").write_text("precious")
    arguments = ("restore", clip, f"{tmp_path}/", "--model", "lanczos", "--resolution", "x2", "--no-report")
    code, _, err = run(*arguments)
    require_one_line(err, "frame_000013.png exists")
    assert code == 4
    assert tree(tmp_path) == {"frame_000013.png": b"precious"}
    code, _, _ = run(*arguments, "--overwrite")
    assert code == 0
    assert len(list(tmp_path.glob("frame_*.png"))) == 24


def test_missing_arguments_and_commands_are_named(run):
    for arguments, words in (((), "Usage:"), (("restore",), "missing argument 'IN'"), (("restroe",), "restroe")):
        code, _, err = run(*arguments)
        assert code == 2
        assert words in err


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_no_half_of_anything(clip, run, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting needs root")
    try:
        code, out, err = run("restore", clip, small / "out.mp4", *FAST, "--resolution", "x8", "--crf", "0")
        assert (code, out) == (5, "")
        assert "no space left" in err.splitlines()[-1]
        assert "Traceback" not in err
        assert [name for name in tree(small) if not name.startswith(".out.mp4.work")] == []
        assert not list(small.glob(".out.mp4.work/writing/*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("make", [cut_off, corrupt], ids=lambda make: make.__name__)
def test_salvage_restores_what_can_be_read_and_says_what_is_missing(make, clip, run, tmp_path):
    source, target = make(tmp_path, clip), tmp_path / "out.mp4"
    code, out, err = run("restore", source, target, *FAST, "--salvage")
    assert code == 0, err
    media = probe(str(target))
    assert media.video.num_frames == 24
    assert "damaged frames" in out
    notices = {
        notice["subject"]: notice["reason"] for notice in json.loads(Path(f"{target}.json").read_text())["preflight"]
    }
    assert "cannot be read" in notices["damaged frames"]
    segments = json.loads(Path(f"{target}.json").read_text())["segments"]
    assert sum(len(segment["restored"]["missing_frames"]) for segment in segments) > 0


@pytest.mark.slow
def test_normal_use_says_little_and_nothing_strange(clip, run, tmp_path):
    code, out, err = run("restore", clip, tmp_path / "out.mp4", *FAST)
    assert code == 0
    assert err.count("\n") == 1 and err.startswith("24 frames, 96x64 to 192x128")
    assert out.splitlines()[0].startswith(f"{tmp_path / 'out.mp4'}: 24 frames, 192x128")
    for strange in ("\x1b", "\r", "Traceback", "Warning"):
        assert strange not in out + err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "out.mp4.json"]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["restore", "plan", "probe", "doctor", "models list", "models verify"])
def test_json_is_one_object_on_stdout_and_nothing_on_stderr(command, clip, run, tmp_path):
    arguments = {
        "restore": (clip, tmp_path / "out.mp4", *FAST),
        "plan": (clip, tmp_path / "out.mp4", "--model", "lanczos"),
        "probe": (clip,),
        "models verify": ("lanczos",),
    }.get(command, ())
    code, out, err = run(*command.split(), *arguments, "--json")
    assert (code, err) == (0, "")
    values = json.loads(out)
    if command == "restore":
        assert values["frames"] == 24 and values["target"] == str(tmp_path / "out.mp4")


@pytest.mark.slow
def test_a_named_work_folder_loses_nothing_but_the_work(clip, run, tmp_path):
    work = tmp_path / "scratch"
    work.mkdir()
    (work / "thesis.txt").write_text("years of work")
    code, _, _ = run("restore", clip, tmp_path / "out.mp4", *FAST, "--work", work)
    assert code == 0
    assert tree(work) == {"thesis.txt": b"years of work"}
    code, _, _ = run("restore", clip, tmp_path / "other.mp4", *FAST, "--work", work, "--keep-work")
    assert code == 0
    assert len(list(work.iterdir())) == 2


@pytest.mark.slow
def test_a_plan_needs_no_weights_and_says_what_it_will_take(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    arguments = ("plan", clip, tmp_path / "out.mp4", "--model", "seedvr2-3b", "--resolution", "x2")
    code, out, err = run(*arguments, "--weights-dir", tmp_path / "none")
    assert (code, err) == (0, "")
    lines = dict(line.split(":", 1) for line in out.splitlines() if not line.startswith(" ") and ":" in line)
    assert "GiB" in lines["memory"] or "fit" in lines["memory"]
    assert lines["time"].strip() == "not measured on this machine yet"
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_a_plan_may_be_made_for_other_gpus_and_says_how_many_work_together(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    arguments = ("plan", clip, tmp_path / "out.mp4", "--model", "seedvr2-7b", "--weights-dir", tmp_path / "none")
    addresses = []
    for options, size in (((), 1), (("--gang-size", "4"), 4), (("--node-gpus", "2", "--gang-size", "2"), 2)):
        code, out, _ = run(*arguments, "--gpu", "h100-80g", *options, "--json")
        values = json.loads(out)
        assert code == 0
        assert values["memory"]["gang_size"] == size
        assert 0 < values["memory"]["peak_bytes"] < values["memory"]["free_bytes"]
        addresses.append(values["segments"])
    assert addresses == [addresses[0]] * 3
    code, out, _ = run(*arguments, "--gpu", "rtx-4090", "--gang-size", "2")
    assert code == 0
    assert "a gang of 2 GPUs, each" in out
    for options, words in ((("--gpu", "gtx 480"), "choose one of h100"), (("--gang-size", "3"), "ask for at most 1")):
        code, _, err = run(*arguments, *options)
        assert code == 2
        require_one_line(err, words)


@pytest.mark.slow
def test_a_plan_knows_how_fast_the_last_runs_were(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr("seedvr2_ray.restoration.planning.estimate._SHORTEST_SECONDS", 0.0)
    run("restore", clip, tmp_path / "one.mp4", *FAST)
    _, out, _ = run("plan", clip, tmp_path / "two.mp4", *FAST[:-1])
    assert "from your last run with this model here" in out


@pytest.mark.slow
def test_weights_that_cannot_be_had_are_one_line(clip, run, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *names, **options: None)
    mirror = (tmp_path / "mirror").as_uri()
    for command in (("restore", clip, tmp_path / "out.mp4", "--model", "seedvr2-3b"), ("models", "pull", "seedvr2-3b")):
        code, out, err = run(*command, "--weights-dir", tmp_path / "weights", "--mirror", mirror)
        assert (code, out) == (6, "")
        assert err.splitlines()[-1].startswith("error: cannot fetch")
        assert len(err.splitlines()) <= 2
    assert not (tmp_path / "out.mp4").exists()
    code, out, err = run("models", "verify", "seedvr2-3b", "--weights-dir", tmp_path / "weights")
    assert code == 6
    require_one_line(err, "models pull seedvr2-3b")


@pytest.mark.parametrize("columns", ["80", "160"])
def test_help_and_tables_fit_the_terminal(columns, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    for command in ((), ("restore",), ("plan",), ("probe",), ("doctor",), ("models",), ("models", "pull")):
        code, out, _ = run(*command, "--help")
        assert code == 0
        assert max(map(len, out.splitlines())) <= int(columns)
        assert "..." not in out.replace("[ARGS]...", "")


def test_the_version_is_printed(run):
    import seedvr2_ray

    assert run("--version") == (0, f"{seedvr2_ray.__version__}\n", "")
