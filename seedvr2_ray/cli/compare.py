"""``seedvr2-ray compare`` and ``seedvr2-ray variants``: pages that show versions of one video over each other."""

from pathlib import Path
from typing import Annotated, Any

import typer

from seedvr2_ray.cli.options import with_settings
from seedvr2_ray.cli.parameters import FrameRange, From, Json, Mirror, Source, To, WeightsDir, say, weights_source
from seedvr2_ray.errors import SettingsError
from seedvr2_ray.excerpts import excerpt_of
from seedvr2_ray.settings import RestoreSettings, setting_of_text

_USUAL_PICTURES = 4


def compare(
    before: Annotated[str, typer.Argument(metavar="A", help="A video or image.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another version of it, or an excerpt.")],
    frames: Annotated[
        str, typer.Option(metavar="N,N", help="Which frames, by their numbers in A; by default four of them.")
    ] = "",
    out: Annotated[str, typer.Option(help="Where the page goes.")] = "compare.html",
    as_json: Json = False,
) -> None:
    """Show two versions of a video over each other.

    Writes a page of one file with a slider over every picture and figures between the two. Of an excerpt and the
    whole, or the source, those frames are compared that are shown at the same time.
    """
    from seedvr2_ray.api.pictures import compare as compare_files
    from seedvr2_ray.api.pictures import spread_frames
    from seedvr2_ray.storage.location import require_writable

    require_writable(out, overwrite=True)
    wanted = _numbers(frames) if frames else spread_frames(before, after, _USUAL_PICTURES)
    compared = compare_files(before, after, wanted)
    compared.save(out)
    rows = [{"frame": each.number, "psnr": each.psnr, "ssim": each.ssim} for each in compared.frames]
    say(as_json, {"page": out, "frames": rows}, lambda console: console.print(f"page: {out}", markup=False))


@with_settings
def variants(
    source: Source,
    given: Annotated[
        list[str], typer.Argument(metavar="NAME=VALUE[,NAME=VALUE]...", help="A variant each: settings that differ.")
    ],
    settings: RestoreSettings,
    begin: From = "",
    end: To = "",
    frames: FrameRange = "",
    out: Annotated[str, typer.Option(help="Where the page goes; the excerpts are left beside it.")] = "variants.html",
    pictures: Annotated[int, typer.Option(min=1, max=20, help="Frames of every variant on the page.")] = 1,
    price: Annotated[float, typer.Option(min=0, help="Price of a GPU hour, for the cost of the whole.")] = 0.0,
    weights_dir: WeightsDir = None,
    mirror: Mirror = None,
    as_json: Json = False,
) -> None:
    """Try several settings on a few seconds of a video.

    Every variant is a list of settings, as model=nano or resolution=x3,seed=7; those that it does not name are the
    options'. The page says what the whole would take under each. By default two seconds from the middle.
    """
    from seedvr2_ray.api.variants import compare_variants
    from seedvr2_ray.cli.console import RunDisplay, show_variants
    from seedvr2_ray.restoration.load import LoadOptions
    from seedvr2_ray.storage.location import require_writable

    chosen = {text: _variant(text, settings) for text in given}
    require_writable(out, overwrite=True)
    page = Path(out)
    with RunDisplay(quiet=as_json) as display:
        found = compare_variants(
            source,
            chosen,
            excerpt=excerpt_of(begin, end, frames),
            num_frames=pictures,
            folder=page.parent,
            stem=page.stem,
            overwrite=True,
            price_per_gpu_hour=price,
            options=LoadOptions(weights=weights_source(weights_dir, mirror)),
            progress=display,
        )
    found.save(out)
    values = {"page": out, "excerpt": found.excerpt, "variants": [each.summary() for each in found]}
    say(as_json, values, lambda console: show_variants(found, out, console))


def _variant(text: str, settings: RestoreSettings) -> RestoreSettings:
    values: dict[str, Any] = {}
    for part in text.split(","):
        name, is_given, value = (piece.strip() for piece in part.partition("="))
        if not (name and is_given):
            raise SettingsError(f"the variant {text!r} is not understood; write settings as model=nano,seed=7")
        values[name] = setting_of_text(name, value)
    return RestoreSettings.from_mapping({**settings.to_mapping(), **values})


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"the frames {text!r} are not understood; write their numbers, as 10,40") from None
