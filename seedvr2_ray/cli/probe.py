"""``seedvr2-ray probe``: what a file holds, and what would become of it."""

from functools import partial
from typing import Annotated

import typer

from seedvr2_ray.cli.parameters import Json, MaxPixels, Source, probe_limits, say
from seedvr2_ray.restoration.planning.geometry import DEFAULT_MAX_PIXELS


def probe_command(
    source: Source,
    salvage: Annotated[bool, typer.Option("--salvage", help="Describe a damaged file instead of refusing it.")] = False,
    max_pixels: MaxPixels = DEFAULT_MAX_PIXELS,
    as_json: Json = False,
) -> None:
    """Say what a file holds.

    Also says what restore would keep, convert, leave out or refuse of it, and why.
    """
    from seedvr2_ray.cli.console import show_media
    from seedvr2_ray.media.probe import probe
    from seedvr2_ray.storage.address import jsonable
    from seedvr2_ray.storage.location import require_source

    require_source(source)
    media = probe(source, limits=probe_limits(max_pixels), salvage=salvage)
    say(as_json, jsonable(media, leave_out=("frame_pts",)), partial(show_media, media))
