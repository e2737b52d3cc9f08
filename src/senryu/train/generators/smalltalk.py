"""Generated conversations: greetings, identity, small talk, honest ignorance, asking back. Seeded, from `phrases.toml`."""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from senryu.train.generators.common import Row, Split


@dataclass(frozen=True)
class Topic:
    """What users may say, and the parts of an answer: one string of each part is taken."""

    weight: float
    users: list[str]
    answers: list[list[str]]
    opening: bool = True


_DATA = tomllib.loads((Path(__file__).parents[1] / "phrases.toml").read_text(encoding="utf8"))
BANKS: dict[str, list[str]] = _DATA["banks"]
FILLERS: dict[str, list[str]] = _DATA["fillers"]
TOPICS = {
    name: Topic(**{**table, "answers": [BANKS[part] if isinstance(part, str) else part for part in table["answers"]]})
    for name, table in _DATA["topics"].items()
}

COUNT = 14000  # conversations of one call, before duplicates fall out
Message = dict[str, Any]

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "You are Senryu, a small language model.",
    "Answer in one or two sentences.",
    "You are a friendly assistant.",
    "Be polite and brief.",
    "You are a helpful, honest assistant.",
    "You are a chat assistant. If you do not know something, say so.",
    "Keep your answers short.",
    "You help people with small text tasks.",
    "You are an AI assistant.",
    "Be helpful and kind.",
    "Do not invent facts.",
    "Reply in plain words.",
)
COMPANIES = (
    "Acme Bank",
    "Northwind",
    "Blue River Hotel",
    "Green Garden",
    "City Library",
    "Sunny Travel",
    "Corner Bakery",
    "Oak Insurance",
    "Swift Parcels",
    "Bright Energy",
    "Harbour Clinic",
    "Book Nook",
    "Metro Bikes",
    "Hill Farm",
    "Nova Phones",
)
WORDS = [
    "apple",
    "river",
    "stone",
    "green",
    "window",
    "table",
    "lamp",
    "music",
    "garden",
    "bread",
    "cloud",
    "silver",
    "orange",
    "happy",
    "quiet",
    "little",
    "train",
    "winter",
    "summer",
    "paper",
    "bridge",
    "coffee",
    "morning",
    "letter",
    "circle",
    "yellow",
    "mountain",
    "forest",
    "ocean",
    "pencil",
    "button",
    "rocket",
    "tiger",
    "planet",
    "sugar",
]
SUCCESSORS = (
    (["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "Monday"], "day"),
    (
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
            "January",
        ],
        "month",
    ),
)
OPPOSITES = (
    "hot cold",
    "big small",
    "up down",
    "day night",
    "good bad",
    "old new",
    "fast slow",
    "happy sad",
    "open closed",
    "long short",
    "left right",
    "rich poor",
    "light dark",
    "high low",
    "early late",
    "strong weak",
    "full empty",
    "wet dry",
    "loud quiet",
)
FACTS = (
    ("How many days are in a week?", "A week has seven days."),
    ("How many months are in a year?", "A year has twelve months."),
    ("How many hours are in a day?", "A day has 24 hours."),
    ("What color is the sky?", "On a clear day the sky is blue."),
    ("What color is grass?", "Grass is green."),
    ("How many legs does a dog have?", "A dog has four legs."),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is the capital of Germany?", "The capital of Germany is Berlin."),
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("What is the capital of Spain?", "The capital of Spain is Madrid."),
    ("What is the capital of Japan?", "The capital of Japan is Tokyo."),
    ("What is the capital of England?", "The capital of England is London."),
    ("How many minutes are in an hour?", "An hour has 60 minutes."),
    ("What is water made of?", "Water is made of hydrogen and oxygen."),
    ("What is a haiku?", "A haiku is a short Japanese poem of three lines, most often about nature."),
    ("What is a senryu?", "A senryu is a short Japanese poem like a haiku, but about people and their habits."),
)


def rows(seed: int, split: Split = "train") -> Iterator[Row]:
    """Rows without end. Small talk has no exact answer, so no phrases are held back: ValueError for the test split."""
    if split != "train":
        raise ValueError("smalltalk has no test split; use another generator")
    for later in count():
        for messages in conversations(seed + later):
            yield {"task": "smalltalk", "source": "generated", "messages": messages}


def conversations(seed: int) -> Iterator[list[Message]]:
    """Distinct conversations of one to four exchanges, as template messages, in a seeded order."""
    draw = random.Random(seed)
    seen: set[str] = set()
    for _ in range(COUNT):
        messages = _conversation(draw)
        key = repr(messages)
        if key not in seen:
            seen.add(key)
            yield messages


def _conversation(draw: random.Random) -> list[Message]:
    if draw.random() < 0.05:
        return _company(draw)
    messages: list[Message] = []
    if draw.random() < 0.35:
        messages.append({"role": "system", "content": draw.choice(SYSTEMS)})
    values = {name: draw.choice(options) for name, options in FILLERS.items()}
    for turn in range(draw.choices((1, 2, 3, 4), (55, 25, 13, 7))[0]):
        if turn and draw.random() < 0.06:
            messages += _recall(draw, messages, values["name"])
        elif draw.random() < 0.14:
            messages += _exchange(*_small_task(draw), draw)
        else:
            topic = _pick(draw, opening=turn == 0)
            messages += _exchange(draw.choice(topic.users).format(**values), _answer(topic, draw).format(**values), draw)
        if draw.random() < 0.5:
            values = {name: values[name] if name == "name" else draw.choice(options) for name, options in FILLERS.items()}
    return messages


def _pick(draw: random.Random, *, opening: bool) -> Topic:
    topics = [t for t in TOPICS.values() if t.opening or not opening]
    return draw.choices(topics, [t.weight for t in topics])[0]


def _answer(topic: Topic, draw: random.Random) -> str:
    return " ".join(part for part in (draw.choice(options) for options in topic.answers) if part)


def _exchange(user: str, answer: str, draw: random.Random) -> list[Message]:
    return [{"role": "user", "content": _as_typed(user, draw)}, {"role": "assistant", "content": answer}]


def _as_typed(text: str, draw: random.Random) -> str:
    """How people type: often lower case, without the closing mark, with a word of address before."""
    if "\n" in text:
        return text
    if draw.random() < 0.1:
        text = f"{draw.choice(('Hey,', 'Hi,', 'Please:', 'Well,', 'So,', 'Hello,'))} {text[0].lower()}{text[1:]}"
    if draw.random() < 0.35:
        text = text.lower()
    if draw.random() < 0.3:
        text = re.sub(r"[.!?]+$", "", text) or text
    elif text[-1].isalnum() and draw.random() < 0.35:
        text += draw.choice((".", "!", "."))
    return text


def _recall(draw: random.Random, messages: list[Message], name: str) -> list[Message]:
    question = draw.choice(("What is my name?", "Do you remember my name?", "Who am I?", "What's my name?"))
    said = any(m["role"] == "user" and name.lower() in m["content"].lower() for m in messages)
    if said:
        return _exchange(
            question, draw.choice((f"Your name is {name}.", f"You told me that your name is {name}.", f"You are {name}.")), draw
        )
    return _exchange(
        question, draw.choice(("You have not told me your name yet.", "I do not know. You have not told me.")), draw
    )


def _small_task(draw: random.Random) -> tuple[str, str]:
    """A question with an exact answer: copying, little sums, what comes next, opposites, a few facts."""
    kind = draw.choice(("copy", "copy", "sum", "next", "opposite", "fact"))
    if kind == "copy":
        words = " ".join(draw.sample(WORDS, draw.randint(1, 4)))
        form = draw.choice(
            ("Say: {}", "Repeat: {}", "Repeat after me: {}", "Reply with exactly: {}", "Say '{}'", "Only answer with: {}")
        )
        return form.format(words), words
    if kind == "sum":
        a, b = draw.randint(0, 12), draw.randint(0, 12)
        sign, result = draw.choice((("+", a + b), ("-", a)))
        first = a if sign == "+" else a + b
        form = draw.choice(("What is {} {} {}?", "{} {} {} = ?", "How much is {} {} {}?", "Calculate {} {} {}"))
        return form.format(first, sign, b), draw.choice((str(result), f"{first} {sign} {b} = {result}"))
    if kind == "next":
        names, noun = draw.choice(SUCCESSORS)
        i = draw.randrange(len(names) - 1)
        return draw.choice(
            (f"What comes after {names[i]}?", f"Which {noun} follows {names[i]}?")
        ), f"{names[i + 1]} comes after {names[i]}."
    if kind == "opposite":
        pair = draw.choice(OPPOSITES).split()
        draw.shuffle(pair)
        return draw.choice(
            (f"What is the opposite of {pair[0]}?", f"Opposite of {pair[0]}")
        ), f"The opposite of {pair[0]} is {pair[1]}."
    return draw.choice(FACTS)


def _company(draw: random.Random) -> list[Message]:
    """An operator's system prompt: the model speaks for a company and copies its facts from the prompt."""
    company, hour = draw.choice(COMPANIES), draw.randint(7, 11)
    closing = draw.randint(4, 9)
    hours = f"Opening hours: {hour} am to {closing} pm."
    messages: list[Message] = [{"role": "system", "content": f"You are the assistant of {company}. {hours}"}]
    cases = [
        (("Hello", "Hi", "Good morning"), f"Hello and welcome to {company}! How can I help you?"),
        (
            ("When are you open?", "What are your opening hours?", "When do you open?"),
            f"We are open from {hour} am to {closing} pm.",
        ),
        (("Who are you?", "What is this?"), f"I am the assistant of {company}. How can I help you?"),
        (("Are you human?", "Am I talking to a person?"), f"No, I am a program, the assistant of {company}."),
        (
            ("Do you have parking?", "What is your phone number?", "Who is the manager?"),
            "I am sorry, I do not have that information.",
        ),
        (("Which model are you?", "What AI are you?"), draw.choice(BANKS["i_am"])),
    ]
    for users, answer in draw.sample(cases, draw.randint(1, 3)):
        messages += _exchange(draw.choice(users), answer, draw)
    return messages
