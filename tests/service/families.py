"""Models of every family that writes calls: its template, its special tokens, an engine that invents or follows a script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from senryu.engine.grammar import GrammarCompiler
from senryu.model.template import ChatTemplate
from senryu.model.tokenizer import Tokenizer
from senryu.service.calls import CallFormat, detect, marks, symbols
from senryu.service.registry import LoadedModel
from serving import SPECIALS, TEMPLATE, Reply, byte_tokenizer, scripted_model

TEMPLATES = Path(__file__).parents[1] / "model" / "templates"
HEADERS = ["<s>", "</s>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
INST = ["<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"]


@dataclass(frozen=True)
class Family:
    """A template, and a tokenizer of one token a byte with the special tokens that the family has."""

    template: Path
    specials: tuple[str, ...]
    end: str
    added: tuple[str, ...] = ()

    @property
    def tokenizer(self) -> Tokenizer:
        return _tokenizer(self.specials, self.end, self.added)

    @property
    def marks(self) -> dict[str, int]:
        return marks(self.calls, self.tokenizer.added_tokens)

    @property
    def calls(self) -> CallFormat:
        found = detect(self.template.read_text())
        assert found is not None
        return found

    def ids(self, text: str) -> list[int]:
        """`text` as the model writes it, marks by id; then the end."""
        tokenizer, found = self.tokenizer, []
        for symbol in symbols(text, self.marks):
            found += [self.marks[symbol]] if len(symbol) > 1 else tokenizer.encode(symbol)
        return [*found, *tokenizer.eos_ids]

    def says(self, text: str) -> Reply:
        return lambda request: self.ids(text)

    def model(self, reply: Reply | None = None, **options: object) -> LoadedModel:
        tokenizer = self.tokenizer
        vocab = tokenizer.vocab_size
        options = {
            "grammars": _grammars(self.specials, self.end, self.added),
            "tokens": range(len(self.specials), vocab),
        } | options
        template = ChatTemplate(self.template.read_text(), tokenizer.special_tokens, {"bos_token": "<s>", "eos_token": "</s>"})
        return replace(scripted_model(reply, **options), tokenizer=tokenizer, template=template)


@cache
def _tokenizer(specials: Sequence[str], end: str, added: Sequence[str]) -> Tokenizer:
    return byte_tokenizer(specials, end, added)


@cache
def _grammars(specials: Sequence[str], end: str, added: Sequence[str]) -> GrammarCompiler:
    tokenizer = _tokenizer(specials, end, added)
    return GrammarCompiler(tokenizer, tokenizer.vocab_size)


FAMILIES = {
    "mini": Family(TEMPLATE, tuple(SPECIALS), "<|end|>"),
    "hermes": Family(TEMPLATES / "chatml.jinja", ("<|im_start|>", "<|im_end|>"), "<|im_end|>"),
    "hermes with tokens": Family(
        TEMPLATES / "chatml.jinja", ("<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"), "<|im_end|>"
    ),
    "hermes with added tokens": Family(
        TEMPLATES / "chatml.jinja", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<tool_call>", "</tool_call>", "<think>")
    ),
    "hermes with another token": Family(TEMPLATES / "chatml.jinja", ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<think>",)),
    "llama 3": Family(TEMPLATES / "headers.jinja", tuple(HEADERS), "<|eot_id|>"),
    "mistral": Family(TEMPLATES / "inst.jinja", tuple(INST), "</s>"),
    "mistral args": Family(TEMPLATES / "args.jinja", (*INST, "[ARGS]"), "</s>"),
}
NO_CALLS = Family(TEMPLATES / "turns.jinja", ("<s>", "</s>", "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"), "</s>")


def written(family: Family, calls: Sequence[tuple[str, str]]) -> str:
    """What the model writes to make `calls` (names, and arguments as JSON), by the format's own table."""
    form, first = family.calls, True
    text = ""
    for name, arguments in calls:
        if first or not form.between:
            text += ("" if first else form.closing + form.lead) + form.start + form.opening
        else:
            text += form.between
        text += form.before_name + name + form.middle + arguments + form.after
        first = False
    return text + (form.closing if calls else "")
