"""Uploads in several pieces by the tus protocol 1.0 (tus.io), and straight to an object store."""

import base64
import binascii
from datetime import datetime
from email.utils import format_datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel
from starlette.responses import Response

from seedvr2_ray.serve.db.upload_store import Upload
from seedvr2_ray.serve.http.bodies import body_of, content_type_of, read_json, require_length
from seedvr2_ray.serve.http.callers import TheCaller, TheService, UploadId
from seedvr2_ray.serve.http.problem_bodies import ProtocolRefusal, documented
from seedvr2_ray.serve.http.v1.schemas import UploadRequest
from seedvr2_ray.serve.service.verbs import Service

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,expiration,termination"
PIECE_TYPE = "application/offset+octet-stream"
_LONGEST_METADATA = 4096

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])


class PresignedView(BaseModel):
    """Where to PUT a file; a job can name the upload when that is done."""

    id: str
    url: str
    method: str
    expires_at: datetime


async def _require_version(
    tus_resumable: Annotated[str | None, Header(description="Always `1.0.0`.")] = None,
) -> None:
    if tus_resumable != VERSION:
        raise ProtocolRefusal(
            f"this speaks version {VERSION} of tus and the header Tus-Resumable says {tus_resumable or 'nothing'}",
            412,
            {"Tus-Version": VERSION},
        )


async def _piece_offset(upload_offset: Annotated[str, Header(description="How much has arrived.")]) -> int:
    return _number("Upload-Offset", upload_offset)


Tus = Depends(_require_version)
_TUS_ANSWERS = documented(400, 401, 403, 404, 409, 410, 412, 413, 415, 422, 429)
_PIECE = {"content": {PIECE_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


@router.options("", status_code=204, response_class=Response, responses=documented())
async def describe_protocol(service: TheService) -> Response:
    """Say what of the protocol is spoken here."""
    headers = {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(service.limits.max_upload_bytes),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=_TUS_ANSWERS,
    dependencies=[Tus],
    openapi_extra={"requestBody": _PIECE},
)
async def create_upload(
    request: Request,
    service: TheService,
    caller: TheCaller,
    upload_length: Annotated[str, Header(description="Bytes of the whole file.")],
    upload_metadata: Annotated[str, Header(description="`filename <base64>`; other keys mean nothing.")] = "",
) -> Response:
    """Announce a file; its first piece may come along."""
    num_bytes = _number("Upload-Length", upload_length)
    name = _file_name_in(upload_metadata)
    has_piece = content_type_of(request) == PIECE_TYPE
    if not has_piece and request.headers.get("content-length", "0") != "0":
        raise ProtocolRefusal(f"a piece of a file must be sent as {PIECE_TYPE}", 415)
    upload = await service.uploads.begin(caller, name, num_bytes)
    if has_piece:
        require_length(request, num_bytes)
        upload = await service.uploads.extend(caller, upload.id, 0, body_of(request))
    return Response(status_code=201, headers={**_headers_of(service, upload), "Location": f"/v1/uploads/{upload.id}"})


@router.head("/{upload_id}", response_class=Response, responses=_TUS_ANSWERS, dependencies=[Tus])
async def read_offset(service: TheService, caller: TheCaller, upload_id: UploadId) -> Response:
    """Say how much of a file has arrived."""
    upload = await service.uploads.get(caller, upload_id)
    headers = {
        **_headers_of(service, upload),
        "Upload-Metadata": f"filename {base64.b64encode(upload.name.encode()).decode()}",
        "Cache-Control": "no-store",
    }
    if upload.num_bytes is not None:
        headers["Upload-Length"] = str(upload.num_bytes)
    return Response(status_code=200, headers=headers)


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=_TUS_ANSWERS,
    dependencies=[Tus],
    openapi_extra={"requestBody": {"required": True, **_PIECE}},
)
async def extend_upload(
    request: Request,
    service: TheService,
    caller: TheCaller,
    upload_id: UploadId,
    offset: Annotated[int, Depends(_piece_offset)],
) -> Response:
    """Receive the next piece of a file; whatever of it arrives is kept."""
    if content_type_of(request) != PIECE_TYPE:
        raise ProtocolRefusal(f"a piece of a file must be sent as {PIECE_TYPE}", 415)
    require_length(request, service.limits.max_upload_bytes)
    upload = await service.uploads.extend(caller, upload_id, offset, body_of(request))
    return Response(status_code=204, headers=_headers_of(service, upload))


@router.delete("/{upload_id}", status_code=204, response_class=Response, responses=_TUS_ANSWERS, dependencies=[Tus])
async def delete_upload(service: TheService, caller: TheCaller, upload_id: UploadId) -> Response:
    """Delete a file, whole or not."""
    await service.uploads.delete(caller, upload_id)
    return Response(status_code=204, headers={"Tus-Resumable": VERSION})


@router.post(
    "/presigned",
    status_code=201,
    response_model=PresignedView,
    responses=documented(400, 401, 403, 408, 409, 413, 415, 422, 429),
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/UploadRequest"}}},
        }
    },
)
async def presign_upload(request: Request, service: TheService, caller: TheCaller) -> PresignedView:
    """Sign a URL to which the file is PUT without passing through here; 409 where files are kept in a folder."""
    body = await read_json(request, UploadRequest)
    signed = await service.uploads.presign(caller, body.name, body.num_bytes)
    return PresignedView(id=signed.upload.id, url=signed.url, method="PUT", expires_at=signed.expires_at)


def _headers_of(service: Service, upload: Upload) -> dict[str, str]:
    return {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.num_received),
        "Upload-Expires": format_datetime(service.uploads.expires_at(upload), usegmt=True),
    }


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise ProtocolRefusal(f"{name} must be a number of bytes, got {text[:40]!r}")
    return int(text)


def _file_name_in(metadata: str) -> str:
    """Find the file's name among ``key base64,key base64``."""
    if len(metadata) > _LONGEST_METADATA:
        raise ProtocolRefusal(f"Upload-Metadata has {len(metadata)} characters and {_LONGEST_METADATA} are the most")
    for pair in metadata.split(","):
        key, _, value = pair.strip().partition(" ")
        if key in ("filename", "name"):
            try:
                return base64.b64decode(value, validate=True).decode("utf-8")
            except (binascii.Error, UnicodeDecodeError):
                raise ProtocolRefusal(f"Upload-Metadata has a {key} that is no base64 of UTF-8") from None
    return ""
