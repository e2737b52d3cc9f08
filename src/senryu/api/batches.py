"""/v1/messages/batches: bodies to batches and batches to answers, and how the runner reads and writes the API's JSON."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from senryu.api.betas import read_betas
from senryu.api.body import BODY_BYTES, decode_json, parse_body, read_body
from senryu.api.desk import gather
from senryu.api.fields import Fields, array, string
from senryu.api.messages import message_json
from senryu.api.paging import page_json, page_limit
from senryu.api.parse import Parser
from senryu.api.wire import api_version, encode_json, envelope, json_response
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.clock import as_datetime
from senryu.service.batch_runner import Shape
from senryu.service.batches import Batch, Batches, NewRequest, Result
from senryu.service.ids import new_id
from senryu.service.registry import Registry
from senryu.types import Event, Turn

BATCH_BYTES = 256 * 1024 * 1024
MOST_REQUESTS = 100_000
UPLOADS = 4  # at once, since each may take much memory
ORDER_BYTES = 200  # of the first message's text that decide what runs beside what
CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
HOST = re.compile(r"[A-Za-z0-9.\-_]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")


def messages_shape(registry: Registry, settings: Settings) -> Shape:
    """How a batch's parameters become turns, and answers become results. A dialect is the headers that say how to read."""
    lenient = settings.profile == "lenient"

    async def turn(params: bytes, dialect: str, tenant: str) -> Turn:
        version, *betas = dialect.split(",")
        parser = Parser(version, registry.canonical, betas=frozenset(betas), lenient=lenient, tenant=tenant)
        asked = await parse_body(params, parser.create)
        if asked.stream:
            raise SenryuError("batch_stream")
        if not asked.turn.max_tokens:
            raise SenryuError("batch_prewarm")
        if asked.turn.thread:
            raise SenryuError("thread_unsupported", what="batches")
        return asked.turn

    async def message(turn: Turn, events: AsyncGenerator[Event, None]) -> bytes:
        answer = message_json(await gather(events), tier="batch", diagnose=turn.diagnose is not None)
        return encode_json({"type": "succeeded", "message": answer})

    def error(wrong: SenryuError) -> bytes:
        return encode_json({"type": "errored", "error": envelope(wrong, new_id("req_"))})

    return Shape(turn, message, error)


class BatchRoutes:
    """The six endpoints."""

    def __init__(self, batches: Batches, settings: Settings) -> None:
        self.batches = batches
        self.stall_timeout = settings.stall_timeout_s
        self.lenient = settings.profile == "lenient"
        self._uploads = asyncio.Semaphore(UPLOADS)

    async def create(self, request: Request) -> Response:
        """A new batch. Its parameters are looked at later, one by one; what is wrong with some is their result."""
        version, betas = api_version(request), read_betas(request.headers.getlist("anthropic-beta"))
        parser = Parser(version, str, betas=betas, lenient=self.lenient)
        async with self._uploads:
            body = await read_body(request, self.stall_timeout, BATCH_BYTES)
            requests = await asyncio.to_thread(new_requests, body)
            del body
            batch = await self.batches.create(request.state.tenant, ",".join([version, *sorted(betas)]), requests)
        return json_response(batch_json(batch, request), headers=parser.headers)

    async def list(self, request: Request) -> Response:
        """A page of batches, newest first."""
        api_version(request)
        query = request.query_params
        ends = query.get("after_id"), query.get("before_id")
        page, more = await self.batches.page(request.state.tenant, page_limit(query), *ends)
        return json_response(page_json([batch_json(batch, request) for batch in page], more))

    async def retrieve(self, request: Request) -> Response:
        """One batch."""
        return json_response(batch_json(await self.batches.get(*_named(request)), request))

    async def cancel(self, request: Request) -> Response:
        """The batch, canceling."""
        return json_response(batch_json(await self.batches.cancel(*_named(request)), request))

    async def delete(self, request: Request) -> Response:
        """The id of what is gone."""
        tenant, id = _named(request)
        await self.batches.delete(tenant, id)
        return json_response({"id": id, "type": "message_batch_deleted"})

    async def results(self, request: Request) -> ResultStream:
        """A line of JSON for each request."""
        return ResultStream((await self.batches.results(*_named(request)))[1])


class ResultStream:
    """An ASGI response: results as JSON Lines, read while they are taken."""

    def __init__(self, pieces: AsyncGenerator[list[Result], None]) -> None:
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/x-jsonl")]
        async with aclosing(self.pieces):
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            request = Request(scope, receive)
            async for piece in self.pieces:
                if await request.is_disconnected():
                    return
                await send({"type": "http.response.body", "body": b"".join(map(result_line, piece)), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def result_line(result: Result) -> bytes:
    """One result."""
    what = result.result or encode_json({"type": result.state})
    return b'{"custom_id":%b,"result":%b}\n' % (encode_json(result.custom_id), what)


def new_requests(body: bytes) -> list[NewRequest]:
    """The requests of a body, in order. Raises SenryuError.

    Only one of them is decoded at a time, and none that is larger than a request may be: as Python objects a body of this
    size would take gigabytes.
    """
    items = _split(body)
    if not items:
        raise SenryuError("too_few", path="requests")
    if len(items) > MOST_REQUESTS:
        raise SenryuError("too_many", path="requests", high=MOST_REQUESTS, count=len(items))
    requests: list[NewRequest] = []
    seen: set[str] = set()
    for index, item in enumerate(items):
        request = _new_request(bytes(item), f"requests.{index}")
        if request.custom_id in seen:
            raise SenryuError("same_custom_id", path=f"requests.{index}.custom_id", custom_id=request.custom_id)
        seen.add(request.custom_id)
        requests.append(request)
    return requests


def _split(body: bytes) -> list[msgspec.Raw]:
    """The items of `requests`, undecoded; the rest of the body is checked."""
    try:
        found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])["requests"]
        items = msgspec.json.decode(found, type=list[msgspec.Raw])
    except (ValueError, KeyError, RecursionError) as error:
        Fields(_small(body)).take("requests", array)
        raise SenryuError("bad_json", why=error) from error
    rest = Fields(_small(body.replace(bytes(found), b"[]", 1)))
    rest.take("requests", array)
    rest.finish()
    return items


def _small(part: bytes) -> Any:
    """A part of a body, decoded. Raises SenryuError when it is larger than a request by itself may be."""
    if len(part) > BODY_BYTES:
        raise SenryuError("too_large")
    return decode_json(part)


def _new_request(item: bytes, path: str) -> NewRequest:
    fields = Fields(_small(item), path)
    custom_id = fields.take("custom_id", _custom_id)
    params = fields.take("params", lambda value, path: Fields(value, path).rest())
    fields.finish()
    raw = bytes(msgspec.json.decode(item, type=dict[str, msgspec.Raw])["params"])
    return NewRequest(custom_id, raw, _run_order(params))


def _custom_id(value: Any, path: str) -> str:
    custom_id = string(value, path)
    if not CUSTOM_ID.fullmatch(custom_id):
        raise SenryuError("not_matching", path=path, pattern=f"^{CUSTOM_ID.pattern}$")
    return custom_id


def _run_order(params: dict[str, Any]) -> bytes:
    """Sorts requests of the same beginning together: the same model, tools and system prompt, then similar first messages."""
    head = json.dumps([params.get(name) for name in ("model", "tools", "system")])
    return hashlib.sha256(head.encode()).digest()[:16] + _first_text(params.get("messages")).encode()[:ORDER_BYTES]


def _first_text(messages: Any) -> str:
    """Of the first message, as far as there is one: nothing of this is checked yet."""
    match messages:
        case [{"content": str(text)}, *_] | [{"content": [{"text": str(text)}, *_]}, *_]:
            return text
    return ""


def batch_json(batch: Batch, request: Request) -> dict[str, Any]:
    """A MessageBatch. Its counts are 0, but for what is being processed, until all of it has ended."""
    ended = batch.ended_at is not None
    status = "ended" if ended else "canceling" if batch.cancel_initiated_at is not None else "in_progress"
    there = ended and batch.archived_at is None
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {
            "processing": 0 if ended else batch.total,
            "succeeded": batch.succeeded,
            "errored": batch.errored,
            "canceled": batch.canceled,
            "expired": batch.expired,
        },
        "created_at": _time(batch.created_at),
        "expires_at": _time(batch.expires_at),
        "ended_at": _time(batch.ended_at),
        "cancel_initiated_at": _time(batch.cancel_initiated_at),
        "archived_at": _time(batch.archived_at),
        "results_url": f"{_origin(request)}/v1/messages/batches/{batch.id}/results" if there else None,
    }


def _time(time: int | None) -> str | None:
    return None if time is None else as_datetime(time).isoformat().replace("+00:00", "Z")


def _origin(request: Request) -> str:
    """Scheme and host by which the caller reaches us, through a proxy or not: clients take a results_url as it is."""
    scheme = _forwarded(request, "x-forwarded-proto")
    host = _forwarded(request, "x-forwarded-host")
    url, mount = request.url, request.scope.get("root_path", "")
    return f"{scheme if scheme in ('http', 'https') else url.scheme}://{host if HOST.fullmatch(host) else url.netloc}{mount}"


def _forwarded(request: Request, name: str) -> str:
    """What the outermost proxy says."""
    return request.headers.get(name, "").split(",")[0].strip()


def _named(request: Request) -> tuple[str, str]:
    """(tenant, id of the batch)."""
    api_version(request)
    return request.state.tenant, request.path_params["batch_id"]
