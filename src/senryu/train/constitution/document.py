"""A constitution as a file: principles with their reasons, from TOML or Markdown. What stands in it, not what it is used for.

name, version, licence, language
[[principle]]        id, text, why, kind, weight, critique, revise, prefer, applies_to, and [principle.rules]
[[hard_constraint]]  the same; never weighed against anything, always first
[[example]]          principle, prompt, bad, good
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from senryu.train.recipe import RecipeError

T = TypeVar("T")
KINDS = ("harm", "honesty", "helpful", "style")
OURS = Path(__file__).parent / "constitution.toml"
_LISTS = ("applies_to", "detect", "words")


class ConstitutionError(RecipeError):
    """A constitution, or the data made with it, that cannot be used; the message names the place and what to do."""


@dataclass(frozen=True)
class Rules:
    """What the judge `rules` needs to see a principle in a text, and to revise by it.

    detect: names of detectors (`detectors.DETECTORS`). words: whole words or phrases; who speaks of them is declined.
    topic, why, offer: the parts of a refusal ("I can't help with {topic}, because {why}. {offer}"); those that are missing are
    drawn from the phrases of the detector's category.
    """

    detect: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    topic: str = ""
    why: str = ""
    offer: str = ""


@dataclass(frozen=True)
class Principle:
    """One principle. critique, revise, prefer: requests to a model in place of the general ones (`render`).

    weight: how often it is drawn, next to others. applies_to: categories of prompts that it is about; all when empty.
    hard: from [[hard_constraint]]; it comes before all others.
    """

    id: str
    text: str
    why: str = ""
    kind: str = "harm"
    weight: float = 1.0
    critique: str = ""
    revise: str = ""
    prefer: str = ""
    applies_to: tuple[str, ...] = ()
    rules: Rules = Rules()
    hard: bool = False

    def about(self, category: str) -> bool:
        """Whether prompts of a category concern it; a prompt without a category may concern any."""
        return not self.applies_to or not category or category in self.applies_to


@dataclass(frozen=True)
class Example:
    """How a principle looks in practice. principle: its id."""

    principle: str
    prompt: str
    bad: str
    good: str


@dataclass(frozen=True)
class Constitution:
    """The whole document; hard constraints stand first among the principles."""

    name: str
    principles: tuple[Principle, ...]
    version: str = "1"
    licence: str = ""
    language: str = "en"
    examples: tuple[Example, ...] = field(default=())

    def principle(self, id: str) -> Principle:
        """Raises KeyError when there is none of that id."""
        for principle in self.principles:
            if principle.id == id:
                return principle
        raise KeyError(id)


def load(path: Path) -> Constitution:
    """A constitution from a .toml or a Markdown file. Raises ConstitutionError with the place of the first mistake."""
    try:
        text = path.read_text(encoding="utf8")
    except FileNotFoundError:
        raise ConstitutionError(f"{path} does not exist; name a constitution in TOML or Markdown") from None
    except UnicodeDecodeError as error:
        raise ConstitutionError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); save it as UTF-8") from None
    if path.suffix.lower() in (".md", ".markdown"):
        return from_markdown(text, str(path))
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConstitutionError(f"{path}: {error}; correct the TOML, or name a Markdown file .md") from None
    return from_table(table, str(path))


def from_table(table: dict[str, Any], where: str) -> Constitution:
    """A constitution from its TOML as a table; `where` opens every message."""
    parts = dict(table)
    found = []
    for key, hard in (("hard_constraint", True), ("principle", False)):
        for number, entry in enumerate(_tables(parts.pop(key, []), f"{where}: [[{key}]]"), start=1):
            found.append(_principle(entry, f"{where}: [[{key}]] {number}", hard))
    examples = tuple(
        _build(Example, entry, f"{where}: [[example]] {number}")
        for number, entry in enumerate(_tables(parts.pop("example", []), f"{where}: [[example]]"), start=1)
    )
    if "principles" in parts or "examples" in parts:
        raise ConstitutionError(
            f"{where}: the tables are called [[principle]], [[hard_constraint]] and [[example]]; rename them"
        )
    made = _build(Constitution, {**parts, "principles": tuple(found), "examples": examples}, where)
    return _checked(made, where)


def from_markdown(text: str, where: str) -> Constitution:
    """A constitution from Markdown: each heading with text below it is a principle, a lone first heading of level 1 the name.

    Under a heading the first paragraph is what is asked for, the rest, or what follows "Why:" or "Because", the reason; without
    text the heading itself is the principle if it is a sentence. Requests for critique and revision are the general ones.
    """
    parts = [part for part in re.split(r"(?m)^(#{1,6})[ \t]+(.+?)[ \t#]*$", text)[1:] if part is not None]
    sections = [(len(parts[i]), parts[i + 1].strip(), parts[i + 2].strip()) for i in range(0, len(parts), 3)]
    name = Path(where).stem
    if sections and sections[0][0] == 1 and sum(level == 1 for level, _, _ in sections) == 1 and len(sections) > 1:
        name = sections.pop(0)[1]
    principles: list[Principle] = []
    for number, (_, heading, body) in enumerate(sections, start=1):
        wanted, _, why = re.sub(r"(?im)^\W*(?:why|reason)\W*:\W*", "\n\n", body).strip().partition("\n\n")
        if not wanted and len(heading.split()) < 3:
            continue  # a chapter of principles
        id = re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-")[:40].strip("-") or f"principle-{number}"
        taken = {principle.id for principle in principles}
        said, reason = _plain(wanted or heading), _plain(why)
        split = re.match(r"(.+[.!]) (Because\b.+)$", said)
        if not reason and split:
            said, reason = split.group(1), split.group(2)
        principles.append(Principle(id if id not in taken else f"{id}-{number}", said, reason))
    return _checked(Constitution(name, tuple(principles)), where)


def _plain(text: str) -> str:
    """Markdown's paragraph as one line, list marks and emphasis gone."""
    text = re.sub(r"(?m)^\s*(?:[-*+]|\d+[.)])\s+", "", text)
    return " ".join(re.sub(r"[*_`]{1,3}(\S.*?\S|\S)[*_`]{1,3}", r"\1", text).split())


def _principle(entry: dict[str, Any], where: str, hard: bool) -> Principle:
    if "hard" in entry:
        raise ConstitutionError(f"{where}: hard is said by [[hard_constraint]]; remove the key")
    rules = entry.get("rules", {})
    if not isinstance(rules, dict):
        raise ConstitutionError(f"{where}: rules must be a table; write [principle.rules]")
    made = {**entry, "rules": _build(Rules, rules, f"{where} rules"), "hard": hard}
    principle = _build(Principle, made, where)
    if principle.kind not in KINDS:
        raise ConstitutionError(f"{where}: kind `{principle.kind}` is unknown; use one of {', '.join(KINDS)}")
    if not 0 < principle.weight < float("inf"):
        raise ConstitutionError(f"{where}: weight = {principle.weight} must be above 0; to switch a principle off remove it")
    if not principle.text.strip():
        raise ConstitutionError(f"{where}: text is empty; say what is asked for")
    return principle


def _tables(value: Any, where: str) -> Sequence[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise ConstitutionError(f"{where} must be tables; write the name in double brackets")
    return value


def _build(kind: type[T], table: dict[str, Any], where: str) -> T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    values = dict(table)
    for key, value in table.items():
        if key not in known:
            raise ConstitutionError(f"{where}: unknown key `{key}`; known keys: {', '.join(known)}")
        if key in _LISTS:
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) and item.strip() for item in value):
                raise ConstitutionError(f"{where}: {key} must be a list of texts")
            values[key] = tuple(value)
        elif known[key].type == "float":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConstitutionError(f"{where}: {key} must be a number")
        elif known[key].type == "str" and not isinstance(value, str):
            raise ConstitutionError(f"{where}: {key} must be a text; put it in quotes")
    missing = [n for n, f in known.items() if f.default is MISSING and n not in table]
    if missing:
        raise ConstitutionError(f"{where}: missing {', '.join(missing)}; add them")
    return kind(**values)


def _checked(made: Constitution, where: str) -> Constitution:
    if not made.principles:
        raise ConstitutionError(f"{where} has no principle; add [[principle]] tables, or headings in Markdown")
    seen: set[str] = set()
    for principle in made.principles:
        if principle.id in seen:
            raise ConstitutionError(f"{where}: two principles have the id `{principle.id}`; rename one")
        seen.add(principle.id)
    for number, example in enumerate(made.examples, start=1):
        if example.principle not in seen:
            raise ConstitutionError(
                f"{where}: [[example]] {number} is of `{example.principle}`, which no principle has as its id"
            )
    return made
