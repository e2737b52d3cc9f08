"""What an evaluator does with inspect-ai: tasks of 20 samples, and small ones for what else its Anthropic provider sends."""

from __future__ import annotations

import asyncio
import base64
import re
import tempfile
import time
from typing import Any

import anthropic
from checks import BREAK_OFF, Check, Outcome, arguments, lacks, long_text, report, spend
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.event import ModelEvent
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    BatchConfig,
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageUser,
    ContentDocument,
    ContentText,
    ResponseSchema,
    get_model,
)
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import Tool, tool
from inspect_ai.util import json_schema
from pydantic import BaseModel

MODEL = "anthropic/claude-3-5-haiku-20241022"
TWENTY = [Sample(input=f"Hello! I am guest {number}.", target="Hello") for number in range(20)]
ONE = [Sample(input="What is the weather in Bonn?", target="12")]


def run(task: Task, url: str = "", key: str = "", streaming: bool = False, **options: Any) -> EvalLog:
    """The log of an evaluation, whatever came of it."""
    where = {"base_url": url or GIVEN.url, "api_key": key or GIVEN.key, "memoize": False, "streaming": streaming}
    how = {"log_dir": FOLDER, "display": "none", "max_tokens": 64, "log_level": "critical", **options}
    (log,) = eval(task, model=get_model(MODEL, **where), **how)
    return log


def succeeded(log: EvalLog, samples: int = 1) -> Any:
    """The usage that was recorded of an evaluation that went well."""
    assert log.status == "success", log.error
    assert log.results is not None
    assert log.results.completed_samples == samples
    usage = log.stats.model_usage[MODEL]
    assert usage.output_tokens > 0
    assert usage.input_tokens > 0
    return usage


def twenty_samples() -> str:
    usage = succeeded(run(Task(TWENTY, solver=generate(), scorer=includes())), 20)
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


def twenty_streams() -> str:
    usage = succeeded(run(Task(TWENTY, solver=generate(), scorer=includes()), streaming=True), 20)
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


@tool
def get_weather() -> Tool:
    async def execute(city: str) -> str:
        """The weather in a city.

        Args:
            city: The city.
        """
        return f"12 degrees in {city}"

    return execute


def tool_loop() -> str:
    solver = [use_tools(get_weather(), tool_choice="any"), generate(tool_calls="single")]
    log = run(Task(ONE, solver=solver, scorer=includes()))
    succeeded(log)
    assert log.samples
    roles = [message.role for message in log.samples[0].messages]
    assert roles[:3] == ["user", "assistant", "tool"], roles
    return str(log.samples[0].messages[-1].text)


def structured() -> str:
    class Mood(BaseModel):
        good: bool

    schema = ResponseSchema(name="mood", json_schema=json_schema(Mood), strict=True)
    log = run(Task(ONE, solver=generate(), scorer=includes()), response_schema=schema)
    succeeded(log)
    assert log.samples
    return repr(Mood.model_validate_json(log.samples[0].output.completion))


def cache() -> str:
    text = f"{time.time()} {long_text()}"
    samples = [Sample(input=f"Hello, I am guest {number}.", target="Hello") for number in range(2)]
    task = Task(samples, solver=[system_message(text), generate()], scorer=includes())
    usage = succeeded(run(task, cache_prompt=True, max_connections=1), 2)
    assert usage.input_tokens_cache_write >= 2048
    assert usage.input_tokens_cache_read >= 2048
    return f"wrote {usage.input_tokens_cache_write}, read {usage.input_tokens_cache_read}"


def batches() -> str:
    batch = BatchConfig(size=20, tick=0.5)
    usage = succeeded(run(Task(TWENTY, solver=generate(), scorer=includes()), batch=batch), 20)
    return f"{usage.input_tokens} tokens in, {usage.output_tokens} out"


def documents() -> str:
    text = base64.b64encode(b"The bridge opened in 1911. It is painted green.").decode()
    document = ContentDocument(document=f"data:text/plain;base64,{text}", filename="bridge.txt", citations=True)
    asked: list[ChatMessage] = [ChatMessageUser(content=[document, ContentText(text="When did the bridge open?")])]
    begun = ChatMessageAssistant(content="The bridge opened in 1911")  # a small model writes no such thing by itself
    samples = [Sample(input=[*asked, begun], target="1911") for _ in range(9)]
    log = run(Task(samples, solver=generate(), scorer=includes()), max_tokens=2)
    succeeded(log, 9)
    assert log.samples
    for sample in log.samples:
        content = sample.output.message.content
        for block in content if isinstance(content, list) else []:
            if block.type == "text" and block.citations:
                return str(block.citations)
    raise AssertionError(log.samples[0].output.message)


def count_tokens() -> str:
    async def count() -> tuple[int, int]:
        async with get_model(MODEL, base_url=GIVEN.url, api_key=GIVEN.key, memoize=False) as model:
            counted = await model.count_tokens("Hello!")
            answer = await model.generate("Hello!")
            assert answer.usage is not None
            return counted, answer.usage.input_tokens

    counted, used = asyncio.run(count())
    assert counted == used
    return f"{counted} tokens"


def failed(log: EvalLog) -> Outcome:
    """Of an evaluation that must end with an error: the last class that its log names."""
    assert log.status == "error"
    assert log.error is not None
    named = re.findall(r"^(?:\w+\.)*(\w+Error)\b", log.error.traceback, re.MULTILINE)
    return Outcome(log.error.message, named[-1])


def wrong_key() -> Outcome:
    outcome = failed(run(Task(ONE, solver=generate(), scorer=includes()), key="wrong"))
    assert outcome.raised == "AuthenticationError", outcome
    return outcome


def retries() -> str:
    """Somebody else has spent the requests of this minute: the evaluation waits and ends well, and its log tells so."""
    sdk = anthropic.Anthropic(base_url=GIVEN.limited, api_key=GIVEN.key, max_retries=0)
    asked: Any = {"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    spend(lambda: sdk.messages.create(**asked), anthropic.RateLimitError, "RateLimitError")
    log = run(Task(TWENTY[:6], solver=generate(), scorer=includes()), GIVEN.limited)
    succeeded(log, 6)
    events = [event for sample in log.samples or () for event in sample.events if isinstance(event, ModelEvent)]
    retried = sum(event.retries or 0 for event in events)
    assert retried > 0
    return f"6 samples, asked again {retried} times"


def mid_stream() -> Outcome:
    task = Task([Sample(input=BREAK_OFF, target="x")], solver=generate(), scorer=includes())
    return failed(run(task, GIVEN.stage, streaming=True, max_retries=1, max_tokens=500))


CHECKS: list[tuple[str, Check]] = [
    ("create", twenty_samples),
    ("stream", twenty_streams),
    ("tools", tool_loop),
    ("structured output", structured),
    ("cache", cache),
    ("documents", documents),
    ("batches", batches),
    ("count tokens", count_tokens),
    ("models", lacks("inspect-ai has no list of a server's models.")),
    ("errors", wrong_key),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    GIVEN = arguments()
    with tempfile.TemporaryDirectory() as FOLDER:
        report(CHECKS)
