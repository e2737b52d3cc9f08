"""Turns with a raw prompt: what the model reads, what is refused, and answers in the middle of a text."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import processors

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.model.tokenizer import Tokenizer
from senryu.service.prompt import encode
from senryu.service.registry import LoadedModel, Registry
from senryu.service.rules import check
from senryu.service.turn import Service
from senryu.types import CacheControl, Message, Text, Tool, Turn
from serving import SPECIALS, TOKENIZER, scripted_model

MODEL = scripted_model()


def turn(raw: str | tuple[int, ...], **fields: Any) -> Turn:
    return Turn("m", (), 10, raw=raw, **fields)


def starting_with(special: str) -> LoadedModel:
    """The model, with a tokenizer that writes a special token before every text."""
    backend = tokenizers.Tokenizer.from_str(TOKENIZER.to_json())
    template = processors.TemplateProcessing(single=f"{special} $A", special_tokens=[(special, SPECIALS.index(special))])
    backend.post_processor = template
    return replace(MODEL, tokenizer=Tokenizer(backend, TOKENIZER.eos_ids))


def test_a_text_is_read_as_it_stands() -> None:
    check(turn("Hi"))
    assert encode(MODEL, turn("Hi")).ids == TOKENIZER.encode("Hi")
    written = encode(MODEL, turn("<|user|>")).ids
    assert written == TOKENIZER.encode("<|user|>")
    assert len(written) == 8
    assert encode(MODEL, turn((4, 70))).ids == [4, 70]


def test_what_a_tokenizer_puts_before_every_text_stands_there() -> None:
    model = starting_with("<|begin|>")
    assert model.tokenizer.text_start == (1,)
    assert encode(model, turn("Hi")).ids == [1, *TOKENIZER.encode("Hi")]
    assert encode(model, turn((4, 70))).ids == [4, 70]
    assert encode(model, turn("")).ids == [1]
    assert TOKENIZER.text_start == ()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "prompt: at least one token is required"),
        ((), "prompt: at least one token is required"),
        ((1, 265), "prompt: 265 is no token id of this model: they go from 0 to 264"),
        ((-1,), "prompt: -1 is no token id of this model: they go from 0 to 264"),
    ],
)
def test_what_cannot_be_read_is_refused(raw: str | tuple[int, ...], message: str) -> None:
    with pytest.raises(SenryuError) as caught:
        encode(MODEL, turn(raw))
    assert caught.value.message == message


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": (Message("user", (Text("x"),)),)},
        {"system": (Text("x"),)},
        {"tools": (Tool("look", {"type": "object"}),)},
        {"cache": CacheControl()},
    ],
)
def test_a_raw_prompt_stands_alone(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="raw"):
        check(replace(turn("x"), **fields))


def test_the_first_space_of_what_follows_is_kept() -> None:
    """Of a tokenizer whose decoder takes the space before a text away: in the middle of one it is the text's own."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"▁is": 0, "▁blue": 1}, merges=[]))
    description = json.loads(backend.to_str())
    description["decoder"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(description)))
    assert tokenizer.decoder().push([0, 1]) == "is blue"
    assert tokenizer.decoder(continues=True).push([0, 1]) == " is blue"


def test_tokens_are_counted(tmp_path: Path) -> None:
    service = Service(Registry([MODEL]), Settings(home=tmp_path))
    asked = replace(turn("three"), model="senryu-mini")
    assert asyncio.run(service.count_tokens(asked)) == 5
