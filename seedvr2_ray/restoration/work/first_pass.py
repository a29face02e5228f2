"""The one look at every frame before any is restored: where shots begin, and what each picture is.

It decodes from the beginning, so nothing that a jump into the file may get wrong is in it. What it saw is
committed, once per content, way of reading and decoder, and every segment's own reading is held against it.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seedvr2_ray.errors import StorageError
from seedvr2_ray.frames import FrameSpan
from seedvr2_ray.media.info import MediaInfo, ranges_of
from seedvr2_ray.media.output.libraries import library_versions
from seedvr2_ray.media.reading.decode import decode_codes, decode_thumbnails
from seedvr2_ray.media.reading.proof import (
    PROOF_VERSION,
    Proof,
    ProofMaker,
    codes_crc,
    new_crcs,
    proof_from_bytes,
)
from seedvr2_ray.media.reading.seek import Found
from seedvr2_ray.media.shots import DETECTOR_VERSION, detect_shots
from seedvr2_ray.storage.address import digest_of
from seedvr2_ray.storage.commits import CommitStore

SHOTS = "shots"
"""Kind of the commits that hold where a source's shots begin and what its pictures are."""


@dataclass(frozen=True, slots=True)
class FirstPass:
    """What decoding a source from its beginning to its end showed."""

    shots: tuple[int, ...]
    """Number of the first frame of every shot."""
    proof: Proof


def look_through(source_path: str, media: MediaInfo, mark: str, store: CommitStore, *, salvage: bool) -> FirstPass:
    """Decode a source once, or remember what an earlier look saw.

    Also asked for where shots are not: without it nobody would know whether a segment's pictures are the source's.

    Args:
        source_path: where its bytes lie on this machine.
        mark: identifies these bytes.
        salvage: let neighbours stand in for what cannot be decoded.

    Raises:
        DamagedMediaError: frames cannot be decoded and ``salvage`` is off.
        StorageError: what was committed is damaged; it is discarded, and asking again looks again.
    """
    address = digest_of(
        {
            "source": mark,
            "stream": media.video.stream_index,
            "times": media.video.timestamps,
            "frames": media.video.num_frames,
            "salvage": salvage,
            "detector": DETECTOR_VERSION,
            "proof": PROOF_VERSION,
            "libraries": library_versions(),
        }
    )
    known = store.find(SHOTS, address)
    if known is not None:
        found = _from_record(known, media.video.num_frames)
        if found is None:
            store.discard(SHOTS, address)
            raise StorageError(
                "what was noted of the source's pictures is damaged (its SHA-256 is not its record's); "
                "it is discarded, and the same command looks through the source again"
            )
        return found
    seen = _look(source_path, media, salvage=salvage)
    store.settle(SHOTS, address, _to_record(seen))
    return seen


def _look(source_path: str, media: MediaInfo, *, salvage: bool) -> FirstPass:
    if media.kind == "image":
        crcs, missing = new_crcs(), list[int]()
        whole = FrameSpan(0, tuple(media.frame_pts))
        pictures = decode_codes(source_path, media.video, whole, salvage=salvage, on_missing=missing.append)
        crcs.extend(codes_crc(codes_CHW) for codes_CHW in pictures)
        return FirstPass((0,), Proof(crcs, ranges_of(missing), of_codes=True))
    maker = ProofMaker()

    def see(item: Found) -> None:
        maker.see(item.frame, is_missing=item.is_missing, is_stand_in=item.is_stand_in)

    starts = detect_shots(
        decode_thumbnails(source_path, media.video, media.frame_pts, salvage=salvage, on_picture=see),
        media.video.num_frames,
        frame_rate=media.video.frame_rate,
    )
    proof = maker.made()
    # Every reader would take a short one for a source without proof.
    assert len(proof.crcs) == media.video.num_frames, f"looked at {len(proof.crcs)} of {media.video.num_frames} frames"
    return FirstPass(starts, proof)


def _to_record(seen: FirstPass) -> dict[str, Any]:
    values = {
        "starts": list(seen.shots),
        "stand_ins": [list(span) for span in seen.proof.stand_ins],
        "concealed": [list(span) for span in seen.proof.concealed],
        "of_codes": seen.proof.of_codes,
        # Four bytes a frame: a video of three hours makes 1.4 MB of it, and is loaded where it is planned.
        "crcs": b64encode(seen.proof.to_bytes()).decode("ascii"),
    }
    return {**values, "sha256": digest_of(values)}


def _from_record(record: Mapping[str, Any], num_frames: int) -> FirstPass | None:
    """Return what a record says; nothing when it is not what was written."""
    values = {name: value for name, value in record.items() if name != "sha256"}
    if record.get("sha256") != digest_of(values):
        return None
    stand_ins, concealed = (tuple((start, stop) for start, stop in values[name]) for name in ("stand_ins", "concealed"))
    proof = proof_from_bytes(b64decode(values["crcs"]), stand_ins, concealed, of_codes=values["of_codes"])
    return FirstPass(tuple(values["starts"]), proof) if len(proof.crcs) == num_frames else None
