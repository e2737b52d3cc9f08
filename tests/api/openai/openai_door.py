"""What tests of the OpenAI-compatible door share: a model that calls when it is told to, and a client of it."""

from __future__ import annotations

import json
from typing import Any

import httpx

from senryu.engine.interface import TokenRequest
from senryu.service.registry import LoadedModel
from serving import END, SPECIALS, TOKENIZER

USER, CALL, RESULT = (SPECIALS.index(f"<|{name}|>") for name in ("user", "call", "result"))
MODEL = "senryu-mini"


def reply(request: TokenRequest) -> list[int]:
    """After `CALL name {...}; name {...}` come these calls, after a result "so ..."; else the last words come back."""
    ids = [*request.ids]
    if USER not in ids:
        return [*TOKENIZER.encode(" and so on"), END]
    start = len(ids) - ids[::-1].index(USER)
    said = TOKENIZER.decode(ids[start : ids.index(END, start)])
    if RESULT in ids[start:]:
        return [*TOKENIZER.encode("so it is"), END]
    if not said.startswith("CALL "):
        return [*TOKENIZER.encode(said), END]
    made: list[int] = []
    for call in said.removeprefix("CALL ").split("; "):
        name, arguments = call.split(" ", 1)
        made += [CALL, *TOKENIZER.encode(json.dumps({"name": name, "arguments": json.loads(arguments)}))]
    return [*made, END]


class Door:
    """A client of one served model."""

    def __init__(self, client: httpx.Client, model: LoadedModel) -> None:
        self.client, self.model = client, model

    def post(self, path: str, **fields: Any) -> httpx.Response:
        return self.client.post(f"/v1/{path}", json={"model": MODEL, **fields})

    def chat(self, said: Any = "Hi", **fields: Any) -> dict[str, Any]:
        """A completion. said: the user's words, or all messages."""
        messages = [{"role": "user", "content": said}] if isinstance(said, str) else said
        response = self.post("chat/completions", messages=messages, **fields)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def refusal(self, path: str, status: int = 400, **fields: Any) -> dict[str, Any]:
        """The `error` of a refusal, its shape checked."""
        response = self.post(path, **fields)
        assert response.status_code == status, response.text
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["openai-version"] == "2020-10-01"
        answer = response.json()
        assert [*answer] == ["error"]
        assert set(answer["error"]) == {"message", "type", "param", "code"}
        error: dict[str, Any] = answer["error"]
        return error

    def stream(self, path: str, **fields: Any) -> list[dict[str, Any]]:
        """The data of every event; what is not JSON is left out."""
        response = self.post(path, stream=True, **fields)
        assert response.status_code == 200, response.text
        return read_stream(response.text)


def read_stream(text: str) -> list[dict[str, Any]]:
    lines = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]
