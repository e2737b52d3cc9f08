"""POST /v1/completions: a prompt that no template touches."""

from __future__ import annotations

from typing import Any

import pytest
from openai_door import Door

from serving import END, SPECIALS, TOKENIZER

HI = TOKENIZER.encode("Hi")


def test_a_completion(door: Door) -> None:
    answer = door.post("completions", prompt="On and").json()
    assert answer.pop("id").startswith("cmpl-01")
    assert (answer["object"], answer["model"]) == ("text_completion", "senryu-mini")
    assert answer["choices"] == [{"text": " and so on", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (6, 11)


@pytest.mark.parametrize("prompt", ["Hi", ["Hi"], HI, [HI]])
def test_every_form_of_a_prompt(door: Door, prompt: Any) -> None:
    answer = door.post("completions", prompt=prompt, echo=True, seed=1, top_p=1, temperature=0, best_of=1, n=1).json()
    assert answer["choices"][0]["text"] == "Hi and so on"
    assert answer["usage"]["prompt_tokens"] == 2


def test_special_tokens_come_as_ids_alone(door: Door) -> None:
    """Written in a text they are plain text; a chat of one's own is written in ids."""
    assert door.post("completions", prompt="<|user|>Hi<|end|>").json()["usage"]["prompt_tokens"] == len("<|user|>Hi<|end|>")
    ids = [SPECIALS.index("<|user|>"), *HI, END, SPECIALS.index("<|assistant|>")]
    assert door.post("completions", prompt=ids).json()["choices"][0]["text"] == "Hi"


def test_a_stream(door: Door) -> None:
    *chunks, usage = door.stream("completions", prompt="On", echo=True, stream_options={"include_usage": True})
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == "On and so on"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "stop"
    assert (usage["choices"], usage["usage"]["prompt_tokens"]) == ([], 2)


def test_how_it_ends(door: Door) -> None:
    stopped = door.post("completions", prompt="x", stop=[" so"]).json()["choices"][0]
    assert (stopped["text"], stopped["finish_reason"]) == (" and", "stop")
    cut = door.post("completions", prompt="x", max_tokens=4).json()
    assert (cut["choices"][0]["text"], cut["choices"][0]["finish_reason"]) == (" and", "length")
    none = door.post("completions", prompt="x", max_tokens=0, echo=True).json()
    assert (none["choices"][0]["text"], none["usage"]["completion_tokens"]) == ("x", 0)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": "x", "suffix": "y"}, "suffix", "suffix: texts to be filled in between two others are not supported"),
        ({"prompt": "x", "best_of": 2}, "best_of", "best_of: several candidates are not supported"),
        ({"prompt": "x", "n": 2}, "n", "n: several choices are not supported"),
        ({"prompt": "x", "logprobs": 0}, "logprobs", "logprobs: log probabilities are not supported"),
        ({"prompt": ["x", "y"]}, "prompt", "prompt: one prompt a request."),
        ({"prompt": [[1], [2]]}, "prompt", "prompt: one prompt a request."),
        ({"prompt": ""}, "prompt", "prompt: at least one token is required"),
        ({"prompt": []}, "prompt", "prompt: at least one token is required"),
        ({"prompt": [1, -1]}, "prompt[1]", "prompt[1]: Input should be greater than or equal to 0"),
        ({"prompt": [1, "x"]}, "prompt[1]", "prompt[1]: Input should be a valid integer"),
        ({"prompt": [265]}, "prompt", "prompt: 265 is no token id of this model: they go from 0 to 264"),
        ({"prompt": {}}, "prompt", "prompt: Input should be a valid string"),
        ({"prompt": "x", "max_tokens": 9000}, "max_tokens", "max_tokens is too large: 9000."),
        ({"prompt": "x", "messages": []}, "messages", "Unknown parameter: 'messages'."),
    ],
)
def test_refusals(door: Door, fields: dict[str, Any], param: str, message: str) -> None:
    error = door.refusal("completions", **fields)
    assert error["message"].startswith(message)
    assert error["param"] == param


def test_a_prompt_is_never_passed_over(lenient: Door) -> None:
    assert lenient.refusal("completions", prompt=["x", "y"])["param"] == "prompt"
    assert lenient.refusal("completions", prompt="x", suffix="y")["param"] == "suffix"
    response = lenient.post("completions", prompt="x", logprobs=5, best_of=3)
    assert response.headers["senryu-ignored"] == "best_of, logprobs"
