"""Laws of ``seedvr2-ray batch`` that need neither Ray nor an archive."""

import pytest

from seedvr2_ray.cli.archive.batch import counts_as_failure
from seedvr2_ray.cli.main import main

SOME = {"published": 1, "skipped": 0, "quarantined": 2}
ALL = {"published": 0, "skipped": 0, "quarantined": 2}
NONE = {"published": 1, "skipped": 1, "quarantined": 0}


def test_whoever_asks_says_which_files_that_were_set_aside_make_a_job_fail():
    assert [counts_as_failure(files, "any") for files in (NONE, SOME, ALL)] == [False, True, True]
    assert [counts_as_failure(files, "all") for files in (NONE, SOME, ALL)] == [False, False, True]
    assert not any(counts_as_failure(files, "never") for files in (NONE, SOME, ALL))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["batch"], "missing option '--manifest'"),
        (["batch", "status", "/nowhere/at/all"], "holds no job"),
        (["batch", "retry", "/nowhere/at/all"], "nothing to try again"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(words, complaint, capsys):
    assert main(words) == 2
    assert complaint in capsys.readouterr().err
