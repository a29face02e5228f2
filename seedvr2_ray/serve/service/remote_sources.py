"""A source that lies elsewhere, brought here only to be looked at."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from seedvr2_ray.serve.config import FetchRules, Limits
from seedvr2_ray.serve.jobs import Source
from seedvr2_ray.serve.problems import SizeRefusal
from seedvr2_ray.serve.security.fetch import fetch_url
from seedvr2_ray.storage.backend import PART_PREFIX
from seedvr2_ray.storage.faults import translated
from seedvr2_ray.storage.location import fetch, open_location


@contextmanager
def borrowed(source: Source, rules: FetchRules, limits: Limits, scratch: Path) -> Iterator[Path]:
    """Give a local copy of a checked source for as long as the block runs.

    Raises:
        FetchRefusal: its server gives no usable file.
        SizeRefusal: an object is larger than what may be uploaded.
        MediaError: there is no such object.
    """
    folder = scratch / f"{PART_PREFIX}{uuid4().hex}"
    folder.mkdir(parents=True)
    try:
        if source.kind == "url":
            fetch_url(source.location, folder / source.name, rules, limits)
            yield folder / source.name
            return
        place = open_location(source.location)
        with translated(place.url, "source"):
            size = place.backend.info(place.path).size
        if size is None or size > limits.max_upload_bytes:
            raise SizeRefusal(
                f"{source.name} has {size} bytes and {limits.max_upload_bytes} are the most that is looked at here; "
                "submit it as a job, or ask the operator for a higher limit"
            )
        yield fetch(source.location, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
