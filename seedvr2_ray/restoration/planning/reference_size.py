"""The sizes of the published script, which restores to an area and cuts to multiples of 16."""

from dataclasses import dataclass

from seedvr2_ray.errors import SettingsError
from seedvr2_ray.restoration.planning.geometry import Area, Geometry, area_size, parse_resolution

REFERENCE_MULTIPLE = 16


@dataclass(frozen=True, slots=True)
class ReferenceSize:
    """How the published script arrives at its output size: scaled to an area, then cut to multiples of 16."""

    resized_height: int
    resized_width: int
    height: int
    width: int
    top: int
    left: int
    """Of the cut inside the resized picture."""


def plan_reference_size(height: int, width: int, area_height: int, area_width: int) -> ReferenceSize:
    """Follow the published script from a source's size to its output's.

    Only the product of ``area_height`` and ``area_width`` matters; the source's proportions are kept. The cut is
    centred with a rounding half to even, as in the script.
    """
    resized_height, resized_width = area_size(height, width, Area(area_width, area_height))
    cut_height = resized_height // REFERENCE_MULTIPLE * REFERENCE_MULTIPLE
    cut_width = resized_width // REFERENCE_MULTIPLE * REFERENCE_MULTIPLE
    return ReferenceSize(
        resized_height,
        resized_width,
        cut_height,
        cut_width,
        round((resized_height - cut_height) / 2),
        round((resized_width - cut_width) / 2),
    )


def reference_size(source_height: int, source_width: int, resolution: str) -> ReferenceSize:
    """Return the published script's sizes for what a caller asked for.

    Raises:
        SettingsError: ``resolution`` is no area, or so small that nothing is left of a side.
    """
    area = parse_resolution(resolution)
    if not isinstance(area, Area):
        raise SettingsError(
            "reference restores to an area, as the published script does: resolution must be area:WxH "
            f"(the script's own is area:1280x720), got {resolution!r}"
        )
    size = plan_reference_size(source_height, source_width, area.height, area.width)
    if not size.height or not size.width:
        raise SettingsError(
            f"the published script would cut {size.resized_width}x{size.resized_height} down to multiples of "
            f"{REFERENCE_MULTIPLE}, which leaves nothing; choose a larger area than {resolution!r}"
        )
    return size


def reference_geometry(source_width: int, source_height: int, resolution: str) -> Geometry:
    """Return the geometry of a restoration that follows the published script; see :func:`reference_size`."""
    size = reference_size(source_height, source_width, resolution)
    return Geometry(source_width=source_width, source_height=source_height, width=size.width, height=size.height)
