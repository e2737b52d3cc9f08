"""Text in, token ids out, and back while it streams. Knows special tokens; knows nothing of roles, turns or templates."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from senryu.model.spec import ModelError, read_json


class Tokenizer:
    """A `tokenizers` tokenizer with one rule added: special tokens exist only where a template wrote them.

    special_tokens: text -> id of every special token; special_ids: their ids; eos_ids: the ids that end an answer.
    added_tokens: text -> id of those and of the tokens that stand beside them but are text all the same.
    text_start: the ids that the model expects before every text that no template wrote, often <s>; most families have none.
    """

    def __init__(self, backend: tokenizers.Tokenizer, eos_ids: Iterable[int] = ()) -> None:
        """Raises ModelError when the way of its tokens back to text is one that we cannot stream."""
        backend.no_truncation()
        backend.no_padding()
        self.text_start = _text_start(json.loads(backend.to_str())["post_processor"])
        backend.post_processor = None  # adds special tokens, which a template writes itself; and makes places of tokens smaller
        self._backend = backend
        self._to_bytes = _ByteRule.of(json.loads(backend.to_str())["decoder"])
        self._bytes: dict[int, bytes] = {}
        self._texts: dict[int, str | None] = {}
        added = backend.get_added_tokens_decoder()
        self.added_tokens: dict[str, int] = {token.content: id for id, token in sorted(added.items())}
        self.special_tokens: dict[str, int] = {token.content: id for id, token in sorted(added.items()) if token.special}
        self.special_ids = frozenset(self.special_tokens.values())
        self.eos_ids = frozenset(eos_ids)

    @property
    def vocab_size(self) -> int:
        """Number of ids that the tokenizer knows; a model's embedding may have more rows."""
        return self._backend.get_vocab_size()

    def to_json(self) -> str:
        """The tokenizer.json that it is."""
        json_text: str = self._backend.to_str()
        return json_text

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: nothing is put before or after, and the text of a special token inside is plain text too."""
        return _encode(self._plain, text)

    def encode_rendered(self, pieces: Sequence[str]) -> list[int]:
        """Ids of what a template rendered: special tokens are recognised within a piece, never across two.

        One piece encodes exactly as transformers encodes the rendered text.
        """
        ids: list[int] = []
        for backend, text in self._parts(pieces):
            ids += _encode(backend, text)
        return ids

    def locate_rendered(self, pieces: Sequence[str], places: Sequence[int]) -> tuple[list[int], list[int]]:
        """`encode_rendered` of the pieces, and for each place how many of those ids end at or before it.

        places: numbers of characters from the beginning of the joined pieces. Takes about twice the time.
        """
        ids: list[int] = []
        ends: list[np.ndarray] = []
        start = 0
        for backend, text in self._parts(pieces):
            encoding = backend.encode_batch([text], add_special_tokens=False)[0]
            ids += encoding.ids
            ends.append(start + np.array(encoding.offsets, np.int64).reshape(-1, 2)[:, 1])
            start += len(text)
        reached = np.maximum.accumulate(np.concatenate(ends))  # bytes of one character all end where it does
        return ids, np.searchsorted(reached, np.asarray(places, np.int64), side="right").tolist()

    def _parts(self, pieces: Sequence[str]) -> Iterator[tuple[tokenizers.Tokenizer, str]]:
        for number, piece in enumerate(pieces):
            if number:  # a piece goes on in the middle of a text: no space of a sentence's beginning before it
                head, piece = self._split_at_special(piece)
                yield self._continuation, head
            yield self._backend, piece

    def decoder(self, continues: bool = False) -> StreamDecoder:
        """A decoder for one stream of ids. continues: they go on in the middle of a text, so that no space is left out."""
        return StreamDecoder(self, self._to_bytes, continues)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids. Special tokens and ids outside the vocabulary have none; bytes that are not UTF-8 become U+FFFD."""
        decoder = self.decoder()
        return decoder.push(ids) + decoder.flush()

    def token_bytes(self, id: int) -> bytes:
        """The UTF-8 bytes (perhaps part of a character) that an id adds in the middle of a text."""
        if id not in self._bytes:
            token = "" if id in self.special_ids else self._backend.id_to_token(id) or ""
            self._bytes[id] = self._to_bytes.bytes_of(token)
        return self._bytes[id]

    def token_text(self, id: int) -> str | None:
        """`token_bytes` as text; None where they are no whole characters."""
        if id not in self._texts:
            try:
                self._texts[id] = self.token_bytes(id).decode()
            except UnicodeDecodeError:
                self._texts[id] = None
        return self._texts[id]

    def _split_at_special(self, piece: str) -> tuple[str, str]:
        starts = [start for token in self.special_tokens if (start := piece.find(token)) >= 0]
        cut = min(starts, default=len(piece))
        return piece[:cut], piece[cut:]

    @cached_property
    def _plain(self) -> tokenizers.Tokenizer:
        plain = tokenizers.Tokenizer.from_str(self._backend.to_str())
        plain.encode_special_tokens = True
        return plain

    @cached_property
    def _continuation(self) -> tokenizers.Tokenizer:
        description = json.loads(self._backend.to_str())
        for part in ("normalizer", "pre_tokenizer"):
            description[part] = _without_prefix_space(description[part])
        continuation = tokenizers.Tokenizer.from_str(json.dumps(description))
        continuation.encode_special_tokens = True
        return continuation


_Utf8 = codecs.getincrementaldecoder("utf-8")


class StreamDecoder:
    """Turns a stream of ids into text, whole characters only; all pushed text and the flush add up to `Tokenizer.decode`."""

    def __init__(self, tokenizer: Tokenizer, rule: _ByteRule, continues: bool = False) -> None:
        self._tokenizer = tokenizer
        self._utf8 = _Utf8("replace")
        self._unspaced_token = rule.unspace_first_token and not continues
        self._strip = 0 if continues else rule.strip_start
        self._between = not (self._unspaced_token or self._strip)  # two whole characters, behind the start

    def push(self, ids: Iterable[int]) -> str:
        """The text that these ids complete. The bytes of an unfinished character wait for the next push."""
        texts = []
        for id in ids:
            text = self._tokenizer.token_text(id) if self._between else None
            texts.append(self._decode(id) if text is None else text)
        return "".join(texts)

    def _decode(self, id: int) -> str:
        data = self._tokenizer.token_bytes(id)
        if data and self._unspaced_token:
            data, self._unspaced_token = data.replace(b" ", b""), False
        text = self._without_start(self._utf8.decode(data))
        self._between = not (self._unspaced_token or self._strip or self._utf8.getstate()[0])
        return text

    def flush(self) -> str:
        """What is left at the end: U+FFFD for an unfinished character, else nothing."""
        return self._without_start(self._utf8.decode(b"", final=True))

    def _without_start(self, text: str) -> str:
        while self._strip and text:
            if text[0] != " ":
                self._strip = 0
            else:
                text, self._strip = text[1:], self._strip - 1
        return text


def load_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of model directory `path`: its tokenizer.json.

    Stop ids are the union of eos_token (tokenizer_config.json) and eos_token_id (generation_config.json, config.json).
    Raises ModelError when tokenizer.json is missing, malformed, or of a kind that cannot be streamed.
    """
    file = path / "tokenizer.json"
    if not file.exists():
        raise ModelError(
            f"{path} has no tokenizer.json. Save it with transformers (AutoTokenizer.from_pretrained, then save_pretrained)."
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises bare Exception
        raise ModelError(f"{file} is malformed ({error}). Download it again.") from None
    return Tokenizer(backend, _read_eos_ids(path, backend))


def named_tokens(path: Path) -> dict[str, str]:
    """bos_token, eos_token and the like of tokenizer_config.json as text; empty where there is no such file."""
    file = path / "tokenizer_config.json"
    config = read_json(file) if file.exists() else {}
    named = {key: value.get("content") if isinstance(value, dict) else value for key, value in config.items()}
    return {key: value for key, value in named.items() if key.endswith("_token") and isinstance(value, str)}


def _encode(backend: tokenizers.Tokenizer, text: str) -> list[int]:
    # the batch call keeps no offsets into the text, which halves the time of a long prompt
    return backend.encode_batch_fast([text], add_special_tokens=False)[0].ids


def _text_start(processor: dict[str, Any] | None) -> tuple[int, ...]:
    """The special tokens that a tokenizer.json's "post_processor" writes before a text."""
    for step in (processor or {}).get("processors", [processor or {}]):
        if step.get("type") == "TemplateProcessing":
            start = takewhile(lambda piece: "SpecialToken" in piece, step["single"])
            return tuple(id for piece in start for id in step["special_tokens"][piece["SpecialToken"]["id"]]["ids"])
    return ()


def _read_eos_ids(path: Path, backend: tokenizers.Tokenizer) -> set[int]:
    found = set()
    for file in (path / "generation_config.json", path / "config.json"):
        ids = read_json(file).get("eos_token_id") if file.exists() else None
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    eos = named_tokens(path).get("eos_token")
    if eos is not None:
        found.add(backend.token_to_id(eos))
    return {id for id in found if isinstance(id, int)}


@dataclass(frozen=True)
class _ByteRule:
    """How one token's text becomes bytes: the part of a tokenizer.json's "decoder" that families really use."""

    byte_level: bool = False  # GPT-2's alphabet: one letter per byte
    replace: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False  # <0xE2> is a byte
    strip_start: int = 0  # so many spaces at the start of a text are the format's, not the text's
    unspace_first_token: bool = False  # so are all spaces of the first token

    @classmethod
    def of(cls, decoder: dict[str, Any] | None) -> _ByteRule:
        if decoder is None:
            raise ModelError("tokenizer.json has no decoder: its tokens cannot be turned back into text.")
        rule: dict[str, Any] = {}
        for step in decoder.get("decoders", [decoder]):
            match step:
                case {"type": "ByteLevel"}:
                    rule["byte_level"] = True
                case {"type": "ByteFallback"}:
                    rule["byte_fallback"] = True
                case {"type": "Fuse"}:
                    pass
                case {"type": "Replace", "pattern": {"String": old}, "content": new}:
                    rule["replace"] = (*rule.get("replace", ()), (old, new))
                case {"type": "Strip", "content": " ", "start": start, "stop": 0}:
                    rule["strip_start"] = start
                case {"type": "Metaspace", "replacement": space, "prepend_scheme": scheme}:
                    rule["replace"] = (*rule.get("replace", ()), (space, " "))
                    rule["unspace_first_token"] = scheme != "never"
                case _:
                    raise ModelError(f"tokenizer.json's decoder has a step {step.get('type')!r} that is not supported.")
        return cls(**rule)

    def bytes_of(self, token: str) -> bytes:
        if self.byte_level:
            try:
                return bytes(_BYTE_OF_LETTER[letter] for letter in token)
            except KeyError:  # an added token, kept as it was written
                return token.encode()
        for old, new in self.replace:
            token = token.replace(old, new)
        if self.byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes([int(token[3:5], 16)])
            except ValueError:
                pass
        return token.encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's letter of each byte: printable Latin-1 stands for itself, the rest moves up to U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    moved = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + number): byte for number, byte in enumerate(moved)}


_BYTE_OF_LETTER = _byte_alphabet()


def _without_prefix_space(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer or pre_tokenizer of tokenizer.json that no longer puts a space before the text."""
    if part is None or part["type"] == "Prepend":
        return None
    if part["type"] == "Sequence":
        key = "normalizers" if "normalizers" in part else "pretokenizers"
        steps = [_without_prefix_space(step) for step in part[key]]
        return part | {key: [step for step in steps if step is not None]}
    if part["type"] == "Metaspace":
        return part | {"prepend_scheme": "never"}
    return part | {"add_prefix_space": False} if "add_prefix_space" in part else part
