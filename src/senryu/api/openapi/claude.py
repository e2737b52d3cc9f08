"""The Claude API's operations: what each of its endpoints takes and gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senryu.api.batches import CUSTOM_ID, MOST_REQUESTS, BatchRoutes
from senryu.api.files import LEAST_SECONDS, MOST_IDS, MOST_SECONDS, OLDER, FileRoutes
from senryu.api.health import Health
from senryu.api.messages import Messages, complete
from senryu.api.models import Models
from senryu.api.openapi.blocks import MARKER
from senryu.api.openapi.words import (
    EVENTS,
    FLAG,
    FORM,
    FREE,
    LINES,
    Operation,
    Schema,
    either,
    header,
    json_of,
    list_of,
    maybe,
    nothing,
    number,
    one_of,
    path,
    query,
    ref,
    said,
    stream_of,
    takes,
    taking,
    text,
    whole,
)
from senryu.api.paging import MOST
from senryu.api.parse import BOOKKEEPING_FIELDS, FOREIGN_FIELDS, MOST_MESSAGES
from senryu.api.wire import V2023, V2026

VERSION = header("anthropic-version", "The version of the API that the caller speaks.", one_of(V2023, V2026), required=True)
BETAS = header("anthropic-beta", "Names of betas, divided by commas. A name that the API has never had is refused.")
COST = header("senryu-cost", "`true`: the response says what the answer cost, in `senryu-cost-usd`.", text())
LIMIT = query("limit", "Items in a page.", {**whole(1, MOST), "default": 20})
BEFORE, AFTER = query("before_id", "Items before this one."), query("after_id", "Items after this one.")
BATCH, FILE = path("batch_id", "The batch's id."), path("file_id", "The file's id.")
CALL = (VERSION, BETAS)

STOPS = list_of({"type": "string", "pattern": r"\S", "description": "A text at which the answer ends."})
FOREIGN = {f"{name}?": nothing([], {}) for name in (*FOREIGN_FIELDS, *BOOKKEEPING_FIELDS)}
PROMPT: dict[str, Schema] = {
    "system?": either(text(), list_of(ref("SystemBlock"))),
    "messages": list_of(ref("InputMessage"), high=MOST_MESSAGES),
    "tools?": maybe(list_of(ref("Tool"))),
    "tool_choice?": said(maybe(ref("ToolChoice")), "Only with tools."),
    "output_config?": maybe(ref("OutputConfig")),
    "output_format?": said(maybe(ref("OutputFormat")), "With the beta structured-outputs-2025-11-13."),
    "thinking?": maybe(ref("Thinking")),
    **FOREIGN,
}
OLD = f"With API version {V2023} alone."
SAMPLING: dict[str, Schema] = {
    "temperature?": said(number(0, 1), OLD),
    "top_p?": said(number(0, 1), OLD),
    "top_k?": said(whole(), OLD),
}
ANSWERED: dict[str, Schema] = {
    "max_tokens": said(whole(), "0 reads the prompt into the cache and answers nothing."),
    **PROMPT,
    **SAMPLING,
    "stop_sequences?": STOPS,
    "metadata?": takes({"user_id?": maybe(text(high=256))}),
    "service_tier?": one_of("auto", "standard_only"),
    "diagnostics?": maybe(takes({"previous_message_id?": maybe(text(1, 256))})),
    "thread?": said(
        maybe(taking({"create": {}, "continue": {"previous_message_id": text(1, 256)}})),
        "With the beta message-threads-2026-08-12.",
    ),
}
MODEL: dict[str, Schema] = {"model": text(1, 256)}
STREAM: dict[str, Schema] = {"stream?": FLAG}

SCHEMAS: dict[str, Schema] = {
    "CreateMessage": takes({**MODEL, **ANSWERED, **STREAM, **MARKER}),
    "CountTokens": takes({**MODEL, **PROMPT, **MARKER}),
    "CreateMessageBatch": takes(
        {
            "requests": list_of(
                takes(
                    {
                        "custom_id": text(pattern=CUSTOM_ID.pattern),
                        "params": said(FREE, "A CreateMessage that is not streamed. What is wrong with it is its result."),
                    }
                ),
                1,
                MOST_REQUESTS,
            )
        }
    ),
    "CreateFile": takes(
        {
            "file": {"type": "string", "contentMediaType": "application/octet-stream"},
            "expires_in_seconds?": whole(LEAST_SECONDS, MOST_SECONDS),
        }
    ),
}

MESSAGE = json_of(ref("Message")) | stream_of(EVENTS, ref("MessageEvent"))
OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    Messages.create: Operation(
        "Answer a conversation", (*CALL, COST), json_of(ref("CreateMessage")), {200: MESSAGE}, "Events with `stream`."
    ),
    Messages.count_tokens: Operation(
        "Count the tokens of a prompt", CALL, json_of(ref("CountTokens")), {200: json_of(ref("TokenCount"))}
    ),
    complete: Operation("Text completions, which are gone", about="Always refused: it says what to use instead."),
    BatchRoutes.create: Operation(
        "Create a batch of messages", CALL, json_of(ref("CreateMessageBatch")), {200: json_of(ref("MessageBatch"))}
    ),
    BatchRoutes.list: Operation(
        "List batches, newest first", (VERSION, LIMIT, BEFORE, AFTER), answers={200: json_of(ref("MessageBatchPage"))}
    ),
    BatchRoutes.retrieve: Operation("Retrieve a batch", (VERSION, BATCH), answers={200: json_of(ref("MessageBatch"))}),
    BatchRoutes.cancel: Operation("Cancel a batch", (VERSION, BATCH), answers={200: json_of(ref("MessageBatch"))}),
    BatchRoutes.delete: Operation(
        "Delete a batch that has ended", (VERSION, BATCH), answers={200: json_of(ref("DeletedMessageBatch"))}
    ),
    BatchRoutes.results: Operation(
        "The results of a batch, a line each", (VERSION, BATCH), answers={200: stream_of(LINES, ref("BatchResult"))}
    ),
    FileRoutes.create: Operation(
        "Upload a file", (VERSION,), {FORM: {"schema": ref("CreateFile")}}, {200: json_of(ref("File"))}
    ),
    FileRoutes.list: Operation(
        "List files, newest first",
        (
            VERSION,
            header("anthropic-beta", f"With `{OLDER}` the pages have the older form."),
            LIMIT,
            query("page", "The `next_page` of the page before."),
            query("ids", "Only these files.", list_of(text(), high=MOST_IDS)),
            query("ids[]", "The same, as some clients write it.", list_of(text(), high=MOST_IDS)),
            said(BEFORE, "In the older form alone: files before this one."),
            said(AFTER, "In the older form alone: files after this one."),
        ),
        answers={200: json_of(either(ref("FilePage"), ref("OlderFilePage")))},
    ),
    FileRoutes.retrieve: Operation("Retrieve a file's metadata", (VERSION, FILE), answers={200: json_of(ref("File"))}),
    FileRoutes.delete: Operation("Delete a file", (VERSION, FILE), answers={200: json_of(ref("DeletedFile"))}),
    FileRoutes.content: Operation(
        "A file's bytes", (VERSION, FILE), about="Always refused: uploaded files cannot be downloaded."
    ),
    Models.list: Operation(
        "List models, newest first", (VERSION, LIMIT, BEFORE, AFTER), answers={200: json_of(ref("ModelPage"))}
    ),
    Models.retrieve: Operation(
        "Retrieve a model",
        (VERSION, path("model_id", "The model's id, or another name of it.")),
        answers={200: json_of(ref("Model"))},
    ),
    Health.get: Operation(
        "Whether requests are answered",
        answers={200: json_of(ref("Health")), 503: json_of(either(ref("Health"), ref("Error")))},
    ),
}
