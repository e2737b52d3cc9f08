"""Refusals as OpenAI's clients expect them: {"error": {message, type, param, code}}, with statuses that they know.

What a refusal is about stays the table's of `senryu.errors`; here are the words and names that differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.responses import Response

from senryu.api.wire import json_response
from senryu.errors import SenryuError

VERSION_HEADERS = {"openai-version": "2020-10-01"}


@dataclass(frozen=True, slots=True)
class Words:
    """wording: over the error's values and `Places`' root and limit; "" keeps the table's. param: the field, where the error
    names no path. status: 0 keeps the table's."""

    wording: str = ""
    param: str = ""
    code: str | None = None
    status: int = 0


KEPT = Words()
DEFAULTS: dict[str, object] = {"root": "messages", "limit": "max_tokens"}
WORDS = {
    "key_missing": Words(
        "You didn't provide an API key. You need to provide your API key in an Authorization header using Bearer auth "
        "(i.e. Authorization: Bearer YOUR_KEY)."
    ),
    "key_wrong": Words("Incorrect API key provided.", code="invalid_api_key"),
    "model_unknown": Words("The model `{model}` does not exist or you do not have access to it.", code="model_not_found"),
    "no_route": Words("Invalid URL ({method} {path})"),
    "required": Words("Missing required parameter: '{path}'.", code="missing_required_parameter"),
    "extra": Words("Unknown parameter: '{path}'.", code="unknown_parameter"),
    "unsupported": Words(code="unsupported_parameter"),
    "overloaded": Words("The server is overloaded. Try again in a moment.", code="rate_limit_exceeded", status=429),
    "rate_limited": Words(
        "Rate limit reached on {what} per min: Limit {rate}. Please try again in {retry_after}s.", code="rate_limit_exceeded"
    ),
    "rate_never": Words(
        "Request too large on {what} per min: Limit {rate}, Requested {count}. The input must be reduced in order to run "
        "successfully.",
        code="rate_limit_exceeded",
    ),
    "prompt_too_long": Words(
        "This model's maximum context length is {context} tokens. However, your {root} resulted in {count} tokens. "
        "Please reduce the length of the {root}.",
        "{root}",
        "context_length_exceeded",
    ),
    "context_exceeded": Words(
        "This model's maximum context length is {context} tokens. However, you requested {count} tokens in the {root} and "
        "{asked} in the completion. Please reduce the length of the {root} or completion.",
        "{root}",
        "context_length_exceeded",
    ),
    "max_tokens_high": Words(
        "{limit} is too large: {asked}. This model supports at most {cap} completion tokens, whereas you provided {asked}.",
        "{limit}",
        "invalid_value",
    ),
    "no_messages": Words("{root}: at least one message that is no system message is required", "{root}"),
    "empty_message": Words("{path}: the content must not be empty"),
    "long_stops": Words("stop: {count} characters in all > {cap}, which is the most that this server watches for", "stop"),
    "choice_without_tools": Words("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice"),
    "choice_unknown": Words("tool_choice: no function '{name}' is among the tools", "tool_choice"),
    **dict.fromkeys(("tool_names", "many_strict", "many_optional", "many_unions", "no_tools"), Words(param="tools")),
    **dict.fromkeys(("empty_text", "blank_text", "trailing_space"), Words(param="{root}")),
    **dict.fromkeys(("empty_prompt", "token_id"), Words(param="prompt")),
    "stream_options": Words(param="stream_options"),
    "tool_use_ids": Words("{path}: ids of tool calls must be unique"),
    "tool_result_missing": Words(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        "The following tool_call_ids did not have response messages: {ids}"
    ),
    "tool_result_unexpected": Words(
        "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'. "
        "No such call has the id {id}."
    ),
    "tool_result_twice": Words("{path}: the call {id} has more than one result"),
    "no_effort": Words("This model does not reason, so it has no effort to set. Remove it and try again."),
    "schema_prefill": Words(
        "A form of the answer and a final assistant message cannot be combined. Remove that message.", "{root}"
    ),
    "schema_and_tools": Words(
        "'{model}' writes its calls as JSON too, so that a text in JSON cannot be told from a call. "
        "Set tool_choice to none or required, or remove the form of the answer."
    ),
}


def error_json(error: SenryuError) -> dict[str, Any]:
    """The body of a refusal, or an event in a stream."""
    words, path = WORDS.get(error.code, KEPT), str(error.values.get("path", ""))
    shown = path if error.code == "no_route" else re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path)
    values = DEFAULTS | error.values | {"path": shown}
    message = words.wording.format(**values) if words.wording else error.message
    if not words.wording and path and message.startswith(path):
        message = shown + message[len(path) :]
    param = words.param.format(**values) or (shown if error.code != "no_route" else "")
    status = words.status or error.status
    limited = "tokens" if "tokens" in str(error.values.get("what")) else "requests"
    kind = "server_error" if status >= 500 else limited if status == 429 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param or None, "code": words.code}}


def refusal(error: SenryuError, request_id: str) -> Response:
    """A whole response; its id is in a header that every response has."""
    return json_response(error_json(error), WORDS.get(error.code, KEPT).status or error.status, VERSION_HEADERS)


@dataclass(frozen=True, slots=True)
class Places:
    """Where things stand in the body whose places in the Turn the service names.

    limit: the field that bounds the answer. messages: number of a message of the Turn -> number of its item in the list `root`.
    names: patterns of the beginnings of other paths -> what stands there in the body.
    """

    root: str = "messages"
    limit: str = "max_tokens"
    messages: Sequence[int] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    def find(self, path: str) -> str:
        """The body's path for one of the service's."""
        if found := re.match(r"messages\.(\d+)(?:\.content\.\d+(?:\.text)?)?", path):
            return self._item(int(found[1]))
        for old, new in self.names.items():
            if found := re.match(old, path):
                return found.expand(new) + path[found.end() :]
        return path

    @contextmanager
    def named(self) -> Iterator[None]:
        """Refusals of what runs inside name the body's paths."""
        try:
            yield
        except SenryuError as error:
            values = error.values | {"root": self.root, "limit": self.limit}
            if "index" in values:
                values["path"] = self._item(int(str(values["index"])))
            elif "path" in values:
                values["path"] = self.find(str(values["path"]))
            raise SenryuError(error.code, **values) from error

    def _item(self, number: int) -> str:
        return f"{self.root}.{self.messages[number]}" if number < len(self.messages) else self.root
