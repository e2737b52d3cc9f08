"""Reference 3.9 and 5: documents, search results, and the citations of answers."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from asking import HAIKU, SCHEMA, Asked, body, text

from senryu.engine.interface import TokenRequest
from serving import END, TOKENIZER, scripted_model, serving

GRASS, SKY = "The grass is green.", "The sky is blue on sunny days."
FACTS = f"{GRASS} {SKY} Water boils at one hundred degrees."
ANSWER = f"Here is what I found. {SKY}"
ON = {"enabled": True}


@pytest.fixture(scope="module")
def model() -> Iterator[Asked]:
    def reply(request: TokenRequest) -> list[int]:
        return [*TOKENIZER.encode(ANSWER), END]

    with serving(scripted_model(reply)) as url:
        yield Asked(url)


def document(source: Any = None, **fields: Any) -> dict[str, Any]:
    plain = {"type": "text", "media_type": "text/plain", "data": FACTS}
    return {"type": "document", "source": source or plain, "citations": ON, **fields}


def search_result(*texts: str, **fields: Any) -> dict[str, Any]:
    content = [text(one) for one in texts or (GRASS, SKY)]
    return {
        "type": "search_result",
        "source": "https://x/facts",
        "title": "Facts",
        "content": content,
        "citations": ON,
        **fields,
    }


def asking(*blocks: Any, **fields: Any) -> dict[str, Any]:
    return body(max_tokens=400, messages=[{"role": "user", "content": [*blocks, text("What colour is the sky?")]}], **fields)


def citations(message: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for block in message["content"] for one in block.get("citations") or ()]


def test_a_plain_document_is_cited_by_characters(model: Asked) -> None:
    message = model.message(asking(document(title="Facts", context="Not to be cited")))
    (one,) = citations(message)
    start, end = one.pop("start_char_index"), one.pop("end_char_index")
    assert FACTS[start:end].strip() == one["cited_text"].strip() == SKY
    assert FACTS[start:end] == one.pop("cited_text")
    assert one == {"type": "char_location", "document_index": 0, "document_title": "Facts", "file_id": None}


def test_the_texts_of_all_blocks_are_the_answer(model: Asked) -> None:
    message = model.message(asking(document()))
    assert "".join(block["text"] for block in message["content"]) == ANSWER
    assert message["content"][-1]["citations"]
    assert not message["content"][0].get("citations")


def test_a_document_in_blocks_is_cited_by_blocks(model: Asked) -> None:
    (one,) = citations(model.message(asking(document({"type": "content", "content": [text(GRASS), text(SKY)]}))))
    assert one == {
        "type": "content_block_location",
        "cited_text": SKY,
        "document_index": 0,
        "document_title": None,
        "file_id": None,
        "start_block_index": 1,
        "end_block_index": 2,
    }


def test_a_search_result_is_cited_by_its_source(model: Asked) -> None:
    (one,) = citations(model.message(asking(search_result())))
    assert one == {
        "type": "search_result_location",
        "cited_text": SKY,
        "search_result_index": 0,
        "source": "https://x/facts",
        "title": "Facts",
        "start_block_index": 1,
        "end_block_index": 2,
    }


def test_documents_are_counted_over_all_messages(model: Asked) -> None:
    other = document({"type": "text", "media_type": "text/plain", "data": "Snow falls in winter."})
    history = [{"role": "user", "content": [other, text()]}, {"role": "assistant", "content": "Yes."}]
    value = asking(document())
    (one,) = citations(model.message({**value, "messages": [*history, *value["messages"]]}))
    assert one["document_index"] == 1


def test_a_search_result_of_a_tool(model: Asked) -> None:
    use = {"type": "tool_use", "id": "toolu_1", "name": "find", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [search_result()]}
    value = body(
        max_tokens=400,
        tools=[{"name": "find", "input_schema": {"type": "object", "properties": {}}}],
        tool_choice={"type": "none"},
        messages=[
            {"role": "user", "content": "?"},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ],
    )
    assert [one["type"] for one in citations(model.message(value))] == ["search_result_location"]


def test_nothing_is_cited_where_nobody_asked(model: Asked) -> None:
    for enabled in (None, {}, {"enabled": False}):
        message = model.message(asking(document(citations=enabled), search_result(citations=enabled or {})))
        assert citations(message) == []
        assert [block["text"] for block in message["content"]] == [ANSWER]


def test_citations_are_free(model: Asked) -> None:
    cited, plain = model.message(asking(document())), model.message(asking(document(citations={"enabled": False})))
    assert cited["usage"]["output_tokens"] == plain["usage"]["output_tokens"]
    answered = {"role": "assistant", "content": cited["content"]}
    bare = {"role": "assistant", "content": [{"type": "text", "text": block["text"]} for block in cited["content"]]}

    def counted(answer: Any) -> int:
        value = asking(document())
        value["messages"] += [answer, {"role": "user", "content": "And?"}]
        del value["max_tokens"]
        number: int = model.post(value, "/v1/messages/count_tokens").json()["input_tokens"]
        return number

    assert counted(answered) == counted(bare)


def test_a_stream_brings_a_delta_for_each_citation(model: Asked) -> None:
    events, message = model.events(asking(document())), model.message(asking(document()))
    blocks: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], blocks[event["index"]]
            if delta["type"] == "citations_delta":
                block["citations"] = [*block.get("citations", ()), delta["citation"]]
            else:
                block["text"] += delta["text"]
    assert blocks == message["content"]


def test_citations_are_on_for_all_or_none(model: Asked) -> None:
    off = {"enabled": False}
    for pair in ((document(), document(citations=off)), (search_result(), search_result(citations=off))):
        assert "citations" in model.refusal(asking(*pair))


def test_citations_go_not_with_a_schema(model: Asked) -> None:
    schema = {**SCHEMA, "additionalProperties": False}
    config = {"format": {"type": "json_schema", "schema": schema}}
    assert "citations" in model.refusal(asking(document(), output_config=config))


def test_a_pdf_that_is_none(model: Asked) -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"no pdf").decode()}
    assert "messages.0.content.0" in model.refusal(asking(document(source)))


def test_a_file_that_is_not_there(model: Asked) -> None:
    response = model.post(asking(document({"type": "file", "file_id": "file_none"})))
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_counting_is_what_an_answer_takes(model: Asked) -> None:
    value = asking(document(title="Facts", context="c"), search_result())
    counted = {key: part for key, part in value.items() if key != "max_tokens"}
    used = model.message(value)["usage"]["input_tokens"]
    assert model.post(counted, "/v1/messages/count_tokens").json() == {"input_tokens": used}
    assert used > len(FACTS)
    assert model.message(value)["model"] == HAIKU
