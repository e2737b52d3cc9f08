"""Rows in both forms become the ids that a server would read, and only what an assistant says is taught."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.model import vocabularies

from senryu.model.template import ChatTemplate
from senryu.model.tokenizer import Tokenizer
from senryu.service.calls import detect
from senryu.service.prompt import template_inputs
from senryu.train.conversations import Conversation, Encoder, Sample, read_conversations
from senryu.train.recipe import RecipeError

TEMPLATES = Path(__file__).parents[1] / "model" / "templates"
ENDS = {"chatml": "<|im_end|>", "headers": "<|eot_id|>", "inst": "</s>"}
SCHEMA = {"type": "object", "properties": {"place": {"type": "string"}}}
MESSAGES_ROW = {
    "task": "a note",
    "system": "Use the tools.",
    "messages": [
        {"role": "user", "content": "Is the harbour open?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "hours", "input": {"place": "harbour"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "until six"}]},
        {"role": "assistant", "content": "Yes, until six."},
    ],
    "tools": [{"name": "hours", "description": "Opening hours.", "input_schema": SCHEMA}],
}
CALL = {"id": "c1", "type": "function", "function": {"name": "hours", "arguments": '{"place": "harbour"}'}}
OPENAI_ROW = {
    "messages": [
        {"role": "system", "content": "Use the tools."},
        {"role": "user", "content": "Is the harbour open?"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "until six"},
        {"role": "assistant", "content": "Yes, until six."},
    ],
    "tools": [{"type": "function", "function": {"name": "hours", "description": "Opening hours.", "parameters": SCHEMA}}],
}
PLAIN = {"messages": [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "world"}]}


def tokenizer(end: str) -> Tokenizer:
    backend = vocabularies.backend("byte level")
    return Tokenizer(backend, [backend.token_to_id(end)])


def encoder(name: str, template: str | None = None, end: str | None = None) -> tuple[Encoder, Tokenizer]:
    ids = tokenizer(end or ENDS[name])
    text = (TEMPLATES / f"{name}.jinja").read_text() if template is None else template
    return Encoder(name, ChatTemplate(text, ids.special_tokens, {"bos_token": "<s>", "eos_token": "</s>"}), ids), ids


def read(path: Path, *rows: Any) -> list[Conversation]:
    file = path / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return read_conversations(file)


def taught(sample: Sample, ids: Tokenizer) -> list[str]:
    """The texts of the runs of taught ids, special tokens written out."""
    names = {id: text for text, id in ids.special_tokens.items()}
    runs, before = list[str](), False
    for id, wanted in zip(sample.ids.tolist(), sample.taught.tolist(), strict=True):
        if wanted:
            text = names.get(id) or ids.token_bytes(id).decode()
            runs = [*runs[:-1], runs[-1] + text] if before else [*runs, text]
        before = wanted
    return runs


def test_both_forms_of_rows_are_the_same_conversation(tmp_path: Path) -> None:
    ours, theirs = read(tmp_path, MESSAGES_ROW, OPENAI_ROW)
    assert ours.turn == theirs.turn
    assert (ours.where, theirs.where) == ("rows.jsonl, line 1", "rows.jsonl, line 2")


@pytest.mark.parametrize(
    ("name", "call"),
    [  # the small vocabulary joins the two line breaks that end a prompt of `headers`, so it takes two samples
        ("chatml", '<tool_call>\n{"name": "hours", "arguments": {"place": "harbour"}}\n</tool_call><|im_end|>'),
        ("headers", '{"name": "hours", "parameters": {"place": "harbour"}}<|eot_id|>'),
    ],
)
def test_only_answers_with_their_end_are_taught(tmp_path: Path, name: str, call: str) -> None:
    encode, ids = encoder(name)
    samples = encode.samples(read(tmp_path, MESSAGES_ROW)[0])
    assert [text for sample in samples for text in taught(sample, ids)] == [call, f"Yes, until six.{ENDS[name]}"]
    assert len(samples) == {"chatml": 1, "headers": 2}[name]


@pytest.mark.parametrize("name", ENDS)
def test_before_an_answer_stands_what_the_server_reads(tmp_path: Path, name: str) -> None:
    encode, ids = encoder(name)
    (conversation,) = read(tmp_path, MESSAGES_ROW)
    *_, last = encode.samples(conversation)
    asked = int(np.flatnonzero(~last.taught)[-1]) + 1
    text = (TEMPLATES / f"{name}.jinja").read_text()
    template = ChatTemplate(text, ids.special_tokens, {"bos_token": "<s>", "eos_token": "</s>"})
    turn = conversation.turn
    before = type(turn)("", turn.messages[:-1], 1, turn.system, turn.tools)
    messages, tools, how = template_inputs(before, detect(text))
    assert last.ids[:asked].tolist() == ids.encode_rendered(template.render(messages, tools=tools, **how))


def test_a_template_that_writes_earlier_answers_otherwise_is_taught_answer_by_answer(tmp_path: Path) -> None:
    """This one drops the thoughts of earlier answers: each is taught behind the prompt that asks for it."""
    encode, ids = encoder("chatml")
    said = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "<think>a</think>first"}]
    more = [{"role": "user", "content": "two"}, {"role": "assistant", "content": "<think>b</think>second"}]
    first, second = encode.samples(read(tmp_path, {"messages": said + more})[0])
    assert taught(first, ids) == ["<think>a</think>first<|im_end|>"]
    assert taught(second, ids) == ["<think>b</think>second<|im_end|>"]
    assert "first" in ids.decode(second.ids)
    assert "<think>a" not in ids.decode(second.ids)


def test_an_answer_of_weight_0_is_read_and_not_taught(tmp_path: Path) -> None:
    encode, ids = encoder("chatml")
    answers = [{"role": "assistant", "content": "wrong", "weight": 0}, {"role": "assistant", "content": "right", "weight": 1}]
    row = {"messages": [{"role": "user", "content": "a"}, answers[0], {"role": "user", "content": "b"}, answers[1]]}
    (sample,) = encode.samples(read(tmp_path, row)[0])
    assert taught(sample, ids) == ["right<|im_end|>"]
    assert "wrong" in ids.decode(sample.ids)


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path) -> None:
    encode, ids = encoder("chatml")
    row = {"messages": [{"role": "user", "content": "say"}, {"role": "assistant", "content": "<|im_end|> ends it"}]}
    (sample,) = encode.samples(read(tmp_path, row)[0])
    assert taught(sample, ids) == ["<|im_end|> ends it<|im_end|>"]
    assert np.count_nonzero(sample.ids[sample.taught] == ids.special_tokens["<|im_end|>"]) == 1


def test_packed_files_and_empty_lines_are_read(tmp_path: Path) -> None:
    with lzma.open(tmp_path / "rows.jsonl.xz", "wt") as out:
        out.write(json.dumps(PLAIN) + "\n\n" + json.dumps(PLAIN) + "\n")
    assert len(read_conversations(tmp_path / "rows.jsonl.xz")) == 2


def messages(*said: Any) -> dict[str, Any]:
    return {"messages": list(said)}


USER, ASSISTANT = PLAIN["messages"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: the line is no JSON"),
        ([1], "this is no conversation; a line looks like"),
        ({"prompt": "a", "completion": "b"}, "this is no conversation"),
        (messages(), "does not end with an answer"),
        (messages(USER), "does not end with an answer"),
        (messages(ASSISTANT), "at least one message is required"),
        (messages({"role": "human", "content": "a"}, ASSISTANT), "role 'human' is unknown; use user or assistant"),
        (messages(USER, {**USER, "role": "system"}, ASSISTANT), "stands before all others"),
        (messages({**USER, "audio": "x"}, ASSISTANT), "audio is not known here; known are role, content"),
        (messages({**USER, "content": [{"type": "image", "source": {}}]}, ASSISTANT), "type 'image' cannot stand here"),
        (messages({**USER, "content": 7}, ASSISTANT), "neither a text nor a list of blocks"),
        (messages({**USER, "content": " "}, ASSISTANT), "non-whitespace"),
        (messages(USER, {**ASSISTANT, "content": " "}), "the assistant says nothing"),
        (messages(USER, {**ASSISTANT, "weight": 2}), "weight 2 is neither 0"),
        (messages(USER, {**ASSISTANT, "weight": 0}), "nothing is taught"),
        (messages(USER, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}]}),
         "arguments is no JSON"),
        (messages(USER, {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "[]"}}]}),
         "the arguments of a call are an object"),
        (messages(*OPENAI_ROW["messages"][1:3], USER, ASSISTANT), "without `tool_result` blocks"),
        ({**PLAIN, "tool_choice": "auto"}, "tool_choice is nothing that can be taught"),
        ({**PLAIN, "tools": [{"name": "f", "input_schema": 3}]}, "schema of a tool's input is an object"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_what_is_wrong(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=r"rows\.jsonl, line 2: ") as error:
        read(tmp_path, PLAIN, row)
    assert message in str(error.value)


@pytest.mark.parametrize(("content", "message"), [(None, "cannot be read"), ("\n", "is empty"), ("\xff", "cannot be read")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "rows.jsonl"
    if content is not None:
        file.write_bytes(content.encode("latin1"))
    with pytest.raises(RecipeError, match=message):
        read_conversations(file)


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASKS = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>{% endif %}"


@pytest.mark.parametrize(
    ("template", "end", "row", "message"),
    [
        (CHATML + ASKS, "<|im_end|>", PLAIN, "odd writes an answer otherwise than it asks for one"),
        (CHATML, "</s>", PLAIN, "odd ends answers without one of the model's stop tokens"),
        (CHATML, "<|im_end|>", MESSAGES_ROW, "odd does not support tool use"),
        ("{{ raise_exception('never') }}", "<|im_end|>", PLAIN, "odd: .*never"),
    ],
)
def test_a_template_that_cannot_teach_is_named(tmp_path: Path, template: str, end: str, row: Any, message: str) -> None:
    encode, _ = encoder("odd", template, end)
    with pytest.raises(RecipeError, match=message):
        encode.samples(read(tmp_path, row)[0])


def test_a_text_with_a_call_cannot_be_one_answer_where_a_call_is_a_whole_message(tmp_path: Path) -> None:
    encode, _ = encoder("headers")
    said = [{"type": "text", "text": "I look it up."}, *MESSAGES_ROW["messages"][1]["content"]]
    row = MESSAGES_ROW | {"messages": [MESSAGES_ROW["messages"][0], {"role": "assistant", "content": said}]}
    with pytest.raises(RecipeError, match="headers writes a call as a whole message"):
        encode.samples(read(tmp_path, row)[0])
    (sample,) = encoder("chatml")[0].samples(read(tmp_path, row)[0])
    assert sample.taught.any()
