"""One excerpt under several settings, side by side: what it looks like, and what the whole would take."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from seedvr2_ray.api.files import FileName, RestoredFile, restore_file
from seedvr2_ray.api.pictures import FIGURES_HINT, Comparison, compare
from seedvr2_ray.errors import InputError
from seedvr2_ray.html import render_grid, render_picture
from seedvr2_ray.media.codecs import IMAGE_CONTAINERS, SUFFIXES
from seedvr2_ray.media.probe import probe
from seedvr2_ray.restoration.load import LoadOptions
from seedvr2_ray.restoration.report.templates import format_duration
from seedvr2_ray.restoration.report.versions import VersionsPage, render_versions
from seedvr2_ray.restoration.run import Progress
from seedvr2_ray.settings import RestoreSettings
from seedvr2_ray.storage.faults import printable
from seedvr2_ray.storage.location import publish_bytes, require_source

_USUAL_SECONDS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """An excerpt under one of several settings."""

    name: str
    settings: RestoreSettings = field(repr=False)
    size: tuple[int, int]
    """Width and height in pixels."""
    target: str
    """Where the excerpt lies, if a folder was named for it."""
    compared: Comparison = field(repr=False)
    """Frames of the source and of the excerpt."""
    seconds: float
    """What restoring the excerpt took, loading left out."""
    seconds_for_whole: float
    """What restoring all of the video would take at this speed."""
    cost_for_whole: float
    """At the price of a GPU hour that was named; 0 where none was."""

    @property
    def psnr(self) -> float:
        """Mean over the compared frames, in decibels."""
        return sum(each.psnr for each in self.compared.frames) / len(self.compared.frames)

    @property
    def ssim(self) -> float:
        """Likewise; 1 is identical."""
        return sum(each.ssim for each in self.compared.frames) / len(self.compared.frames)

    def summary(self) -> dict[str, Any]:
        """Return plain values, for ``pandas.DataFrame([each.summary() for each in variants])``."""
        return {
            "variant": self.name,
            "size": f"{self.size[0]}x{self.size[1]}",
            "psnr": round(self.psnr, 3),
            "ssim": round(self.ssim, 5),
            "seconds": round(self.seconds, 3),
            "seconds_for_whole": round(self.seconds_for_whole, 1),
            "cost_for_whole": round(self.cost_for_whole, 4),
            "target": self.target,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Variants:
    """The same excerpt under several settings; in a notebook, side by side."""

    source: str
    excerpt: str
    """In words: which frames of how many."""
    variants: tuple[Variant, ...]

    def __iter__(self) -> Iterator[Variant]:
        return iter(self.variants)

    def __len__(self) -> int:
        return len(self.variants)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page of one file: a slider over the source for every variant, and a table.

        Raises:
            TargetError: it may not be written there.
        """
        columns, rows = self.table()
        page = VersionsPage(
            title=self.source.rpartition("/")[2],
            kicker="Variants",
            lead=self.excerpt,
            heading="The source and every variant",
            pictures=[
                replace(each.picture, caption=f"{variant.name}, frame {each.number}")
                for variant in self.variants
                for each in variant.compared.frames
            ],
            before="Source",
            after="Variant",
            even=True,
            columns=columns,
            rows=rows,
            hint="Times are of restoring alone, as fast as the excerpt went on this machine. PSNR and SSIM are against "
            "the source. " + FIGURES_HINT,
        )
        publish_bytes(render_versions(page).encode(), os.fspath(path), overwrite=True)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Return headings and rows for people."""
        has_cost = any(variant.cost_for_whole for variant in self.variants)
        columns = ["variant", "size", "PSNR", "SSIM", "excerpt took", "the whole would take"]
        rows = [
            [
                variant.name,
                f"{variant.size[0]}x{variant.size[1]}",
                f"{variant.psnr:.2f}",
                f"{variant.ssim:.4f}",
                format_duration(variant.seconds),
                format_duration(variant.seconds_for_whole),
                *([f"{variant.cost_for_whole:,.4f}"] if has_cost else []),
            ]
            for variant in self.variants
        ]
        return [*columns, *(["the whole would cost"] if has_cost else [])], rows

    def _repr_html_(self) -> str:
        columns, rows = self.table()
        pictures = "".join(
            "<figure style='display:inline-block;margin:0 8px 8px 0'>"
            + render_picture(variant.compared.frames[0].picture.after, "image/jpeg", variant.name, width=300)
            + f"<figcaption>{escape(variant.name)}</figcaption></figure>"
            for variant in self.variants
        )
        return f"<div><strong>{escape(self.excerpt)}</strong><div>{pictures}</div>{render_grid(columns, rows)}</div>"


def compare_variants(
    source: FileName,
    variants: Mapping[str, RestoreSettings],
    *,
    excerpt: str = "",
    num_frames: int = 1,
    folder: FileName | None = None,
    stem: str = "variant",
    overwrite: bool = False,
    price_per_gpu_hour: float = 0.0,
    options: LoadOptions | None = None,
    progress: Progress | bool = False,
) -> Variants:
    """Restore the same few frames of a video under several settings, and say what the whole would take under each.

    Args:
        source: a video; a path, or a URL that fsspec opens.
        variants: settings by the names under which they are shown; their ``excerpt`` is not asked.
        excerpt: as in the settings; by default two seconds from the middle.
        num_frames: of every excerpt that are compared with the source.
        folder: where the excerpts are left, as ``STEM-1.mp4`` ..., with what the whole can use of them when it is
            restored into the same folder. By default nothing is left.
        stem: of their names.
        overwrite: replace such files.
        price_per_gpu_hour: in any currency.
        options: how this machine loads models.
        progress: as for `restore`, of every variant.

    Raises:
        InputError: the source, the excerpt or the settings are refused.
    """
    if not variants:
        raise InputError("there is nothing to compare; name settings, such as {'nano': RestoreSettings(model='nano')}")
    require_source(str(source))
    excerpt = excerpt or _from_the_middle(str(source))
    done: list[Variant] = []
    with ExitStack() as stack:
        place = Path(folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="seedvr2-ray-variants-")))
        for number, (name, settings) in enumerate(variants.items(), start=1):
            target = place / f"{stem}-{number}{_suffix(str(source), settings)}"
            restored = restore_file(
                source,
                target,
                settings,
                excerpt=excerpt,
                overwrite=overwrite,
                report=False,
                options=options,
                progress=progress,
            )
            done.append(_variant(name, settings, str(source), restored, num_frames, price_per_gpu_hour))
    if folder is None:
        done = [replace(each, target="") for each in done]
    found = restored.plan.excerpt
    assert found is not None, "a variant is an excerpt"
    words = (
        f"frames {found.start} to {found.stop - 1} of {found.of_frames} "
        f"({float(found.start_seconds):.2f} to {float(found.stop_seconds):.2f} s)"
    )
    return Variants(source=printable(str(source)), excerpt=words, variants=tuple(done))


def _variant(
    name: str, settings: RestoreSettings, source: str, restored: RestoredFile, num_frames: int, price: float
) -> Variant:
    plan, records = restored.plan, restored.finished.assembly.provenance["segments"]
    assert plan.excerpt is not None, "a variant is an excerpt"
    made = [record["restored"] for record in records]
    seconds = sum(record["seconds"] for record in made)
    restored_frames = sum(record["frames"][1] - record["frames"][0] for record in made)
    for_whole = seconds / restored_frames * plan.excerpt.whole_restored_frames
    length = plan.media.video.num_frames
    numbers = sorted({plan.first_frame + length * (2 * index + 1) // (2 * num_frames) for index in range(num_frames)})
    return Variant(
        name=name,
        settings=settings,
        size=(plan.recipe.geometry.width, plan.recipe.geometry.height),
        target=restored.target,
        compared=compare(source, restored.target, numbers),
        seconds=seconds,
        seconds_for_whole=for_whole,
        cost_for_whole=for_whole / 3600 * price,
    )


def _from_the_middle(source: str) -> str:
    media = probe(source)
    total = media.video.num_frames
    length = max(1, min(total, round(_USUAL_SECONDS * media.video.frame_rate)))
    start = (total - length) // 2
    return f"frames {start}-{start + length - 1}"


def _suffix(source: str, settings: RestoreSettings) -> str:
    if settings.container != "auto":
        return f".{settings.container}"
    own = SUFFIXES.get(Path(source).suffix.lower(), "")
    if settings.codec in ("ffv1", "prores", "prores4444"):
        return ".mkv" if settings.codec == "ffv1" else ".mov"
    return ".mp4" if not own or own in IMAGE_CONTAINERS or own in ("avi", "webm") else f".{own}"
