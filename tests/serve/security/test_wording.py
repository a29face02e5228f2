import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import seedvr2_ray
from seedvr2_ray.errors import DamagedMediaError, DeploymentError, StorageError
from seedvr2_ray.serve.scheduler.job_run import explain
from seedvr2_ray.serve.security.wording import OF_OUR_OWN, explained, for_customers

PACKAGE = Path(seedvr2_ray.__file__).parent
RAISED_FOR_JOBS = ("media", "restoration", "storage", "settings.py", "frames.py", "models")
"""What a job runs through; every sentence in there may come to be the reason why a job failed."""
FOLDER = "/srv/seedvr2 data"
PLACES = (
    f"{FOLDER}/uploads/3f/holiday film.mp4",
    "/var/lib/seedvr2/uploads/3f/film.mp4",
    "s3://our-hoard/uploads/film.mp4",
    "/film.mp4",
)


def _sentences(path: Path) -> Iterator[tuple[int, list[str | None]]]:
    """Yield what a module says in its errors and notices, with None where a value is filled in."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        if not name.endswith(("Error", "Refusal", "Notice")):
            continue
        for argument in [*node.args, *(keyword.value for keyword in node.keywords)]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                yield node.lineno, [argument.value]
            elif isinstance(argument, ast.JoinedStr):
                yield (
                    node.lineno,
                    [
                        value.value if isinstance(value, ast.Constant) else None  # type: ignore[misc]
                        for value in argument.values
                    ],
                )


def _filled(pieces: list[str | None], place: str) -> str:
    """Put a place into every gap of a sentence, and a number where a gap is part of a word."""
    text = ""
    for piece in pieces:
        is_own_word = not text or text[-1] in " ('\""
        text += piece if piece is not None else place if is_own_word else "7"
    return text


def _catalogue() -> Iterator[tuple[str, str]]:
    for part in RAISED_FOR_JOBS:
        paths = [PACKAGE / part] if part.endswith(".py") else sorted((PACKAGE / part).rglob("*.py"))
        for path in paths:
            for line, pieces in _sentences(path):
                yield f"{path.relative_to(PACKAGE)}:{line}", _filled(pieces, PLACES[line % len(PLACES)])


@pytest.mark.slow
def test_no_sentence_of_a_job_tells_a_customer_of_folders_stores_options_or_commands() -> None:
    sentences = list(_catalogue())
    assert len(sentences) > 250 and any("--" in text for _, text in sentences)
    for where, text in sentences:
        said = for_customers(text, folders=(FOLDER,))
        for secret in ("/srv", "/var", "s3://", "our-hoard", "uploads/", "--", "seedvr2-ray "):
            assert secret not in said, (where, said)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("/data/u/1/a.mp4: cut short; pass --salvage to save it", "a.mp4: cut short; set salvage: true to save it"),
        ("two moments; pass --deinterlace bwdif to merge them", "two moments; set deinterlace: bwdif to merge them"),
        ("too large; use --vae-tile 512 or less", "too large; use vae_tile: 512 or less"),
        ("out.mp4 exists; allow overwriting it (--overwrite)", "out.mp4 exists; allow overwriting it"),
        ("more than is allowed; raise --max-pixels", "more than is allowed; ask the operator"),
    ],
)  # fmt: skip
def test_the_way_out_is_a_field_where_the_api_has_one(ours: str, theirs: str) -> None:
    assert for_customers(ours) == theirs


@pytest.mark.parametrize(
    "text",
    [
        "30000/1001 frames/s and 16/9",
        "choose mp4/mov, or png",
        "use POST /v1/uploads instead",
        "https://example.org/films/a.mp4 answered 404; check the URL",
        "the key svr2_abc expired at 2026-01-01 10:00 UTC",
    ],
)
def test_what_is_no_folder_of_ours_stays_as_it_is(text: str) -> None:
    assert for_customers(text) == text


def test_a_failed_job_says_what_its_owner_can_do_and_nothing_of_this_machine() -> None:
    failed = explain(DamagedMediaError("/data/uploads/3/a.mkv: ends early; pass --salvage to restore what can be read"))
    assert failed.detail == "a.mkv: ends early; set salvage: true to restore what can be read"
    for error in (StorageError("s3://bucket/x is gone"), DeploymentError("node-7 has no weights")):
        assert explain(error).detail == explained(error) == OF_OUR_OWN
