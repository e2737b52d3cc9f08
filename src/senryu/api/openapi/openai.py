"""The OpenAI-compatible door's operations: what chat completions, completions, responses and models take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senryu.api.openai import chat, completions, responses
from senryu.api.openai.door import Chat, ModelList, OpenAI
from senryu.api.openai.reading import HINTS, MOST_NAME, MOST_TEMPERATURE, SEEDS, Quiet
from senryu.api.openapi.words import (
    ANY,
    EVENTS,
    FLAG,
    FREE,
    NULL,
    Operation,
    Schema,
    either,
    exactly,
    json_of,
    list_of,
    map_of,
    maybe,
    nothing,
    number,
    one_of,
    path,
    ref,
    said,
    stream_of,
    takes,
    taking,
    text,
    whole,
)
from senryu.api.toolfields import NAME


def quiet(features: Quiet) -> dict[str, Schema]:
    """Fields of features that are not here."""
    return {f"{name}?": nothing(*values) for name, (_, values) in features.items()}


ARGUMENTS = said(text(), "A JSON object in a string; an empty string is one, too.")
FUNCTION: dict[str, Schema] = {
    "name": text(pattern=NAME),
    "description?": maybe(text()),
    "parameters?": maybe({"type": "object", "properties": {"type": exactly("object")}, "description": "A JSON Schema."}),
    "strict?": maybe(FLAG),
}
FORMED: dict[str, Schema] = {
    "name": text(pattern=NAME),
    "description?": maybe(text()),
    "schema?": maybe(FREE),
    "strict?": maybe(FLAG),
}
COMMON: dict[str, Schema] = {
    "model": text(1, MOST_NAME),
    "temperature?": said(maybe(number(0, MOST_TEMPERATURE)), "Over 1 it is 1: this model's scale ends there."),
    "top_p?": maybe(number(0, 1)),
    "stream?": maybe(FLAG),
    "stream_options?": said(
        maybe(takes({"include_usage?": maybe(FLAG), "include_obfuscation?": nothing(False)})), "Only with `stream`."
    ),
    **{f"{name}?": maybe(text()) for name in HINTS},
    "metadata?": maybe(map_of(text())),
}
ENDS: dict[str, Schema] = {
    "stop?": either(text(1), list_of(text(1)), NULL),
    "seed?": maybe(whole(-SEEDS, SEEDS - 1)),
}
WORD = one_of("none", "auto", "required")
PARALLEL: dict[str, Schema] = {"parallel_tool_calls?": maybe(FLAG)}
REPLAYED = ("annotations", "logprobs")  # what parts of an answer that is sent back may carry, empty
Fields = dict[str, Schema]


def parts(kinds: Mapping[str, Fields]) -> Schema:
    """Content: a string, or parts of these kinds."""
    return either(text(), list_of(taking(kinds)))


def chat_body(marker: Fields) -> Fields:
    """The body of chat completions. marker: of shapes whose texts, tools and bodies may carry one."""
    texts = {"text": {"text": text(), **marker}}
    content = parts(texts)
    own: Fields = {"name?": nothing()}
    call = {"name": text(1), "arguments": ARGUMENTS}
    said_before: Fields = {
        "content?": maybe(parts({**texts, "refusal": {"refusal": text(), **marker}})),
        "refusal?": maybe(text()),
        "tool_calls?": maybe(
            list_of(takes({"id": text(1), "type?": exactly("function"), "index?": ANY, "function": takes(call)}))
        ),
        "function_call?": maybe(takes(call)),
        **quiet(chat.UNSAID),
    }
    roles: dict[str, Fields] = {
        **dict.fromkeys((*chat.SYSTEM, "user"), own | {"content": content}),
        "assistant": own | said_before,
        "tool": {"tool_call_id": text(1), "content": content, "name?": maybe(text())},
        "function": {"name": text(1), "content": maybe(content)},
    }
    named = takes({"type": exactly("function"), "function": takes({"name": text(1)})})
    return {
        **COMMON,
        **ENDS,
        **marker,
        "messages": list_of(taking(roles, "role"), high=chat.MOST_MESSAGES),
        "max_tokens?": maybe(whole(1)),
        f"{chat.NEW_LIMIT}?": said(maybe(whole(1)), "Instead of `max_tokens`."),
        "tools?": maybe(list_of(takes({"type": exactly("function"), "function": takes(FUNCTION), **marker}))),
        "tool_choice?": either(WORD, named, NULL),
        **PARALLEL,
        "functions?": said(maybe(list_of(takes(FUNCTION))), "The old form of tools."),
        "function_call?": either(one_of("none", "auto"), takes({"name": text(1)}), NULL),
        "response_format?": maybe(taking({"text": {}, "json_object": {}, "json_schema": {"json_schema": takes(FORMED)}})),
        **quiet(chat.UNHEARD),
    }


ITEM: Fields = {"id?": maybe(text()), "status?": maybe(text())}
INPUT: dict[str, Fields] = {"input_text": {"text": text()}}
OUTPUT: dict[str, Fields] = {
    "output_text": {"text": text(), **{f"{name}?": nothing([]) for name in REPLAYED}},
    "refusal": {"refusal": text()},
}


def _message(role: str) -> Schema:
    kinds = INPUT | OUTPUT if role in responses.TEXT_PARTS else INPUT
    fields = {"role": exactly(role), "content": parts(kinds), "phase?": nothing("final_answer")}
    return takes({"type?": exactly("message"), **ITEM, **fields})


CALL: Fields = {"type": exactly("function_call"), "call_id": text(1), "name": text(1), "arguments": ARGUMENTS}
RESULT: Fields = {"type": exactly("function_call_output"), "call_id": text(1), "output": parts(INPUT)}
RESPONDED: Fields = {
    **COMMON,
    "input": either(text(), list_of(ref("ResponseItem"), high=responses.MOST_ITEMS)),
    "instructions?": maybe(text()),
    "max_output_tokens?": maybe(whole(1)),
    "tools?": maybe(list_of(takes({"type": exactly("function"), **FUNCTION}))),
    "tool_choice?": either(WORD, takes({"type": exactly("function"), "name": text(1)}), NULL),
    **PARALLEL,
    "text?": maybe(
        takes(
            {
                "format?": maybe(taking({"text": {}, "json_object": {}, "json_schema": FORMED})),
                "verbosity?": nothing("medium"),
            }
        )
    ),
    "reasoning?": maybe(
        takes({"effort?": nothing("none"), "summary?": nothing(), "generate_summary?": nothing()}),
    ),
    **quiet(responses.UNHEARD),
}
SCHEMAS: dict[str, Schema] = {
    "ChatRequest": takes(chat_body({})),
    "CompletionRequest": takes(
        {
            **COMMON,
            **ENDS,
            "prompt": either(
                text(),
                said(list_of(whole()), "Token ids."),
                said(list_of(either(text(), list_of(whole())), 1, 1), "One prompt in a list."),
            ),
            "max_tokens?": {**maybe(whole()), "default": completions.MAX_TOKENS},
            "echo?": maybe(FLAG),
            "suffix?": nothing(""),
            **quiet(completions.UNHEARD),
        }
    ),
    "ResponseRequest": takes(RESPONDED),
    "ResponseCount": takes({name: schema for name, schema in RESPONDED.items() if name.removesuffix("?") in responses.COUNTED}),
    "ResponseItem": {"oneOf": [*map(_message, responses.ROLES), takes({**ITEM, **CALL}), takes({**ITEM, **RESULT})]},
}

OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    Chat.create: Operation(
        "Answer a conversation",
        (),
        json_of(ref("ChatRequest")),
        {200: json_of(ref("ChatCompletion")) | stream_of(EVENTS, either(ref("ChatChunk"), ref("OpenAIError")))},
        "Chunks with `stream`, and [DONE] behind them.",
    ),
    OpenAI.complete: Operation(
        "Go on with a text",
        (),
        json_of(ref("CompletionRequest")),
        {200: json_of(ref("TextCompletion")) | stream_of(EVENTS, either(ref("TextChunk"), ref("OpenAIError")))},
        "Chunks with `stream`, and [DONE] behind them.",
    ),
    OpenAI.respond: Operation(
        "Answer an input",
        (),
        json_of(ref("ResponseRequest")),
        {200: json_of(ref("Response")) | stream_of(EVENTS, ref("ResponseEvent"))},
        "Typed events with `stream`. Nothing is kept between requests.",
    ),
    OpenAI.count: Operation(
        "Count the tokens of an input", (), json_of(ref("ResponseCount")), {200: json_of(ref("ResponseTokenCount"))}
    ),
    ModelList.list: Operation("List models, newest first", answers={200: json_of(ref("OpenAIModelList"))}),
    ModelList.retrieve: Operation(
        "Retrieve a model",
        (path("model_id", "The model's id, or another name of it."),),
        answers={200: json_of(ref("OpenAIModel"))},
    ),
}
