"""Masks follow from the tokens: documents, targets, and what only the assistant says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from senryu.train import chat
from senryu.train.pack import IGNORED, document_numbers, pack_stream, pack_whole, targets
from senryu.train.vocabulary import BEGIN, END, IDS, PAD, SPECIALS

USER, ASSISTANT, CALL, RESULT, SYSTEM, TEXT = (
    IDS[f"<|{n}|>"] for n in ("user", "assistant", "call", "result", "system", "text")
)


def test_specials_stand_where_the_contract_puts_them() -> None:
    assert len(SPECIALS) == len(set(SPECIALS)) == 64
    assert [IDS[f"<|{n}|>"] for n in ("pad", "begin", "end", "assistant", "text", "spare_0")] == [0, 1, 2, 5, 14, 15]


def test_only_the_assistant_is_trained_on() -> None:
    row = [BEGIN, SYSTEM, 90, END, USER, 91, END, ASSISTANT, 92, CALL, 93, END, RESULT, 94, END, ASSISTANT, 95, END, PAD, PAD]
    wanted = targets(np.array([row], np.uint16), assistant_only=True)[0]
    trained = {i: int(t) for i, t in enumerate(wanted) if t != IGNORED}
    assert trained == {7: 92, 8: CALL, 9: 93, 10: END, 15: 95, 16: END}  # position -> the token it must predict


def test_plain_documents_are_replayed_whole() -> None:
    wanted = targets(np.array([[BEGIN, TEXT, 70, 71, END, BEGIN, USER, 72, END, ASSISTANT]], np.uint16), assistant_only=True)[0]
    assert [(i, t) for i, t in enumerate(wanted) if t != IGNORED] == [(1, 70), (2, 71), (3, END)]


def test_pretraining_predicts_everything_but_the_next_document() -> None:
    row = np.array([[80, END, BEGIN, USER, 81, END, BEGIN, TEXT]], np.uint16)
    assert targets(row, assistant_only=False)[0].tolist() == [END, -1, USER, 81, END, -1, TEXT, -1]
    assert document_numbers(row)[0].tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


@pytest.fixture
def documents() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [np.concatenate([[BEGIN], draw.integers(64, 99, n), [END]]).astype(np.uint16) for n in draw.integers(1, 60, 80)]


def test_stream_keeps_every_token_in_order_within_rows(documents: list[np.ndarray]) -> None:
    rows = pack_stream(documents, 32, np.random.default_rng(1))
    assert rows.shape == (sum(map(len, documents)) // 32, 32)
    assert rows.dtype == np.uint16
    assert np.array_equal(rows, pack_stream(documents, 32, np.random.default_rng(1)))


def test_whole_documents_are_never_cut(documents: list[np.ndarray]) -> None:
    rows = pack_whole(documents, 40, np.random.default_rng(1))
    found = []
    for row in rows:
        starts = [*np.flatnonzero(row == BEGIN), len(row)]
        found += [row[a:b][row[a:b] != PAD].tobytes() for a, b in itertools.pairwise(starts)]
    assert sorted(found) == sorted(d.tobytes() for d in documents if len(d) <= 40)
    assert (rows == PAD).mean() < 0.2


def test_tool_rows_become_calls_and_results() -> None:
    row = {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Rain?"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "sky", "input": {"at": "Bonn"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": '{"rain": true}'}]},
            {"role": "assistant", "content": "Yes."},
        ],
        "tools": [{"name": "sky", "description": "d", "input_schema": {"type": "object"}}],
    }
    assert chat.render(chat.to_messages(row), chat.to_tools(row)) == (
        '<|begin|><|tools|>{"name": "sky", "description": "d", "parameters": {"type": "object"}}\n<|end|>'
        "<|system|>Be brief.<|end|>"
        "<|user|>Rain?<|end|>"
        '<|assistant|><|call|>{"name": "sky", "arguments": {"at": "Bonn"}}<|end|>'
        '<|result|>{"rain": true}<|end|><|assistant|>Yes.<|end|>'
    )


def test_labelled_messages_are_found_in_every_wording() -> None:
    wordings = (
        "Classify the message into one of these intents: a, b.\n\nMessage: my card\n\nAnswer with the intent only.",
        "my card\n\nPick the best label for the message above from: a, b. Reply with just the label.",
        'Intents: a, b\n\nWhich intent fits this bank customer message? "my card"',
        "Classify the request into one of: a, b. Use out_of_scope when none fits.\n\nRequest: my card",
    )
    for wording in wordings:
        row = {
            "task": "intent",
            "source": "banking77",
            "messages": [{"role": "user", "content": wording}, {"role": "assistant", "content": "a"}],
        }
        assert list(chat.labelled_messages(row)) == [("banking77", "my card", "a")]


@pytest.mark.parametrize(
    ("intent", "found"), [("qa_factoid", [("clinc150", "how high is it", "out_of_scope")]), ("alarm_set", [])]
)
def test_a_foreign_intent_is_out_of_scope_and_one_that_may_be_known_is_left_out(intent: str, found: list[object]) -> None:
    call = [{"type": "tool_use", "id": "toolu_01", "name": "route_message", "input": {"intent": intent}}]
    said = [{"role": "user", "content": "how high is it"}, {"role": "assistant", "content": call}]
    row = {"task": "intent", "source": "hwu64", "system": "Route every message with the route_message tool.", "messages": said}
    assert list(chat.labelled_messages(row)) == found
