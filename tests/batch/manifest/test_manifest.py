import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from seedvr2_ray.batch.manifest.listing import list_sources, target_name
from seedvr2_ray.batch.manifest.manifest import ManifestRow, ManifestSource, PassedOver, read_manifest
from seedvr2_ray.errors import InputError
from seedvr2_ray.settings import RestoreSettings

DEFAULTS = RestoreSettings(model="lanczos", resolution="x2")


def read(path: Path, **options: object) -> list[ManifestRow]:
    arguments: dict[str, object] = {"output": str(path.parent / "out"), "defaults": DEFAULTS} | options
    return list(read_manifest(ManifestSource(url=str(path), **arguments)))  # type: ignore[arg-type]


ROWS = [
    {"source": "a.mp4", "target": "made/a.mkv", "crf": 20, "cfg_scale": 1.5, "detect_shots": False},
    {"source": "/films/b.mov", "seed": 7, "bit_depth": 10, "padding": "black"},
]


def write_csv(folder: Path) -> Path:
    path = folder / "films.csv"
    lines = ["source,target,crf,cfg_scale,detect_shots,seed,bit_depth,padding"]
    lines += ["a.mp4,made/a.mkv,20,1.5,no,,,", "/films/b.mov,,,,,7,10,black"]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    return path


def write_jsonl(folder: Path) -> Path:
    path = folder / "films.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in ROWS))
    return path


@pytest.mark.parametrize("write", [write_csv, write_jsonl])
def test_every_kind_of_table_says_the_same(write, tmp_path):
    path = write(tmp_path)
    first, second = read(path)
    assert (first.source, first.target) == (str(tmp_path / "a.mp4"), str(tmp_path / "made/a.mkv"))
    assert first.settings == RestoreSettings.from_mapping(
        {**DEFAULTS.to_mapping(), "crf": 20, "cfg_scale": 1.5, "detect_shots": False}
    )
    assert (second.source, second.target) == ("/films/b.mov", str(tmp_path / "out/b.mov"))
    assert (second.settings.seed, second.settings.bit_depth, second.settings.padding) == (7, 10, "black")
    assert [row.number for row in (first, second)] == [0, 1]


def test_a_parquet_manifest_leaves_defaults_where_it_has_nulls(tmp_path):
    path = tmp_path / "films.parquet"
    table = pyarrow.table({"source": ["a.mp4", "b.mp4"], "crf": [20, None], "model": [None, "nano"]})
    pyarrow.parquet.write_table(table, path)
    first, second = read(path)
    assert (first.settings.crf, first.settings.model) == (20, "lanczos")
    assert (second.settings.crf, second.settings.model) == (-1, "nano")
    assert second.where == "films.parquet row 2"


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("m.csv", "source,crf\na.mp4,20\nb.mp4,many\n", "m.csv line 3: crf must be int, got 'many'"),
        ("m.csv", "source,crf\na.mp4,99\n", "m.csv line 2: crf must lie in 0..63"),
        ("m.csv", "source,colur_match\na.mp4,lab\n", "unknown setting 'colur_match'; did you mean colour_match"),
        ("m.csv", "path\na.mp4\n", "no column 'source'; its columns are path"),
        ("m.csv", "source,crf\n,20\n", "line 2 names no source"),
        ("m.csv", "source\na.mp4,b.mp4\n", "line 2 has more cells than the header"),
        ("m.csv", 'source\n"a.mp4\n', "not a CSV file"),
        ("m.jsonl", '{"source": "a.mp4"}\n{"source": \n', "m.jsonl line 2 is not JSON"),
        ("m.jsonl", '["a.mp4"]\n', "line 1 is not a JSON object"),
        ("m.jsonl", '{"source": 5}\n', "line 1 names no source"),
        ("m.jsonl", '{"source": "a.mp4", "sead": 1}\n', "line 1: unknown setting 'sead'; did you mean seed"),
        ("m.jsonl", '{"source": "a.mp4", "seed": true}\n', "line 1: seed must be int"),
        ("m.parquet", "PAR1 but not really", "not a Parquet file"),
    ],
)
def test_an_unreadable_row_is_refused_by_name(name, text, complaint, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=complaint):
        read(tmp_path / name)


def test_without_an_output_every_row_must_name_its_target(tmp_path):
    (tmp_path / "m.csv").write_text("source,target\na.mp4,out.mp4\nb.mp4,\n")
    with pytest.raises(InputError, match="m.csv line 3 names no target"):
        read(tmp_path / "m.csv", output=None)


def test_a_folder_is_listed_in_order_without_hidden_and_foreign_files(tmp_path):
    for name in ("b/2.MOV", "b/10.mp4", "a.png", "notes.txt", ".hidden.mp4", ".work/x.mp4", "b/.part.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [relative for _, relative in list_sources(str(tmp_path))] == ["a.png", "b/10.mp4", "b/2.MOV"]
    assert [relative for _, relative in list_sources(str(tmp_path), ["*.mp4"])] == ["b/10.mp4"]
    assert [relative for _, relative in list_sources(str(tmp_path), ["b/*"])] == ["b/10.mp4", "b/2.MOV"]
    rows = list(read_manifest(ManifestSource(url=str(tmp_path), output="/out", defaults=DEFAULTS)))
    assert [row.target for row in rows] == ["/out/a.png", "/out/b/10.mp4", "/out/b/2.MOV"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(list_sources(str(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("source", "container", "of_codec", "name"),
    [
        ("a.mp4", "auto", (), "a.mp4"),
        ("a.ts", "auto", (), "a.ts.mkv"),
        ("a.bmp", "auto", (), "a.bmp.png"),
        ("a.mp4", "mkv", (), "a.mp4.mkv"),
        ("a.m4v", "mp4", (), "a.m4v"),
        ("a.mp4", "auto", ("mkv", "avi"), "a.mp4.mkv"),
        ("a.avi", "auto", ("mkv", "avi"), "a.avi"),
    ],
)
def test_a_result_is_named_after_its_source_with_an_ending_that_can_be_written(source, container, of_codec, name):
    assert target_name(source, container=container, containers_of_codec=of_codec) == name


def test_patterns_do_not_go_with_a_table(tmp_path):
    (tmp_path / "m.csv").write_text("source\na.mp4\n")
    with pytest.raises(InputError, match="patterns choose files of a folder"):
        read(tmp_path / "m.csv", patterns=("*.mp4",))


ENCODING = {"codec": "hevc", "preset": "slow", "crf": 18, "bit_depth": 10}


def test_in_a_folder_of_videos_and_images_what_encodes_videos_is_not_meant_for_images(tmp_path: Path) -> None:
    for name in ("in/a.mp4", "in/b.png", "in/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    defaults = RestoreSettings(model="lanczos", container="mkv", **ENCODING)
    video, still, photo = read(tmp_path / "in", defaults=defaults)
    assert video.settings == defaults and video.target.endswith("a.mp4.mkv")
    assert still.settings == photo.settings == RestoreSettings(model="lanczos")
    assert (still.target, photo.target) == (str(tmp_path / "out/b.png"), str(tmp_path / "out/c.jpg"))


def test_an_image_format_that_is_asked_for_is_meant_for_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.png").touch()
    defaults = RestoreSettings(model="lanczos", codec="jpeg", crf=4)
    (row,) = read(tmp_path / "in", defaults=defaults)
    assert row.settings == defaults
    assert row.target == str(tmp_path / "out/b.png.jpeg")


def test_a_row_of_a_table_is_taken_at_its_word_even_for_an_image(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("source,crf\na.png,4\nb.png,\n")
    defaults = RestoreSettings(model="lanczos", **ENCODING)
    first, second = read(tmp_path / "m.csv", defaults=defaults)
    assert (first.settings.crf, first.settings.preset) == (4, "auto")
    assert second.settings == RestoreSettings(model="lanczos")


def test_an_excerpt_is_refused_wherever_it_is_asked_for(tmp_path):
    path = tmp_path / "films.csv"
    path.write_text("source,excerpt\na.mp4,1-2\n")
    with pytest.raises(InputError, match="films.csv line 2: an archive is restored whole"):
        read(path)
    with pytest.raises(InputError, match="an archive is restored whole"):
        ManifestSource(url=str(tmp_path), output="/out", defaults=RestoreSettings(excerpt="1-2"))


def test_a_float_in_a_column_of_integers_is_an_integer_and_no_number_is_no_value(tmp_path):
    table = {"source": ["a.mp4", "b.mp4"], "crf": [17.0, float("nan")], "seed": [3.0, 4.0]}
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "m.parquet")
    (tmp_path / "m.csv").write_text("source,crf,seed\na.mp4,17.0,3.0\nb.mp4,,4.0\n")
    for name in ("m.parquet", "m.csv"):
        assert [(row.settings.crf, row.settings.seed) for row in read(tmp_path / name)] == [(17, 3), (-1, 4)]
    (tmp_path / "half.csv").write_text("source,crf\na.mp4,17.5\n")
    with pytest.raises(InputError, match="half.csv line 2"):
        read(tmp_path / "half.csv")


def test_a_column_of_ones_own_is_passed_over_and_reported_and_a_slip_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("source,archivist,shelf\na.mp4,Ada,12\n")
    passed_over = PassedOver()
    (row,) = read_manifest(ManifestSource(url=str(tmp_path / "m.csv"), output="/out", defaults=DEFAULTS), passed_over)
    assert row.settings == DEFAULTS and passed_over.columns == {"archivist", "shelf"}
    (tmp_path / "slip.csv").write_text("source,resolutoin\na.mp4,2160p\n")
    with pytest.raises(InputError, match="resolution"):
        read(tmp_path / "slip.csv")


def test_files_of_no_known_kind_are_counted_and_those_that_can_be_read_are_taken(tmp_path):
    taken = ["a.gif", "b.h264", "c.rm", "d.mp4", "e.hevc", "f.mjpeg"]
    for name in [*taken, "notes.txt", "more.txt", "README", ".hidden.txt"]:
        (tmp_path / name).touch()
    passed_over = PassedOver()
    source = ManifestSource(url=str(tmp_path), output="/out", defaults=DEFAULTS)
    assert [row.where for row in read_manifest(source, passed_over)] == taken
    assert passed_over.files == {".txt": 2, "": 1}
