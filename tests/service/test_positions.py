"""Positions of a turn: finding them changes no token, their ends are where their text ends, their names say all that counts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.model.template import ChatTemplate
from senryu.service.positions import breakpoints, digests, ends, marked, normalised
from senryu.service.prompt import encode
from senryu.service.registry import LoadedModel
from senryu.types import (
    Block,
    CacheControl,
    Chunks,
    Document,
    Message,
    Pages,
    PlainText,
    SearchResult,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
)
from serving import TOKENIZER, scripted_model


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    made = scripted_model()
    yield made
    asyncio.run(made.engine.close())


def turn(*messages: Message, **fields: Any) -> Turn:
    return Turn("senryu-mini", messages, 8, **fields)


def user(*blocks: str | Block) -> Message:
    return Message("user", tuple(Text(block) if isinstance(block, str) else block for block in blocks))


TEXTS = st.text(max_size=8) | st.sampled_from(
    ["<|end|>", "<|en", "d|>", " ", "\n\n", "é", "日本", "a.", "\ufdd0", "1", "\ufdd00\ufdd0"]
)
MESSAGES = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), st.lists(st.builds(Text, TEXTS), max_size=3).map(tuple)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(messages=MESSAGES, system=st.lists(st.builds(Text, TEXTS), max_size=2))
def test_positions_change_no_token(model: LoadedModel, messages: list[Message], system: list[Text]) -> None:
    asked = turn(*messages, system=tuple(system))
    plain, located = encode(model, asked), encode(model, asked, {0: 300})
    assert located.ids == plain.ids
    reached = [position.end for position in located.positions]
    assert len(reached) == len(system) + sum(len(message.content) for message in messages)
    assert reached == sorted(reached)
    assert reached == [] or reached[-1] <= len(plain.ids)


def read(model: LoadedModel, asked: Turn) -> list[str]:
    """The prompt's text up to the end of each position."""
    prompt = encode(model, asked, {})
    names = {id: text for text, id in TOKENIZER.special_tokens.items()}
    return ["".join(names.get(id) or TOKENIZER.decode([id]) for id in prompt.ids[: at.end]) for at in prompt.positions]


def test_a_position_ends_where_its_text_ends(model: LoadedModel) -> None:
    asked = turn(
        user("one<|end|>", "two "),
        user("three"),
        Message("assistant", (Text("so"), Text(""), Text("far"))),
        system=(Text("S"), Text("T")),
    )
    head = "<|begin|><|system|>S\n\nT<|end|>"
    said = head + "<|user|>one<|end|>\n\ntwo"
    assert read(model, asked) == [
        "<|begin|><|system|>S",
        "<|begin|><|system|>S\n\nT",
        head + "<|user|>one<|end|>",
        said,  # white space at the end belongs to what follows
        said + " \n\nthree",
        said + " \n\nthree<|end|><|assistant|>so",
        said + " \n\nthree<|end|><|assistant|>so",  # nothing to end
        said + " \n\nthree<|end|><|assistant|>sofar",
    ]


def test_what_a_template_writes_first_is_read_before_what_follows(model: LoadedModel) -> None:
    """A template that puts the system prompt at the end, and drops what the assistant says."""
    source = (
        "{% for m in messages if m.role == 'user' %}<|user|>{{ m.content }}{% endfor %}"
        "{% for m in messages if m.role == 'system' %}<|system|>{{ m.content }}{% endfor %}<|assistant|>"
    )
    odd = replace(model, template=ChatTemplate(source, TOKENIZER.special_tokens))
    asked = turn(user("a"), Message("assistant", (Text("b"),)), user("c"), system=(Text("s"),))
    assert read(odd, asked) == ["<|user|>a<|user|>c<|system|>s"] * 4


def test_a_tool_and_a_call_end_with_their_json() -> None:
    tools = (Tool("look", {"type": "object", "properties": {}}, 'Looks "so" {.\n'), Tool("jump", {"a": {"b": "}"}}))
    call = ToolUse("toolu_1", "look", {"at": {"x": "}}"}})
    asked = turn(
        user("hi"), Message("assistant", (Text("yes"), call)), user(ToolResult("toolu_1", (Text("r"), Text(" ")))), tools=tools
    )
    source = (
        "{% for t in tools %}{{ {'type': 'function', 'function': t} | tojson }}\n{% endfor %}"
        "{% for m in messages %}{% for c in m %}"
        "[{{ c.text }}{% if c.name %}{{ {'name': c.name, 'input': c.input} | tojson }}{% endif %}]"
        "{% endfor %}{% endfor %}"
    )
    template = ChatTemplate(source, {})

    def plain(item: Any) -> dict[str, Any]:
        match item:
            case Tool():
                return {"name": item.name, "description": item.description, "parameters": item.input_schema}
            case ToolUse():
                return {"name": item.name, "input": item.input, "text": ""}
            case ToolResult():
                return {"text": "".join(plain(inner)["text"] for inner in item.content)}
        return {"text": item.text}

    def parts(of: Turn) -> tuple[list[Any], list[Any]]:
        return [[plain(block) for block in message.content] for message in of.messages], [plain(tool) for tool in of.tools]

    messages, given = parts(asked)
    text = "".join(template.render(messages, tools=given))
    messages, given = parts(marked(asked, "\ufdd5"))
    found = [text[:end] for end in ends(asked, text, template.locate(text, "\ufdd5", messages, tools=given))]
    lines = text.split("\n")
    assert found == [
        lines[0],
        "\n".join(lines[:2]),
        text[: text.index("[hi") + 3],
        text[: text.index("[yes") + 4],
        text[: text.rindex("}") + 1],
        text[:-2],  # before the white space that ends it
    ]


def test_tools_calls_and_results_in_the_bundled_template(model: LoadedModel) -> None:
    call, result = ToolUse("toolu_1", "look", {"at": {"x": 1}}), ToolResult("toolu_1", (Text("r"),))
    tools = (Tool("look", {"type": "object", "properties": {"at": {}}}, "Looks."), Tool("jump", {"type": "object"}))
    asked = turn(user("hi"), Message("assistant", (call, Text("yes"))), user(result, "and"), tools=tools, system=(Text("S"),))
    found = read(model, asked)
    assert [text.count("<|call|>") + text.count("<|result|>") for text in found] == [0, 0, 0, 0, 1, 1, 2, 2]
    assert found[0].endswith('"properties": {"at": {}}}}')
    assert found[1].startswith(found[0] + '\n{"name": "jump"')
    assert found[1].endswith('"parameters": {"type": "object"}}')
    assert found[2].endswith("<|system|>S")
    assert found[4] == found[5], "the template writes a call behind the text"
    assert found[4].endswith('{"at": {"x": 1}}}')
    assert found[6].endswith("<|result|>r")
    assert found[7].endswith("<|user|>and")


def test_a_document_ends_with_all_that_the_model_reads_of_it(model: LoadedModel) -> None:
    blocks = [Document(PlainText("text "), title="t"), Document(Pages(("one", "two"))), SearchResult("s", "t", ("x", " "))]
    found = read(model, turn(user("see", *blocks, ToolResult("toolu_1", (Text("r"), blocks[0]))), tools=(Tool("look", {}),)))
    assert [text.rsplit("<", 1)[1] for text in found[2:]] == ["/document>", "/document>", "/search_result>", "/document>"]
    assert len(set(found)) == 6


CALL = ToolUse("toolu_1", "look", {"a": 1, "b": 2})
DOCUMENT = Document(PlainText("text"), title="t")
BASE = turn(
    user("hi"),
    Message("assistant", (CALL,)),
    user(ToolResult("toolu_1", (Text("r"),)), DOCUMENT, SearchResult("s", "t", ("x",))),
    system=(Text("S"),),
    tools=(Tool("look", {"type": "object"}),),
)


def last(block: Block) -> Turn:
    return replace(
        BASE, messages=(*BASE.messages[:2], user(*BASE.messages[2].content[:1], block, *BASE.messages[2].content[2:]))
    )


@pytest.mark.parametrize(
    ("changed", "first"),
    [  # the first position whose name changes
        (replace(BASE, max_tokens=9, temperature=0.3, tenant="t"), None),
        (replace(BASE, cache=CacheControl(), system=(Text("S", CacheControl()),)), None),
        (replace(BASE, output_schema={"type": "object"}), 0),
        (replace(BASE, tools=(Tool("look", {"type": "object"}, strict=True),)), 0),
        (replace(BASE, tools=(Tool("look", {"type": "string"}),)), 0),
        (last(replace(DOCUMENT, citations=True)), 1),
        (replace(BASE, system=(Text("S"), Text("T"))), 2),
        (replace(BASE, tool_choice=ToolChoice("none")), 2),
        (replace(BASE, tool_choice=ToolChoice("tool", "look")), 2),
        (replace(BASE, tool_choice=ToolChoice(parallel=False)), 2),
        (replace(BASE, messages=(BASE.messages[0], Message("assistant", (replace(CALL, input={"b": 2, "a": 1}),)))), 3),
        (replace(BASE, messages=(BASE.messages[0], Message("user", (CALL,)))), 3),
        (last(replace(DOCUMENT, title="u")), 5),
        (last(replace(DOCUMENT, source=Chunks(("text",)))), 5),
        (last(replace(DOCUMENT, cache=CacheControl(3600))), None),
    ],
)
def test_names_change_from_where_the_cache_ends(changed: Turn, first: int | None) -> None:
    before, after = list(digests(BASE)), list(digests(changed))
    assert len({name for _, name in before}) == len(before) == 7
    same = [a == b for a, b in zip(before, after)]
    assert same == [first is None or number < first for number in range(len(same))]


def test_breakpoints_are_numbered_as_positions() -> None:
    hour = CacheControl(3600)
    tool, system = (replace(item, cache=hour) for item in (*BASE.tools, *BASE.system))
    asked = replace(last(replace(DOCUMENT, cache=CacheControl())), tools=(tool,), system=(system,))
    assert breakpoints(asked) == {0: 3600, 1: 3600, 5: 300}
    assert breakpoints(replace(asked, cache=CacheControl())) == {0: 3600, 1: 3600, 5: 300, 6: 300}
    assert breakpoints(replace(asked, messages=(Message("assistant", ()),), cache=hour)) == {0: 3600, 1: 3600}


def test_only_the_nonce_of_a_first_billing_header_is_normalised() -> None:
    header = "x-anthropic-billing-header: cc_version=2.1; cc_entrypoint=cli; cch={};"
    asked = turn(user("hi"), system=(Text(header.format("a1b2c"), CacheControl()), Text(header.format("zz"))))
    assert normalised(asked).system == (Text(header.format("0"), CacheControl()), Text(header.format("zz")))
    assert normalised(replace(asked, system=(Text("cch=1;"),))).system == (Text("cch=1;"),)
