import pytest

import seedvr2_ray as sv

SETTINGS = sv.RestoreSettings(model="lanczos", resolution="x2", preset="ultrafast")


@pytest.mark.ray
@pytest.mark.slow
# Ray's own, as in the tests of batch.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_folder_is_restored_and_what_cannot_be_is_set_aside(clip, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(clip.read_bytes())
    (folder / "bad.mp4").write_bytes(b"no video")
    planned = sv.restore_archive(folder, tmp_path / "out", SETTINGS, dry_run=True)
    assert not list((tmp_path / "out").rglob("*.mp4"))
    run = sv.restore_archive(folder, tmp_path / "out", SETTINGS)
    assert run.values["files"]["quarantined"] == 1
    assert sv.probe(tmp_path / "out" / "good.mp4").video.width == 128
    assert planned.folder == run.folder
    assert run.folder in run._repr_html_()


@pytest.mark.slow
def test_a_manifest_that_is_not_there_is_our_error(tmp_path):
    with pytest.raises(sv.InputError):
        sv.restore_archive(tmp_path / "none", tmp_path / "out", SETTINGS)
