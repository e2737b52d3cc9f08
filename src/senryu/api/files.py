"""/v1/files: forms to files and files to answers. Lists come in the newer shape, or in the older for callers of that beta."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from senryu.api.betas import read_betas
from senryu.api.body import body_chunks
from senryu.api.fields import SHOWN
from senryu.api.form import Part, read_form
from senryu.api.paging import page_json, page_limit, whole
from senryu.api.wire import api_version, json_response
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.clock import as_datetime
from senryu.ledger.files import File, Place
from senryu.service.files import FILE_BYTES, Files, Upload

OLDER = "files-api-2025-04-14"
FORM_BYTES = FILE_BYTES + 64 * 1024  # a file and what is around it
LEAST_SECONDS, MOST_SECONDS = 3_600, 7_776_000
MOST_IDS = 100
FIELD_BYTES = 32


class FileRoutes:
    """The five endpoints."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self.files = files
        self.stall_timeout = settings.stall_timeout_s

    async def create(self, request: Request) -> Response:
        """A new file, written to the disk as it comes."""
        api_version(request)
        async with self.files.upload() as upload:
            part, seconds = await self._receive(request, upload)
            expires_in = None if seconds is None else _seconds(seconds)
            file = await self.files.keep(upload, request.state.tenant, part.filename, part.content_type, expires_in)
        return json_response(file_json(file))

    async def _receive(self, request: Request, upload: Upload) -> tuple[Part, bytes | None]:
        """The `file` of a form, whose bytes go to `upload`, and its `expires_in_seconds`."""
        content_type = request.headers.get("content-type", "")
        seen: dict[str, Part] = {}
        seconds = b""
        name = ""
        async with (
            aclosing(body_chunks(request, self.stall_timeout, FORM_BYTES)) as chunks,
            aclosing(read_form(content_type, chunks)) as form,
        ):
            async for item in form:
                if isinstance(item, Part):
                    name = item.name
                    if name not in ("file", "expires_in_seconds"):
                        raise SenryuError("extra", path=name[:SHOWN] or "body")
                    if name in seen:
                        raise SenryuError("bad_form", why=f"{name} is there twice")
                    seen[name] = item
                elif name == "file":
                    await upload.write(item)
                else:
                    seconds = (seconds + item)[: FIELD_BYTES + 1]
        if "file" not in seen:
            raise SenryuError("required", path="file")
        return seen["file"], seconds if "expires_in_seconds" in seen else None

    async def list(self, request: Request) -> Response:
        """A page of files, newest first, or those of some ids."""
        api_version(request)
        query, tenant = request.query_params, request.state.tenant
        if OLDER in read_betas(request.headers.getlist("anthropic-beta")):
            ends = [await self._place(tenant, query, path) for path in ("after_id", "before_id")]
            page, more = await self.files.page(tenant, page_limit(query), *ends)
            return json_response(page_json([file_json(file) for file in page], more))
        ids = dict.fromkeys([*query.getlist("ids[]"), *query.getlist("ids")])
        if ids:
            _check_ids(ids, query)
            page, more = await self.files.some(tenant, list(ids)), False
        else:
            page, more = await self.files.page(tenant, page_limit(query), _from_cursor(query.get("page")))
        cursor = _cursor(page[-1].place) if more else None
        return json_response({"data": [file_json(file) for file in page], "next_page": cursor})

    async def _place(self, tenant: str, query: Mapping[str, str], path: str) -> Place | None:
        if not (id := query.get(path)):
            return None
        found = await self.files.some(tenant, [id])
        if not found:
            raise SenryuError("bad_cursor", path=path, thing="file")
        return found[0].place

    async def retrieve(self, request: Request) -> Response:
        """What is known of one file."""
        return json_response(file_json(await self.files.get(*_named(request))))

    async def delete(self, request: Request) -> Response:
        """The id of what is gone."""
        tenant, id = _named(request)
        await self.files.delete(tenant, id)
        return json_response({"id": id, "type": "file_deleted"})

    async def content(self, request: Request) -> Response:
        """Refused: uploaded files cannot be downloaded."""
        raise await self.files.no_download(*_named(request))


def file_json(file: File) -> dict[str, Any]:
    """A FileMetadata."""
    return {
        "type": "file",
        "id": file.id,
        "filename": file.filename,
        "mime_type": file.mime_type,
        "size_bytes": file.size_bytes,
        "created_at": _time(file.created_at),
        "downloadable": file.downloadable,
        "expires_at": None if file.expires_at is None else _time(file.expires_at),
    }


def _time(time: int) -> str:
    return as_datetime(time).isoformat().replace("+00:00", "Z")


def _seconds(sent: bytes) -> int:
    path = "expires_in_seconds"
    seconds = whole(sent.decode("latin-1"), path)
    if seconds < LEAST_SECONDS:
        raise SenryuError("below", path=path, low=LEAST_SECONDS)
    if seconds > MOST_SECONDS:
        raise SenryuError("above", path=path, high=MOST_SECONDS)
    return seconds


def _check_ids(ids: Mapping[str, None], query: Mapping[str, str]) -> None:
    for path in ("page", "limit"):
        if path in query:
            raise SenryuError("ids_alone", path=path)
    if len(ids) > MOST_IDS:
        raise SenryuError("many_ids", most=MOST_IDS, count=len(ids))


def _cursor(place: Place) -> str:
    return "page_" + base64.urlsafe_b64encode(f"{place[0]}:{place[1]}".encode()).decode().rstrip("=")


def _from_cursor(cursor: str | None) -> Place | None:
    if not cursor:
        return None
    try:
        sent = cursor.removeprefix("page_").encode("ascii")
        created, _, id = base64.urlsafe_b64decode(sent + b"=" * (-len(sent) % 4)).decode().partition(":")
        place = int(created), id
    except (ValueError, binascii.Error):
        raise SenryuError("bad_page") from None
    if not 0 <= place[0] < 1 << 63:
        raise SenryuError("bad_page")
    return place


def _named(request: Request) -> tuple[str, str]:
    """(tenant, id of the file)."""
    api_version(request)
    return request.state.tenant, request.path_params["file_id"]
