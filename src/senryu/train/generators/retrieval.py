"""Long texts with something to find: needles, pairs, the last word on something, a count, a clause, chains of variables."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from senryu.train.generators import filler
from senryu.train.generators.common import Row, Split, Talk, address, banks, code, person, stream

SHORTEST = 400  # characters: three needles and some filler
PLAIN = 20_000  # characters: a longer text has told filler, which does not repeat itself
CHAINS = 4  # of variables in a text with many questions, at most
PER_NEEDLE, MOST_NEEDLES, PER_CHAIN = 500, 40, 1_500  # characters of a text with many questions for each needle, each chain
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


class Hidden(NamedTuple):
    """Sentences to hide in their order, and what is asked. unique: values that stand nowhere but in these sentences."""

    planted: list[str]
    question: str
    answer: str
    unique: tuple[str, ...]


def rows(
    seed: int,
    split: Split = "train",
    *,
    chars: int = 4000,
    exactly: bool = False,
    kind: str = "",
    documents: Sequence[str] = (),
) -> Iterator[Row]:
    """Rows without end; `text` (what is searched), `kind` and `answer` stand beside the conversation.

    chars: how long a text is at most, SHORTEST or more. exactly: every text is that long but for a sentence; otherwise lengths
    are drawn, every order of magnitude as often as the next. kind: one of KINDS; all of them by default. documents: texts whose
    sentences are the filler; without them it is made by code: told in long texts and in half of the rows of all kinds.
    Raises ValueError for a length or kind that cannot be.
    """
    _check(chars, kind)

    def make(draw: random.Random) -> Row:
        length = chars if exactly else round(SHORTEST * (chars / SHORTEST) ** draw.random())
        told = length > PLAIN or (not kind and draw.random() < 0.5)
        return _row(draw, split, length, kind or draw.choice(KINDS), told, documents)

    return stream(f"retrieval {kind}", seed, split, make)


def over_one_text(
    seed: int, split: Split = "test", *, chars: int, depths: Sequence[float], documents: Sequence[str] = ()
) -> Iterator[list[Row]]:
    """Texts without end, each with many questions: the rows of one text begin with the same prompt up to the text's end.

    chars: of the text, at most. depths: 0 to 1, where in the text the needles lie. A row a needle (`depth` is its own), then
    CHAINS rows each for two needles together and for the end of a chain of three variables, whose links lie anywhere.
    `values` are those that the answer says, in its order; `planted` all that stand in the text. documents: as in `rows`.
    Raises ValueError for less than two depths, and where the text is too short for so much.
    """
    if len(depths) < 2:
        raise ValueError(f"depths = {depths} is too few; two needles can be asked for together")

    def make(draw: random.Random) -> list[Row]:
        return _rows_over(draw, split, _asked(draw, split, chars, depths, CHAINS, True, documents))

    return stream("retrieval text", seed, split, make)


def _check(chars: int, kind: str = "") -> None:
    if chars < SHORTEST:
        raise ValueError(f"chars = {chars} is too short for a text with needles; use {SHORTEST} or more")
    if kind and kind not in KINDS:
        raise ValueError(f"kind = {kind!r} is unknown; use one of {', '.join(KINDS)}")


def _row(draw: random.Random, split: Split, chars: int, kind: str, told: bool, documents: Sequence[str]) -> Row:
    if kind == "many":
        return _conversation(draw, split, chars, told, documents)
    if kind == "pairs":
        hidden, joint = _table(draw, split, chars), "\n"
        text = joint.join(hidden.planted)
    else:
        hidden = _MAKERS[kind](draw, split)
        while (room := chars - sum(len(sentence) + 1 for sentence in hidden.planted)) < 0:
            hidden = _MAKERS[kind](draw, split)  # so many sentences do not fit
        pieces = _filler(draw, split, room, told, documents, hidden.unique)
        places = sorted(draw.randint(0, len(pieces)) for _ in hidden.planted)
        text = _hide(pieces, list(zip(places, hidden.planted)))
    prompt = draw.choice(banks("retrieval", split)["prompts"]).replace("{q}", hidden.question).replace("{t}", text)
    return Talk("retrieval").user(prompt).say(hidden.answer).row(kind=kind, text=text, answer=hidden.answer)


def _filler(
    draw: random.Random, split: Split, chars: int, told: bool, documents: Sequence[str], unique: Sequence[str]
) -> list[str]:
    """Pieces with their white space; none that holds a value by chance."""
    if not documents:
        return (filler.told if told else filler.plain)(draw, split, chars)
    pieces = filler.quoted(draw, documents, chars)
    return [piece for piece in pieces if not any(value in piece for value in unique)]


def _hide(pieces: list[str], planted: list[tuple[int, str]]) -> str:
    """The pieces with each planted sentence before the piece of its number; `planted` by place."""
    for place, sentence in reversed(planted):
        pieces.insert(place, sentence + " ")
    return "".join(pieces).rstrip()


class Question(NamedTuple):
    """One question over a text; `depth` is that of its needle, where it asks for one."""

    kind: str
    words: str
    values: tuple[str, ...]
    depth: float | None = None


class Asked(NamedTuple):
    """A text, the values that stand in it, and what can be asked for."""

    text: str
    planted: list[str]
    questions: list[Question]


def _asked(
    draw: random.Random, split: Split, chars: int, depths: Sequence[float], chains: int, told: bool, documents: Sequence[str]
) -> Asked:
    """A text of at most so many characters with a needle at each depth and chains of three variables anywhere."""
    bank = banks("retrieval", split)
    pairs = _pairs(draw, split, len(depths))
    needles = [draw.choice(bank["needles"]).format(k=key, x=value) for key, value in pairs]
    names = set[str]()
    while len(names) < 3 * chains:
        names.add("".join(draw.choices(LETTERS, k=4)))
    chained, numbers = [sorted(names)[i::chains] for i in range(chains)], draw.sample(range(1000, 100_000), chains)
    links = _merged(draw, _chains(draw, split, chained, numbers))
    room = chars - sum(len(sentence) + 1 for sentence in needles + links)
    if room < 0:
        wanted = f"{len(depths)} needles and {chains} chains"
        raise ValueError(f"chars = {chars} is too short for {wanted}; use {chars - room} or more")
    values = [*(value for _, value in pairs), *map(str, numbers)]
    pieces = _filler(draw, split, room, told, documents, (*values, *names))
    places = [(round(depth * len(pieces)), needle) for depth, needle in zip(depths, needles)]
    places += zip(sorted(draw.randint(0, len(pieces)) for _ in links), links)
    text = _hide(pieces, sorted(places, key=lambda place: place[0]))
    questions = [Question("needle", draw.choice(bank["ask"]).format(k=k), (x,), d) for (k, x), d in zip(pairs, depths)]
    for chain, number in zip(chained, numbers):
        keys, found = zip(*draw.sample(pairs, 2))
        questions.append(Question("needles", draw.choice(bank["ask_many"]).format(k=" and ".join(keys)), found))
        questions.append(Question("variables", draw.choice(bank["ask_variable"]).format(k=chain[-1]), (str(number),)))
    return Asked(text, values, questions)


def _rows_over(draw: random.Random, split: Split, asked: Asked) -> list[Row]:
    """A row a question, all of one wording in which the text stands first."""
    forms = [form for form in banks("retrieval", split)["prompts"] if form.index("{t}") < form.index("{q}")]
    prompt = draw.choice(forms).replace("{t}", asked.text)
    out = []
    for question in asked.questions:
        answer = ", ".join(question.values)
        talk = Talk("retrieval").user(prompt.replace("{q}", question.words)).say(answer)
        more = {"values": list(question.values), "planted": asked.planted, "depth": question.depth}
        out.append(talk.row(kind=question.kind, text=asked.text, answer=answer, **more))
    return out


def _conversation(draw: random.Random, split: Split, chars: int, told: bool, documents: Sequence[str]) -> Row:
    """Question after question over one text, in one conversation: of a long text a network learns from many answers."""
    needles, chains = min(max(chars // PER_NEEDLE, 2), MOST_NEEDLES), min(chars // PER_CHAIN, CHAINS)
    asked = _asked(draw, split, chars, sorted(draw.random() for _ in range(needles)), chains, told, documents)
    draw.shuffle(asked.questions)
    talk, prompt = Talk("retrieval"), draw.choice(banks("retrieval", split)["prompts"]).replace("{t}", asked.text)
    for number, question in enumerate(asked.questions):
        talk.user(question.words if number else prompt.replace("{q}", question.words)).say(", ".join(question.values))
    return talk.row(kind="many", text=asked.text, answer=", ".join(asked.questions[-1].values))


def _needle(draw: random.Random, split: Split) -> Hidden:
    """One needle that is asked for; now and then with another beside it that is not."""
    bank = banks("retrieval", split)
    pairs = _pairs(draw, split, draw.choice((1, 1, 2)))
    planted = [draw.choice(bank["needles"]).format(k=key, x=value) for key, value in pairs]
    key, value = draw.choice(pairs)
    return Hidden(planted, draw.choice(bank["ask"]).format(k=key), value, tuple(value for _, value in pairs))


def _needles(draw: random.Random, split: Split) -> Hidden:
    bank = banks("retrieval", split)
    pairs = _pairs(draw, split, 3)
    planted = [draw.choice(bank["needles"]).format(k=key, x=value) for key, value in pairs]
    asked = draw.sample(pairs, 2)
    question = draw.choice(bank["ask_many"]).format(k=" and ".join(key for key, _ in asked))
    return Hidden(planted, question, ", ".join(value for _, value in asked), tuple(value for _, value in pairs))


def _variables(draw: random.Random, split: Split) -> Hidden:
    """Two chains of variables in the text's order; the value of one's last link is asked for."""
    bank = banks("retrieval", split)
    names = draw.sample(["".join(draw.choices(LETTERS, k=4)) for _ in range(12)], 5)
    values = draw.sample(range(1000, 100000), 2)
    chains = [names[:3], names[3:]]
    merged = _merged(draw, _chains(draw, split, chains, values))
    asked = draw.randrange(2)
    question = draw.choice(bank["ask_variable"]).format(k=chains[asked][-1])
    return Hidden(merged, question, str(values[asked]), (*names, *map(str, values)))


def _chains(draw: random.Random, split: Split, chains: Sequence[list[str]], values: Sequence[int]) -> list[list[str]]:
    """For each chain of names the sentences that hand its value on."""
    bank = banks("retrieval", split)
    first, second = draw.choice(bank["variables"]), draw.choice(bank["copies"])
    said = []
    for chain, value in zip(chains, values, strict=True):
        said.append([first.format(k=chain[0], x=value)])
        said[-1] += [second.format(k=new, x=old) for old, new in pairwise(chain)]
    return said


def _merged(draw: random.Random, parts: list[list[str]]) -> list[str]:
    """All sentences in one list, those of each part in their order."""
    merged: list[str] = []
    while any(parts):
        merged.append(draw.choice([part for part in parts if part]).pop(0))
    return merged


def _last(draw: random.Random, split: Split) -> Hidden:
    """Values that change several times; the one that holds at the end is asked for."""
    bank = banks("retrieval", split)
    keys = [key for key, _ in _pairs(draw, split, 2)]
    values = draw.sample(range(1000, 10_000), 8)
    histories = [[f"{code(draw)[:3]}{values.pop()}" for _ in range(draw.randint(2, 4))] for _ in keys]
    said = [[draw.choice(bank["updates"]).format(k=k, x=x) for x in history] for k, history in zip(keys, histories)]
    asked = draw.randrange(len(keys))
    unique = tuple(value for history in histories for value in history)
    return Hidden(_merged(draw, said), draw.choice(bank["ask_last"]).format(k=keys[asked]), histories[asked][-1], unique)


def _count(draw: random.Random, split: Split) -> Hidden:
    """Somebody does something up to nine times, and somebody else as well, and both do other things."""
    bank = banks("retrieval", split)
    keys = [key for key, _ in _pairs(draw, split, 2, people=True)]
    event, other = draw.sample(bank["events"], 2)
    times = {(keys[0], event): draw.randint(1, 9), (keys[1], event): draw.randint(0, 4), (keys[0], other): draw.randint(0, 4)}
    planted = [draw.choice(bank["counted"]).format(k=k, e=e) for (k, e), count in times.items() for _ in range(count)]
    draw.shuffle(planted)
    question = draw.choice(bank["ask_count"]).format(k=keys[0], e=event)
    return Hidden(planted, question, str(times[keys[0], event]), (event, other))


def _quote(draw: random.Random, split: Split) -> Hidden:
    """A few numbered clauses in their order; one is to be quoted."""
    bank = banks("retrieval", split)
    name, numbers = draw.choice(bank["clauses"]), sorted(draw.sample(range(2, 100), draw.randint(2, 4)))
    clauses: dict[str, int] = {}
    while len(clauses) < len(numbers):
        parts = (draw.choice(bank[part]) for part in ("parties", "duties", "terms", "conditions"))
        clauses.setdefault(" ".join(parts).format(n=draw.randint(2, 30)) + ".", numbers[len(clauses)])
    planted = [f"{name} {number}: {clause}" for clause, number in clauses.items()]
    clause = draw.choice(list(clauses))
    question = draw.choice(bank["ask_quote"]).format(h=name, n=clauses[clause])
    return Hidden(planted, question, clause, tuple(f"{name} {number}" for number in numbers))


def _table(draw: random.Random, split: Split, chars: int) -> Hidden:
    """Pairs of keys and values, a line each, of at most so many characters together: nothing but what may be asked for."""
    bank = banks("retrieval", split)
    form, pairs, lines = draw.choice(bank["pairs"]), dict[str, str](), list[str]()
    values = set[str]()
    while True:
        key, value = code(draw), str(draw.randint(10_000, 9_999_999))
        if key in pairs or value in values:
            continue
        line = form.format(k=key, x=value)
        chars -= len(line) + 1
        if chars < 0:
            break
        pairs[key] = value
        values.add(value)
        lines.append(line)
    key = draw.choice(list(pairs))
    return Hidden(lines, draw.choice(bank["ask_pair"]).format(k=key), pairs[key], ())


_MAKERS: dict[str, Callable[[random.Random, Split], Hidden]] = {
    "needle": _needle,
    "needles": _needles,
    "variables": _variables,
    "last": _last,
    "count": _count,
    "quote": _quote,
}
KINDS = (*_MAKERS, "pairs", "many")


def _pairs(draw: random.Random, split: Split, count: int, *, people: bool = False) -> list[tuple[str, str]]:
    """Distinct keys, people and addresses or people alone, with distinct values."""
    out: dict[str, str] = {}
    while len(out) < count:
        make = person if people else draw.choice((person, address))
        key = make(draw, split).replace(",", " in")
        value = draw.choice((code(draw), str(draw.randint(10000, 9999999))))
        if value not in out.values():
            out.setdefault(key, value)
    return list(out.items())
