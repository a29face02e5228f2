from pathlib import Path

import pytest

from seedvr2_ray.batch.manifest.manifest import ManifestSource
from seedvr2_ray.batch.manifest.normalise import Normalised, normalise, read_shard, require_source
from seedvr2_ray.errors import InputError, TargetError
from seedvr2_ray.settings import RestoreSettings

DEFAULTS = RestoreSettings(model="lanczos", resolution="x2")


def check(path: Path, output: Path | None, **more: object) -> Normalised:
    manifest = ManifestSource(
        url=str(path),
        output=None if output is None else str(output),
        defaults=DEFAULTS,
        **more,  # type: ignore[arg-type]
    )
    return normalise(manifest, str(path.parent / "shards"))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.slow
def test_shards_hold_every_row_once_in_order_one_model_each(tmp_path):
    lines = [f"{index}.mp4,{'nano' if index % 3 == 0 else ''}" for index in range(1000)]
    path = write(tmp_path / "m.csv", "source,model", *lines)
    found = check(path, tmp_path / "out")
    rows = {shard.url: list(read_shard(shard)) for shard in found.shards}
    assert found.num_rows == 1000
    assert sorted(found.models()) == ["lanczos", "nano"]
    assert sorted(row.number for each in rows.values() for row in each) == list(range(1000))
    for shard in found.shards:
        assert {row.settings.model for row in rows[shard.url]} == {shard.model}
        assert [row.number for row in rows[shard.url]] == sorted(row.number for row in rows[shard.url])


@pytest.mark.slow
def test_a_short_archive_is_spread_widely_and_a_long_one_is_few_files(tmp_path):
    short = check(write(tmp_path / "s.csv", "source", *(f"{n}.mp4" for n in range(30))), tmp_path / "out")
    assert max(shard.num_rows for shard in short.shards) <= 4
    long = check(write(tmp_path / "l.csv", "source", *(f"{n}.mp4" for n in range(8_000))), tmp_path / "out")
    assert len(long.shards) < 400


@pytest.mark.parametrize("text", ["source\n", "source,target\n\n"])
def test_an_empty_manifest_is_refused(text, tmp_path):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match="m.csv has no rows"):
        check(tmp_path / "m.csv", tmp_path / "out")


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="holds no videos or images"):
        check(tmp_path / "in", tmp_path / "out")


def test_two_rows_with_one_target_are_refused_by_name(tmp_path):
    path = write(tmp_path / "m.csv", "source,target", "a.mp4,x.mp4", "b.mp4,y.mp4", "c.mp4,./x.mp4")
    with pytest.raises(InputError, match="m.csv line 4 and m.csv line 2 have one target, .*x.mp4"):
        check(path, None)


def test_a_target_that_is_another_rows_source_is_refused(tmp_path):
    path = write(tmp_path / "m.csv", "source,target", "a.mp4,b.mp4", "b.mp4,c.mp4")
    with pytest.raises(InputError, match="line 2 would replace .*b.mp4, the source of m.csv line 3"):
        check(path, None)


@pytest.mark.parametrize("inside", ["", "/made", "/deep/er"])
def test_an_output_inside_the_input_is_refused(inside, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").touch()
    with pytest.raises(TargetError, match="lies inside the input"):
        check(tmp_path / "in", Path(f"{tmp_path}/in{inside}"))


def test_an_output_beside_the_input_with_a_longer_name_is_not_inside(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.mp4").touch()
    assert check(tmp_path / "in", tmp_path / "in-restored").num_rows == 1


def test_an_output_that_may_not_be_written_is_refused(tmp_path):
    (tmp_path / "occupied").write_text("a file")
    path = write(tmp_path / "m.csv", "source", "a.mp4")
    with pytest.raises(TargetError, match="m.csv line 2: "):
        check(path, tmp_path / "occupied")


def test_a_manifest_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="the manifest .*m.csv does not exist"):
        require_source(str(tmp_path / "m.csv"))


def test_a_refused_manifest_leaves_no_target_behind(tmp_path):
    path = write(tmp_path / "m.csv", "source", "a.mp4", "b.mp4")
    check(path, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
