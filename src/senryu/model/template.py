"""Messages in, the text that a model was trained on out. Keeps whatever a message says from becoming a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any

import minijinja

from senryu.model.spec import ModelError, read_json
from senryu.model.tokenizer import Tokenizer, named_tokens

# Code points that Unicode reserves for use inside a program: no text has them, so they can mark places in a rendered text.
_NONCHARACTERS = [chr(point) for point in range(0xFDD0, 0xFDF0)]
_ESCAPES = {character: json.dumps(character)[1:-1] for character in _NONCHARACTERS}  # as tojson(ensure_ascii=True) writes them
_encode_json = json.JSONEncoder(ensure_ascii=False).encode
_FUEL = 20_000_000  # steps of one rendering; a template that loops for ever stops here
_GENERATION_TAG = re.compile(r"(\{%[-+]?\s*)(end)?generation(\s*[-+]?%\})")


class TemplateError(ModelError):
    """A chat template is missing, malformed, or cannot render these messages."""


class TemplateRefusal(TemplateError):
    """A template's own raise_exception: the messages are not what it was written for. The text is the template's."""


class ChatTemplate:
    """A Hugging Face chat template, rendered as transformers renders it."""

    def __init__(
        self, sources: str | Mapping[str, str], special_tokens: Mapping[str, int], named: Mapping[str, str] | None = None
    ) -> None:
        """`sources`: the Jinja text, or several by name ("default", "tool_use"); `special_tokens`: text -> id, as of
        `Tokenizer`; `named`: what a template may call bos_token, eos_token and so on. Raises TemplateError on bad syntax.
        """
        self._sources = {"default": sources} if isinstance(sources, str) else dict(sources)
        if "default" not in self._sources:
            raise TemplateError(f"no chat template is named 'default', only {', '.join(sorted(self._sources))}.")
        self._named = dict(named or {})
        self._guard = _Guard(special_tokens)
        self._environment = minijinja.Environment(
            filters={"tojson": _to_json},
            globals={"raise_exception": _raise_exception, "strftime_now": _strftime_now},
            trim_blocks=True,
            lstrip_blocks=True,
            fuel=_FUEL,
            debug=False,  # an error must not quote the messages
        )
        for name, source in self._sources.items():
            try:
                # {% generation %} marks what is trained on and renders as its body does
                self._environment.add_template(name, _GENERATION_TAG.sub(_plain_block, source))
            except minijinja.TemplateError as error:
                raise TemplateError(f"chat template {name!r} is malformed: {error}") from None

    @property
    def text(self) -> str:
        """The Jinja text that renders conversations with tools."""
        return self._sources.get("tool_use", self._sources["default"])

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> list[str]:
        """The rendered text in pieces for `Tokenizer.encode_rendered`; joined, they are what transformers renders.

        Text of a message or a tool that spells a special token is cut inside it, so that no piece holds it whole: as long as
        there is none, there is one piece. `continue_final` ends the text right after the content of the last message,
        which must be the assistant's. Raises TemplateRefusal when the template refuses, TemplateError when it fails.
        """
        separator = self.unused_character(messages, tools)
        messages = [self._guard.protect(message, separator) for message in messages]
        tools = None if tools is None else [self._guard.protect(tool, separator) for tool in tools]
        text = self._whole(messages, tools, add_generation_prompt, continue_final)
        text = text.replace(_ESCAPES[separator], separator)
        return [piece for piece in text.split(separator) if piece] or [""]

    def locate(
        self,
        text: str,
        mark: str,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final: bool = False,
    ) -> dict[int, int]:
        """Where things stand in `text`, which `render` gave for the same messages and tools without marks.

        `mark`: an `unused_character`; each mark in a string of `messages` and `tools` is it, a number and it again.
        Returns number -> characters of `text` before the mark's first occurrence. A mark that the template dropped is left
        out, and so are those behind the first place where marks change what the template writes.
        """
        try:
            marked = self._whole(messages, tools, add_generation_prompt, continue_final)
        except TemplateError:  # it looks closely at what is marked
            return {}
        found: dict[int, int] = {}
        at = 0
        parts = re.split(f"{mark}([0-9]+){mark}", marked.replace(_ESCAPES[mark], mark))
        for between, number in zip_longest(parts[::2], parts[1::2]):
            if number is None or not text.startswith(between, at):
                break
            at += len(between)
            found.setdefault(int(number), at)
        return found

    def unused_character(self, *inputs: Any) -> str:
        """A character that occurs in none of `inputs` (messages, tools, lists of them). Raises TemplateError."""
        seen = _encode_json(inputs)
        for character in _NONCHARACTERS:
            if character not in seen and _ESCAPES[character] not in seen:
                return character
        raise TemplateError("the messages use the Unicode noncharacters U+FDD0 to U+FDEF. Remove them from the text.")

    def _whole(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool, continue_final: bool
    ) -> str:
        if not continue_final:
            return self._render(messages, tools, prompt)
        end = self.unused_character(messages, tools)
        marked = [*messages[:-1], _mark_end(messages[-1] if messages else {}, end)]
        text = self._render(marked, tools, False)
        return _cut_at_end(text.replace(_ESCAPES[end], end), end)

    def _render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, prompt: bool) -> str:
        name = "tool_use" if tools and "tool_use" in self._sources else "default"
        try:
            return self._environment.render_template(
                name, messages=messages, tools=tools, documents=None, add_generation_prompt=prompt, **self._named
            )
        except minijinja.TemplateError as error:
            raise TemplateError(f"the chat template cannot render these messages: {error}") from None


def load_template(path: Path, tokenizer: Tokenizer) -> ChatTemplate:
    """The chat template of model directory `path`: chat_template.jinja, or chat_template in tokenizer_config.json.

    Raises TemplateError when there is none (a base model, which cannot chat) or when it is malformed.
    """
    file, config = path / "chat_template.jinja", path / "tokenizer_config.json"
    sources: Any = None
    if file.exists():
        sources = file.read_text(encoding="utf-8")
    elif config.exists():
        sources = read_json(config).get("chat_template")
    if not sources:
        raise TemplateError(f"{path} has no chat template: it is a base model. Choose its instruct or chat version.")
    if isinstance(sources, list) and all(isinstance(entry, dict) for entry in sources):
        sources = {str(entry.get("name")): entry.get("template") for entry in sources}
    if not isinstance(sources, str | dict) or (isinstance(sources, dict) and None in sources.values()):
        raise TemplateError(f"chat_template in {config} is neither a text nor a list of named texts. Download it again.")
    return ChatTemplate(sources, tokenizer.special_tokens, named_tokens(path))


class _Guard:
    """Puts a separator into every text that would otherwise hold, or complete, a special token."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        # a token of one letter cannot be cut; no family has one
        texts = sorted((text for text in special_tokens if len(text) > 1), key=len, reverse=True)
        # a lookahead finds overlapping occurrences too; each is cut after its first character
        self._whole = re.compile(f"(?s)(?=(?:{'|'.join(map(re.escape, texts))}))(.)") if texts else None
        # "<|en" at the end of one block and "d|>" at the start of the next would meet in the rendered text
        self._heads = tuple({text[:length] for text in texts for length in range(1, len(text))})

    def protect(self, value: Any, separator: str) -> Any:
        """The same messages or tools with `separator` inside every dangerous string, keys too."""
        if isinstance(value, str):
            return self._protect_text(value, separator)
        if isinstance(value, Mapping):
            return {self.protect(key, separator): self.protect(item, separator) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(item, separator) for item in value]
        return value

    def _protect_text(self, text: str, separator: str) -> str:
        if self._whole is None:
            return text
        end = len(text.rstrip())  # a template may trim
        if text.endswith(self._heads, 0, end):
            text = text[:end] + separator + text[end:]
        return self._whole.sub(r"\1" + separator, text)


def _mark_end(message: dict[str, Any], end: str) -> dict[str, Any]:
    """The message with a mark after its last text; the space shows afterwards whether the template trimmed."""
    content = message.get("content")
    if message.get("role") != "assistant" or content is None:
        raise TemplateError("only a last message of the assistant with text in it can be continued.")
    if isinstance(content, str):
        return message | {"content": content + end + " "}
    last = max((number for number, block in enumerate(content) if "text" in block), default=None)
    if last is None:
        raise TemplateError("only a last message of the assistant with text in it can be continued.")
    return message | {
        "content": [
            block | {"text": block["text"] + end + " "} if number == last else block for number, block in enumerate(content)
        ]
    }


def _cut_at_end(text: str, end: str) -> str:
    at = text.rfind(end)
    if at < 0:
        raise TemplateError("this chat template drops the last message's text, so that it cannot be continued.")
    return text[:at] if text[at + 1 : at + 2] == " " else text[:at].rstrip()


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' tojson: Python's separators, no HTML escapes."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _plain_block(tag: re.Match[str]) -> str:
    return f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}"
