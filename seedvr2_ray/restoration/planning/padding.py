"""How much is added to pictures so that their size is one that a model accepts."""

from dataclasses import dataclass

from seedvr2_ray.settings import Padding

MIN_MIRRORED_ROWS = 8
"""Between picture and anchor: the rows beside black are damaged, and these are cut off again."""


@dataclass(frozen=True, slots=True)
class SpatialPadding:
    """What is added below and to the right of a frame."""

    height: int
    width: int
    """Of the picture itself."""
    mirrored_rows: int
    mirrored_columns: int
    black_rows: int
    black_columns: int

    @property
    def padded_height(self) -> int:
        """Rows the model sees."""
        return self.height + self.mirrored_rows + self.black_rows

    @property
    def padded_width(self) -> int:
        """Columns the model sees."""
        return self.width + self.mirrored_columns + self.black_columns


def plan_padding(height: int, width: int, multiple: int, mode: Padding, *, anchor_rows: int = 16) -> SpatialPadding:
    """Choose the fill for one output size.

    The released models take black rows at the bottom for a tone anchor: without them clips that have no
    black area of their own come out 0.6 to 1.1 dB further from the source. ``reflect_black`` therefore always ends in
    black rows, and puts mirrored ones in between, because the picture next to black is damaged.

    Args:
        height, width: of the picture.
        multiple: both padded sizes become multiples of it.
        mode: ``reflect_black``, ``reflect`` or ``black``.
        anchor_rows: black rows of ``reflect_black``; rounded up to ``multiple``. 0 for a model without the habit.
    """
    missing_rows, missing_columns = -height % multiple, -width % multiple
    if mode == "black":
        return SpatialPadding(height, width, 0, 0, missing_rows, missing_columns)
    if mode == "reflect" or anchor_rows == 0:
        return SpatialPadding(height, width, missing_rows, missing_columns, 0, 0)
    mirrored_rows = missing_rows + -(-max(0, MIN_MIRRORED_ROWS - missing_rows) // multiple) * multiple
    black_rows = -(-anchor_rows // multiple) * multiple
    return SpatialPadding(height, width, mirrored_rows, missing_columns, black_rows, 0)
