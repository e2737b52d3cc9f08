"""The judge `endpoint`: critiques, revisions and comparisons by any server that speaks the Claude Messages API, over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from senryu.train.constitution import render
from senryu.train.constitution.document import ConstitutionError, Principle
from senryu.train.constitution.judge import Critique, Message, Prompt

VERSION = "2023-06-01"
LONGEST_WAIT = 120.0  # seconds that a server's retry-after may ask for


class EndpointError(ConstitutionError):
    """A server that refuses, cannot be reached or answers something else; the message has its address and what to do."""


@dataclass(frozen=True)
class Endpoint:
    """POST BASE/v1/messages. 429, 5xx and broken connections are tried again, `tries` times in all, after the seconds that the
    server asks for or after 1, 2, 4, ..."""

    base: str
    model: str
    key: str = ""
    timeout: float = 120.0
    tries: int = 5
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.base):
            raise EndpointError(
                f"{self.base!r} is no address of a server; give one such as https://host or http://127.0.0.1:8000"
            )

    @property
    def url(self) -> str:
        """The address of messages; a base that ends with /v1 is taken as such."""
        return f"{re.sub(r'(/v1)?/*$', '', self.base)}/v1/messages"

    def ask(
        self,
        messages: Sequence[Message],
        *,
        system: str = "",
        tools: Sequence[dict[str, Any]] = (),
        max_tokens: int = 512,
        temperature: float = 0.0,
    ) -> str:
        """The text of the answer. Raises EndpointError."""
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "messages": list(messages),
            "temperature": temperature,
        }
        body |= {"system": system} if system else {}
        body |= {"tools": list(tools)} if tools else {}
        answer = self._post(json.dumps(body).encode())
        try:
            return "".join(block["text"] for block in answer["content"] if block["type"] == "text").strip()
        except (KeyError, TypeError):
            raise EndpointError(
                f"{self.url} answered no message of the Claude API; check that the address is of such a server"
            ) from None

    def _post(self, body: bytes) -> Any:
        headers = {"content-type": "application/json", "anthropic-version": VERSION, "user-agent": "senryu"}
        if self.key:
            headers["x-api-key"] = self.key
        for attempt in range(1, self.tries + 1):
            request = urllib.request.Request(self.url, body, headers, method="POST")
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                with error:
                    said, wait = _message(error.read()), _seconds(error.headers.get("retry-after"), attempt)
                if error.code != 429 and error.code < 500:
                    raise EndpointError(f"{self.url} refused with {error.code}: {said}; {_advice(error.code)}") from None
                problem = f"{error.code}: {said}"
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                problem, wait = str(getattr(error, "reason", error)) or type(error).__name__, float(2 ** (attempt - 1))
            except ValueError:
                raise EndpointError(
                    f"{self.url} answered no JSON; check that the address is of a Claude-compatible server"
                ) from None
            if attempt < self.tries:
                self.sleep(wait)
        raise EndpointError(
            f"{self.url} failed {self.tries} times, at last with {problem}; try again later: what is done is kept"
        )


def _seconds(asked: str | None, attempt: int) -> float:
    """What retry-after says in seconds, as far as it is bearable; else 1, 2, 4, ..."""
    try:
        wait = float(asked or "")
    except ValueError:
        return float(2 ** (attempt - 1))
    return min(wait, LONGEST_WAIT) if wait >= 0 else float(2 ** (attempt - 1))


def _message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf8", "replace").strip() or "no message"


def _advice(code: int) -> str:
    return {401: "check the key", 403: "check the rights of the key", 404: "check the address and the model's name"}.get(
        code, "check the model's name and its limits"
    )


def answers(
    endpoint: Endpoint, prompts: Sequence[Prompt], *, max_tokens: int, temperature: float, at_once: int = 4
) -> list[str]:
    """The endpoint's own answers to prompts, in their order: the `answer` of a pipeline whose model is served."""

    def one(prompt: Prompt) -> str:
        fixed: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        return endpoint.ask(prompt.messages, system=prompt.system, tools=prompt.tools, **fixed)

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(one, prompts))


class EndpointJudge:
    """Judge by a model behind an endpoint."""

    name = "endpoint"

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._unclear = 0

    def applicable(self, principles: Sequence[Principle], prompt: Prompt, answer: str) -> list[Principle]:
        """Those that are about the prompt's category; whether one is broken takes a request to see."""
        return [principle for principle in principles if principle.about(prompt.category)]

    def critique(self, principle: Principle, prompt: Prompt, answer: str) -> Critique | None:
        """The model's critique; None when it answers that nothing is wrong."""
        said = self._endpoint.ask(render.critique_request(principle, prompt, answer), system=render.CRITIC, max_tokens=200)
        if not said or said.strip(" .\"'").upper().startswith(render.NOTHING):
            return None
        return Critique(principle.id, said)

    def revise(self, principle: Principle, prompt: Prompt, answer: str, critique: Critique) -> str:
        """The model's revision; the answer as it was when it gives none."""
        said = self._endpoint.ask(render.revision_request(principle, prompt, answer, critique.text), max_tokens=512)
        return re.sub(r"^(?:assistant|revised answer|revision)\s*:\s*", "", said, flags=re.I).strip("\"' ") or answer

    def compare(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        """The mean over both orders, so that a liking for one letter gives 0.5; so does an answer without a letter."""
        first, second = self._letter(principle, prompt, a, b), self._letter(principle, prompt, b, a)
        return (first + 1 - second) / 2

    def _letter(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        said = self._endpoint.ask(render.preference_request(principle, prompt, a, b), system=render.CRITIC, max_tokens=8)
        letter = re.match(r"\W*(?:[Aa]nswer\W+)?([AB])\b", said)
        if letter is None:
            self._unclear += 1
            return 0.5
        return float(letter.group(1) == "A")

    def report(self) -> dict[str, Any]:
        """Where it asked, and how many comparisons came back without a letter."""
        return {
            "judge": self.name,
            "url": self._endpoint.url,
            "model": self._endpoint.model,
            "unclear_comparisons": self._unclear,
        }
