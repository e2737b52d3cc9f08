"""Bodies: what is accepted, and the exact words of what is not."""

from __future__ import annotations

from typing import Any

import pytest

from senryu.api.body import decode_json
from senryu.api.parse import Parser
from senryu.api.wire import V2023, V2026
from senryu.errors import SenryuError
from senryu.service.rules import check
from senryu.types import CacheControl, Message, Text

HAIKU = "claude-3-5-haiku-20241022"
USER = {"role": "user", "content": "Hi"}
EPHEMERAL = {"type": "ephemeral"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "claude-3-5-haiku-latest", "max_tokens": 10, "messages": [USER], **fields}


def parser(version: str = V2023) -> Parser:
    return Parser(version, lambda name: HAIKU if name == "claude-3-5-haiku-latest" else name)


def refusal(value: Any, version: str = V2023) -> str:
    with pytest.raises(SenryuError) as caught:
        check(parser(version).create(value).turn)
    assert caught.value.status == 400
    return str(caught.value)


def said(content: Any, role: str = "user") -> dict[str, Any]:
    return body(messages=[{"role": role, "content": content}])


def text(value: Any = "x", **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **fields}


def test_everything_that_is_accepted() -> None:
    asked = parser().create(
        body(
            system=[text("Be brief", cache_control={"type": "ephemeral", "ttl": "1h"})],
            messages=[USER, {"role": "assistant", "content": [text("A", citations=None), text("B", cache_control=EPHEMERAL)]}],
            stop_sequences=["END"],
            stream=True,
            temperature=0,
            top_p=1.0,
            top_k=5,
            metadata={"user_id": "u" * 256},
            service_tier="standard_only",
            thinking={"type": "disabled"},
            tools=[],
            container=None,
        )
    )
    assert asked.stream
    turn = asked.turn
    assert turn.messages == (
        Message("user", (Text("Hi"),)),
        Message("assistant", (Text("A"), Text("B", cache=CacheControl(300)))),
    )
    assert turn.system == (Text("Be brief", cache=CacheControl(3600)),)
    assert (turn.temperature, turn.top_p, turn.top_k, turn.max_tokens, turn.stop_sequences) == (0, 1, 5, 10, ("END",))


def test_defaults() -> None:
    turn = parser().create(body()).turn
    assert (turn.temperature, turn.top_p, turn.top_k, turn.system, turn.stop_sequences) == (1.0, 0.99, 0, (), ())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "body: Input should be a valid dictionary"),
        ({}, "model: Field required"),
        ({"model": "m"}, "max_tokens: Field required"),
        ({"model": "m", "max_tokens": 1}, "messages: Field required"),
        (body(model=1), "model: Input should be a valid string"),
        (body(model=""), "model: String should have at least 1 character"),
        (body(model="m" * 257), "model: String should have at most 256 characters"),
        (body(max_tokens="1"), "max_tokens: Input should be a valid integer"),
        (body(max_tokens=True), "max_tokens: Input should be a valid integer"),
        (body(max_tokens=1.5), "max_tokens: Input should be a valid integer, got a number with a fractional part"),
        (body(max_tokens=-1), "max_tokens: Input should be greater than or equal to 0"),
        (body(messages=[]), "messages: at least one message is required"),
        (body(messages="Hi"), "messages: Input should be a valid list"),
        (body(messages=["Hi"]), "messages.0: Input should be a valid dictionary"),
        (body(messages=[{"content": "x"}]), "messages.0.role: Field required"),
        (body(messages=[{"role": "user"}]), "messages.0.content: Field required"),
        (body(messages=[{"role": "tool", "content": "x"}]), "messages.0.role: Input should be 'user' or 'assistant'"),
        (
            body(messages=[{"role": "system", "content": "x"}]),
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, '
            'not "system" as an input message role.',
        ),
        (body(messages=[{**USER, "name": "x"}]), "messages.0.name: Extra inputs are not permitted"),
        (said(7), "messages.0.content: Input should be a valid list"),
        (said([7]), "messages.0.content.0: Input should be a valid dictionary"),
        (said([{"text": "x"}]), "messages.0.content.0.type: Field required"),
        (said([{"type": "text"}]), "messages.0.content.0.text.text: Field required"),
        (said([text(None)]), "messages.0.content.0.text.text: Input should be a valid string"),
        (said([text(x=1)]), "messages.0.content.0.text.x: Extra inputs are not permitted"),
        (said([{"type": "image", "source": {}}]), f"'{HAIKU}' does not support image input."),
        (
            said([{"type": "container_upload"}]),
            "messages.0.content.0: blocks of type 'container_upload' are not supported by this server yet. "
            "Remove it and try again.",
        ),
        (said(""), "messages.0: all messages must have non-empty content except for the optional final assistant message"),
        (said([]), "messages.0: all messages must have non-empty content except for the optional final assistant message"),
        (said([text("")]), "messages: text content blocks must be non-empty"),
        (said(" \n"), "messages: text content blocks must contain non-whitespace text"),
        (said([text(" ")]), "messages: text content blocks must contain non-whitespace text"),
        (said("Sure, ", "assistant"), "messages: final assistant content cannot end with trailing whitespace"),
        (said([text("a"), text("b\n")], "assistant"), "messages: final assistant content cannot end with trailing whitespace"),
        (body(system=7), "system: Input should be a valid list"),
        (body(system=[text("")]), "system: text content blocks must be non-empty"),
        (body(system=[{"type": "image"}]), "system.0.type: Input should be 'text'"),
        (body(system=[{"type": "text"}]), "system.0.text: Field required"),
        (body(temperature=1.1), "temperature: range: 0..1"),
        (body(temperature="hot"), "temperature: Input should be a valid number"),
        (body(temperature=None), "temperature: Input should be a valid number"),
        (body(temperature=10**400), "temperature: Input should be a valid number"),
        (body(top_p=-0.1), "top_p: range: 0..1"),
        (body(top_k=-1), "top_k: Input should be greater than or equal to 0"),
        (body(stream="yes"), "stream: Input should be a valid boolean"),
        (body(stop_sequences="x"), "stop_sequences: Input should be a valid list"),
        (body(stop_sequences=[1]), "stop_sequences.0: Input should be a valid string"),
        (body(stop_sequences=["a", "\n"]), "stop_sequences: each stop sequence must contain non-whitespace"),
        (body(stop_sequences=[""]), "stop_sequences: each stop sequence must contain non-whitespace"),
        (
            body(stop_sequences=["x" * 20_001]),
            "stop_sequences: 20001 characters in all > 20000, which is the most that this server watches for",
        ),
        (body(metadata={"user_id": "u" * 257}), "metadata.user_id: String should have at most 256 characters"),
        (body(metadata={"x": 1}), "metadata.x: Extra inputs are not permitted"),
        (body(service_tier="batch"), "service_tier: Input should be 'auto' or 'standard_only'"),
        (body(thinking={"type": "enabled", "budget_tokens": 1024}), f"'{HAIKU}' does not support thinking."),
        (body(thinking={"type": "x"}), "thinking.type: Input should be 'enabled', 'disabled' or 'adaptive'"),
        (body(tool_choice={"type": "auto"}), "tool_choice may only be specified while providing tools."),
        (body(mcp_servers=[{}]), "mcp_servers: MCP servers are not supported by this server yet. Remove it and try again."),
        (body(container="c"), "container: containers are not supported by this server yet. Remove it and try again."),
        (body(output_config={"effort": "low"}), "This model does not support the effort parameter."),
        (body(foo=1), "foo: Extra inputs are not permitted"),
        (body(**{"x" * 1000: 1}), "x" * 128 + ": Extra inputs are not permitted"),
    ],
)
def test_refusals(value: Any, message: str) -> None:
    assert refusal(value) == message


def test_an_unknown_block_names_the_known_ones() -> None:
    message = refusal(said([{"type": "sound"}]))
    assert message.startswith(
        "messages.0.content.0: Input tag 'sound' found using 'type' does not match any of the expected tags: 'bash_code"
    )


def test_an_empty_last_assistant_message_is_accepted() -> None:
    for content in ("", []):
        messages = [USER, {"role": "assistant", "content": content}]
        assert parser().create(body(messages=messages)).turn.messages[1] == Message("assistant", ())
    messages = [{"role": "assistant", "content": ""}, USER]
    assert refusal(body(messages=messages)).startswith("messages.0: all messages must have non-empty content")


@pytest.mark.parametrize("field", ["temperature", "top_p", "top_k"])
def test_the_new_version_does_not_know_sampling(field: str) -> None:
    assert refusal(body(**{field: 1}), V2026) == f"{field}: Extra inputs are not permitted"
    parser(V2026).create(body())


def test_citations_on_text() -> None:
    cited = said([text(citations=[{"type": "char_location"}])])
    assert refusal(cited, V2026) == "messages.0.content.0.text.citations: Extra inputs are not permitted"
    assert refusal(cited) == "messages.0.content.0.text.citations.0.char_location.cited_text: Field required"
    parser(V2026).create(said([text(citations=[])]))


@pytest.mark.parametrize(
    ("marker", "message"),
    [
        ({}, "messages.0.content.0.text.cache_control.type: Field required"),
        (
            {"type": "x"},
            "messages.0.content.0.text.cache_control: Input tag 'x' found using 'type' does not match any of the expected "
            "tags: 'ephemeral'",
        ),
        (
            {"type": "ephemeral", "ttl": "1d"},
            "messages.0.content.0.text.cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
        ),
        (
            {"type": "ephemeral", "scope": "x"},
            "messages.0.content.0.text.cache_control.ephemeral.scope: Extra inputs are not permitted",
        ),
    ],
)
def test_cache_markers_are_checked(marker: dict[str, Any], message: str) -> None:
    assert refusal(said([text(cache_control=marker)])) == message


def test_cache_markers_as_a_whole() -> None:
    five = [text(cache_control=EPHEMERAL)] * 5
    assert refusal(said(five)) == "A maximum of 4 blocks with cache_control may be provided. Found 5."
    assert refusal(said([text("", cache_control=EPHEMERAL)])) == (
        "messages.0.content.0.text: cache_control cannot be set for empty text blocks"
    )
    hour = text(cache_control={"type": "ephemeral", "ttl": "1h"})
    parser().create(body(system=[hour], messages=[{"role": "user", "content": [hour, five[0]]}]))
    assert refusal(body(system=five[:1], messages=[{"role": "user", "content": [text(), hour]}])) == (
        "messages.0.content.1.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' "
        "cache_control block. Note that blocks are processed in the following order: `tools`, `system`, `messages`."
    )


def test_count_tokens_knows_no_answer() -> None:
    counted = {key: value for key, value in body(system="s").items() if key != "max_tokens"}
    assert parser().count(counted).system == (Text("s"),)
    for name in ("max_tokens", "stream", "temperature", "stop_sequences"):
        with pytest.raises(SenryuError, match=f"^{name}: Extra inputs are not permitted$"):
            parser().count({**counted, name: 1})


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "Expecting value: line 1 column 1 (char 0)"),
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b'{"a": 1} x', "Extra data: line 1 column 10 (char 9)"),
        (b'{"a": NaN}', "NaN is not a JSON number"),
        (b'{"a": -Infinity}', "-Infinity is not a JSON number"),
        (b'{"a": 1e999}', "a number is out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number has too many digits"),
        (b'{"a": 1, "a": 2}', 'repeated key "a"'),
        (b'{"a": "\xff"}', "invalid start byte (byte 7)"),
        (b'{"a": "\xed\xa0\x80"}', "invalid continuation byte (byte 7)"),
        (b'{"a": "x\\ud83d!"}', "no low surrogate in string: line 1 column 9 (char 8)"),
        (b'{"a": "\\udc00"}', "invalid high surrogate in string: line 1 column 8 (char 7)"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_not_json(raw: bytes, why: str) -> None:
    with pytest.raises(SenryuError) as caught:
        decode_json(raw)
    assert (caught.value.status, str(caught.value)) == (400, f"The request body is not valid JSON: {why}")


def test_surrogate_pairs_and_escaped_backslashes_are_text() -> None:
    assert decode_json(b'"\\ud83d\\ude00 \\\\ud83d"') == "\U0001f600 \\ud83d"
