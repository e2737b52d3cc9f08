"""Conversations of the data bundle -> the text of the model's chat template (tool blocks become calls and results)."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from senryu.model.template import ChatTemplate
from senryu.service.calls import detect
from senryu.service.prompt import template_inputs
from senryu.train.vocabulary import IDS
from senryu.types import Turn

TEMPLATE = Path(__file__).parent.parent / "models" / "mini" / "chat_template.jinja"

# The wordings of sft/intents_slots: the message stands in a user turn with candidate labels, or alone under a system prompt.
_MESSAGE = (
    re.compile(r"\n\nMessage: (.*)\n\nAnswer with", re.S),
    re.compile(r"^(.*)\n\nPick the best label", re.S),
    re.compile(r'Which intent fits this [^?]*\? "(.*)"$', re.S),
    re.compile(r"\n\nRequest: (.*)$", re.S),
)
_PROMPTS = tomllib.loads((Path(__file__).parent.parent / "evals" / "prompts.toml").read_text(encoding="utf8"))
INTENT_SOURCES = ("banking77", "clinc150")
# Intents of hwu64 that nothing in clinc150 is: there they are out of scope, of which it has few rows of its own.
OUT_OF_SCOPE = (
    "qa_factoid", "qa_stock", "news_query", "social_post", "social_query", "email_query",
    "email_querycontact", "email_sendemail", "email_addcontact", "recommendation_movies", "recommendation_events",
    "play_podcasts", "play_radio", "play_audiobook", "play_game", "iot_coffee", "iot_cleaning", "audio_volume_other",
    "takeaway_query", "transport_ticket",
)  # fmt: skip


def _plain(content: str | list[dict[str, Any]], between: str = "\n\n") -> str:
    if isinstance(content, str):
        return content
    return between.join(b["text"] for b in content if b["type"] == "text")


def to_messages(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row's `system` and `messages` as the template's messages: `tool_calls` on assistants, role `tool` for results."""
    out: list[dict[str, Any]] = []
    if row.get("system"):
        out.append({"role": "system", "content": row["system"]})
    for message in row["messages"]:
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in blocks:
            if block["type"] == "tool_result":
                out.append({"role": "tool", "content": _plain(block["content"])})
        calls = [{"function": {"name": b["name"], "arguments": b["input"]}} for b in blocks if b["type"] == "tool_use"]
        text = _plain(message["content"], "" if message["role"] == "assistant" else "\n\n")  # as the service joins them
        if calls:
            out.append({"role": message["role"], "content": text, "tool_calls": calls})
        elif text:
            out.append({"role": message["role"], "content": text})
    return out


def to_tools(row: dict[str, Any]) -> list[dict[str, Any]] | None:
    """A row's tools with the schema under `parameters`, as OpenAI-style templates expect."""
    tools = row.get("tools")
    if not tools:
        return None
    return [{"name": t["name"], "description": t.get("description", ""), "parameters": t["input_schema"]} for t in tools]


_TEMPLATE = ChatTemplate(TEMPLATE.read_text(encoding="utf8"), IDS)
_CALLS = detect(_TEMPLATE.text)


def of_turn(turn: Turn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A conversation's messages and tools for the template, as the service that asks for answers makes them."""
    messages, tools, _ = template_inputs(turn, _CALLS)
    return messages, tools or []


def render(messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None, *, answer: bool = False) -> str:
    """A conversation as training text, by the renderer that serves; with `answer` it ends where the assistant is to speak.

    Messages must not spell a special token (`vocabulary.contains_special`): the text is encoded as a whole.
    """
    return "".join(_TEMPLATE.render(messages, tools=tools, add_generation_prompt=answer))


def intent_prompt(source: str, message: str) -> list[dict[str, Any]]:
    """The evaluation's prompt for one message of `banking77` or `clinc150`; the expected answer is the bare label."""
    return [{"role": "user", "content": _PROMPTS[source].format(input=message)}]


def labelled_messages(row: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(source, message, label) of an intent row of banking77 or clinc150; nothing for rows of another form.

    Rows of hwu64 with an intent that clinc150 does not know are rows of clinc150 out of its scope.
    """
    if row.get("task") != "intent" or len(row["messages"]) < 2:
        return
    source = row.get("source", "")
    if source not in (*INTENT_SOURCES, "hwu64"):
        return
    user, answer = row["messages"][0]["content"], row["messages"][1]["content"]
    if isinstance(answer, list):
        label = next(str(b["input"]["intent"]) for b in answer if b["type"] == "tool_use")
    elif answer.startswith("{"):
        label = str(json.loads(answer)["intent"])
    else:
        label = answer
    if source == "hwu64":
        if label not in OUT_OF_SCOPE:
            return
        source, label = "clinc150", "out_of_scope"
    if row.get("system"):
        yield source, user, label
        return
    for pattern in _MESSAGE:
        found = pattern.search(user)
        if found:
            yield source, found.group(1), label
            return
