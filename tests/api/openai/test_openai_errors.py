"""Refusals in OpenAI's words: every one can be written from what the error carries."""

from __future__ import annotations

from string import Formatter

import pytest

from senryu.api.openai.errors import DEFAULTS, WORDS, Places, error_json
from senryu.errors import ERRORS, SenryuError


def placeholders(wording: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(wording) if name}


@pytest.mark.parametrize("code", WORDS)
def test_words_need_nothing_that_an_error_lacks(code: str) -> None:
    known = placeholders(ERRORS[code].wording) | DEFAULTS.keys() | {"path"}
    assert placeholders(WORDS[code].wording) <= known
    assert placeholders(WORDS[code].param) <= DEFAULTS.keys()


@pytest.mark.parametrize("code", [code for code, rule in ERRORS.items() if rule.status])
def test_every_refusal_has_its_shape(code: str) -> None:
    error = SenryuError(code, **dict.fromkeys(placeholders(ERRORS[code].wording), 1))
    answer = error_json(error)["error"]
    assert answer["message"]
    assert answer["type"] in ("invalid_request_error", "requests", "server_error")
    assert (answer["type"] == "server_error") == (error.status in (500, 503, 504))


def test_places_are_those_of_the_body() -> None:
    places = Places("messages", messages=(2, 3, 5), names={r"tools\.(\d+)\.custom": r"tools.\1.function"})
    for path, found in [
        ("messages.1.content.0.text", "messages[3]"),
        ("messages.7", "messages"),
        ("tools.4.custom.x", "tools[4].function.x"),
        ("temperature", "temperature"),
    ]:
        with pytest.raises(SenryuError) as caught, places.named():
            raise SenryuError("not_string", path=path)
        assert error_json(caught.value)["error"]["param"] == found
    with pytest.raises(SenryuError) as caught, places.named():
        raise SenryuError("empty_message", index=2)
    assert error_json(caught.value)["error"]["message"] == "messages[5]: the content must not be empty"
