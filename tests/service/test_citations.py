"""Citations in the stream of an answer: blocks, their order, the text whole, and when a turn may be cited at all."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdfs import pdf
from senryu.api.wire import block_json
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.service import citations
from senryu.service.attribution import Attribution, Passage
from senryu.service.citations import Citer, check_citations, citer
from senryu.service.registry import Registry
from senryu.service.turn import Service
from senryu.types import (
    Block,
    BlockStarted,
    BlockStopped,
    Chunks,
    Citation,
    CitationDelta,
    Document,
    Event,
    Finished,
    Message,
    Pdf,
    PlainText,
    SearchResult,
    Started,
    Text,
    TextDelta,
    ToolResult,
    ToolUse,
    Turn,
)
from serving import Reply, says, scripted_model

FACTS = "The grass is green. The sky is blue.\nWater boils at 100 degrees."
GRASS = Citation("char_location", "The grass is green.", 0, 0, 19)
SKY = Citation("char_location", "The sky is blue.", 0, 20, 36)
INDEX = Attribution([Passage("char_location", FACTS, 0)])


def turn(*content: Block, **fields: object) -> Turn:
    return Turn(**{"model": "senryu-mini", "messages": (Message("user", content),), "max_tokens": 300, **fields})  # type: ignore[arg-type]


def events(reply: Reply, asked: Turn) -> list[Event]:
    async def collect() -> list[Event]:
        model = scripted_model(reply)
        try:
            async with aclosing(Service(Registry([model]), Settings(home=Path("unused"))).run(asked)) as stream:
                return [event async for event in stream]
        finally:
            await model.engine.close()

    return asyncio.run(collect())


def text_events(*pieces: str) -> list[Event]:
    """What an answer of one block gives."""
    text = "".join(pieces)
    return [BlockStarted(Text("")), *map(TextDelta, filter(None, pieces)), BlockStopped(Text(text))] if text else []


def cited(pieces: Sequence[str], before: str = "") -> list[Event]:
    one = Citer(INDEX, before)
    return [out for event in text_events(*pieces) for out in one.push([event])]


def blocks(stream: Sequence[Event]) -> list[Text | ToolUse]:
    return [event.block for event in stream if isinstance(event, BlockStopped)]


def test_a_cited_sentence_is_a_block_of_its_own() -> None:
    answer = events(
        says("Well. But the grass is green. Hm.\nThe sky is blue.\n"),
        turn(Document(PlainText(FACTS), citations=True)),
    )
    assert isinstance(answer[0], Started)
    assert isinstance(answer[-1], Finished)
    assert answer[-1].usage.output_tokens == 52  # a token a byte and the stop: citing costs none
    assert answer[1:-1] == [
        BlockStarted(Text("")),
        TextDelta("Well."),
        BlockStopped(Text("Well.")),
        BlockStarted(Text("")),
        TextDelta(" But the grass is green."),
        CitationDelta(GRASS),
        BlockStopped(Text(" But the grass is green.", citations=(GRASS,))),
        BlockStarted(Text("")),
        TextDelta(" Hm."),
        BlockStopped(Text(" Hm.")),
        BlockStarted(Text("")),
        TextDelta("\nThe sky is blue."),
        CitationDelta(SKY),
        TextDelta("\n"),
        BlockStopped(Text("\nThe sky is blue.\n", citations=(SKY,))),
    ]


def test_without_citations_the_stream_is_untouched() -> None:
    answer = events(says("The grass is green. So."), turn(Document(PlainText(FACTS))))
    assert blocks(answer) == [Text("The grass is green. So.")]


def test_every_kind_of_source_and_its_place() -> None:
    search = SearchResult("https://cats.example", "Cats", ("Cats are fine.", "Cats sleep sixteen hours."), citations=True)
    asked = turn(
        Document(PlainText(FACTS), title="Facts", citations=True),
        max_tokens=600,
        messages=(
            Message("user", (Document(PlainText(FACTS), title="Facts", citations=True), search)),
            Message("assistant", (ToolUse("toolu_1", "find", {}),)),
            Message(
                "user",
                (ToolResult("toolu_1", (Document(Chunks(("Zero.", "Bees dance to tell the way.")), citations=True), search)),),
            ),
            Message(
                "user", (Document(Pdf(pdf(["Nothing."], ["A page on dogs.", "Dogs bark at strangers."])), citations=True),)
            ),
        ),
    )
    said = "The grass is green. Bees dance to tell the way. Cats sleep sixteen hours. Dogs bark at strangers."
    found = [citation for block in blocks(events(says(said), asked)) if isinstance(block, Text) for citation in block.citations]
    assert found == [
        Citation("char_location", "The grass is green.", 0, 0, 19, "Facts"),
        Citation("content_block_location", "Bees dance to tell the way.", 1, 1, 2),
        Citation("search_result_location", "Cats sleep sixteen hours.", 0, 1, 2, "Cats", "https://cats.example"),
        Citation("page_location", "Dogs bark at strangers.", 2, 2, 3),
    ]
    assert [block_json(Text("x", citations=(one,)))["citations"][0]["type"] for one in found] == [one.kind for one in found]


def test_text_waits_for_its_sentence_alone() -> None:
    one = Citer(INDEX)
    assert list(one.push([BlockStarted(Text("")), TextDelta("Well. The grass")])) == [
        BlockStarted(Text("")),
        TextDelta("Well."),
    ]
    assert list(one.push([TextDelta(" is green."), TextDelta("\n")])) == []
    assert [type(event) for event in one.push([TextDelta("So")])] == [BlockStopped, BlockStarted, TextDelta, CitationDelta]


def test_calls_pass_between_texts() -> None:
    call = ToolUse("toolu_1", "find", {})
    stream = [*text_events("The grass is green."), BlockStarted(call), BlockStopped(call), *text_events("The sky", " is blue")]
    out = list(Citer(INDEX).push(stream))
    assert blocks(out) == [
        Text("The grass is green.", citations=(GRASS,)),
        call,
        Text("The sky is blue", citations=(SKY,)),
    ]


def test_a_sentence_that_the_caller_began() -> None:
    asked = turn(
        messages=(
            Message("user", (Document(PlainText(FACTS), citations=True),)),
            Message("assistant", (Text("Well. The grass"),)),
        )
    )
    assert blocks(events(says(" is green."), asked)) == [Text(" is green.", citations=(GRASS,))]
    assert blocks(cited([" is green."], before="")) == [Text(" is green.")]


PIECES = ["The grass is green", ".", " ", "\n", "\n\n", "The sky is blue. ", "No!", "Hm", " Water boils at 100 degrees"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=15), st.data())
def test_blocks_are_the_text_however_it_arrives(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=8)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)])]
    out = cited(pieces)
    found = blocks(out)
    assert found == blocks(cited([text]))
    assert "".join(block.text for block in found if isinstance(block, Text)) == text
    assert "".join(event.text for event in out if isinstance(event, TextDelta)) == text
    assert all(not text.strip() or (isinstance(block, Text) and block.text.strip()) for block in found)
    state: list[Event] = []
    for event in out:  # every block starts empty, and stops with what its deltas said
        if isinstance(event, BlockStopped):
            assert state[0] == BlockStarted(Text(""))
            said = "".join(part.text for part in state if isinstance(part, TextDelta))
            assert event.block == Text(
                said, citations=tuple(part.citation for part in state if isinstance(part, CitationDelta))
            )
            state = []
        else:
            state.append(event)
    assert state == []


def test_cited_blocks_in_the_history_are_only_text() -> None:
    document = Document(PlainText(FACTS), citations=True)
    plain, cited = (
        turn(
            messages=(
                Message("user", (document,)),
                Message("assistant", (Text("Well."), Text(" The grass is green.", citations=found))),
                Message("user", (Text("And?"),)),
            )
        )
        for found in ((), (GRASS,))
    )
    prompts = []
    for asked in (plain, cited):
        events(lambda request: prompts.append(request.ids) or says("So.")(request), asked)
    assert prompts[0] == prompts[1]


def refused(asked: Turn) -> SenryuError:
    with pytest.raises(SenryuError) as caught:
        events(says("no"), asked)
    return caught.value


def test_all_or_none_of_the_documents() -> None:
    on, off = Document(PlainText("a"), citations=True), Document(PlainText("b"))
    found, hidden = SearchResult("s", "t", ("x",), citations=True), SearchResult("s", "t", ("x",))
    asked = Message("user", (Text("?"), on)), Message("assistant", (ToolUse("toolu_1", "find", {}),))
    error = refused(turn(messages=(*asked, Message("user", (ToolResult("toolu_1", (off,)),)))))
    assert (error.status, error.code) == (400, "citations_mixed")
    assert error.message.startswith(
        "messages.2.content.0.content.0.citations: citations must be enabled on all or none of the documents"
    )
    assert "search results" in refused(turn(found, hidden)).message
    assert check_citations(turn(on, hidden))
    assert check_citations(turn(off, found))
    assert not check_citations(turn(off, hidden))


def test_not_with_structured_output() -> None:
    assert refused(turn(Document(PlainText("a"), citations=True), output_schema={"type": "object"})).code == "citations_format"


def test_long_sources_are_indexed_beside_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(citations, "INLINE_CHARACTERS", 10)
    one = asyncio.run(citer(turn(Document(PlainText(FACTS), citations=True))))
    assert one is not None
    assert blocks(list(one.push(text_events("The sky is blue.")))) == [Text("The sky is blue.", citations=(SKY,))]
