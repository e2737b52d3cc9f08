"""Recipes: one TOML file says everything a model is trained from - shape, data mix, schedules, seed."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from senryu.train.generators import GENERATORS
from senryu.train.generators.retrieval import SHORTEST
from senryu.train.net import NetConfig

T = TypeVar("T")
FORMS = ("text", "chat", "intent_prompts")  # what a file of rows may hold
RAW = ("folder", "url", "stdlib")  # kinds of sources that nobody has looked through
_FILTERS = ("clean", "dedupe", "epochs", "licence")
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # kind -> keys that it needs and keys that it may have
    **dict.fromkeys(FORMS, (("path",), ("bad_rows", *_FILTERS))),
    "folder": (("path",), ("glob", *_FILTERS)),
    "url": (("url", "sha256"), ("holds", "bad_rows", *_FILTERS)),
    "stdlib": ((), _FILTERS),
    "preference": (("path",), ()),
    "generated": (("name",), ("chars",)),
}
CHOICES = {"holds": FORMS, "dedupe": ("none", "exact", "near"), "bad_rows": ("error", "skip")}
STAGES = ("pretrain", "sft", "long", "constitutional", "reward", "dpo", "rl")  # in the order in which they run
PAIRS = ("preference", "generated")  # kinds of sources in a mix of pairs
MIXES = {"reward": PAIRS, "dpo": PAIRS, "rl": (*PAIRS, "intent_prompts")}  # and of prompts; other stages mix documents
DOCUMENTS = (*FORMS, *RAW, "generated")
KINDS: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,)}


class RecipeError(ValueError):
    """A recipe that cannot be used; the message names the file, the key and what to do."""


@dataclass(frozen=True)
class Source:
    """One slice of a data mix: `share` of its tokens, from what `kind` says.

    text, chat, intent_prompts  the rows of the file `path` (.jsonl, .jsonl.gz, .jsonl.xz): {"text"}; conversations in either
                                common form; the labelled rows of a chat file, in the wording of the evaluation
    folder     every text file below the folder `path`, or those that match `glob` (patterns), a document each
    url        the file at `url`, of exactly this `sha256`, downloaded once; `holds` text, chat or intent_prompts
    stdlib     the installed Python's standard library, as code
    preference  pairs of answers, in the file `path` of the run's folder or of the data's
    generated  rows of the generator `name`, fresh ones without end; in a mix of pairs, spoilt ones beside. `chars`: of a
               `retrieval` text, the most

    A path starts from the folder of the data, unless it is absolute. The other keys: see `is_cleaned` and `copies`, and
    bad_rows: "error" stops at a row that cannot be used, "skip" counts it and goes on. epochs: how often the source may be
    repeated to fill its share. licence: for the manifest, where the rows carry none.
    """

    kind: str
    share: float
    path: str = ""
    name: str = ""
    chars: int = 0
    glob: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    holds: str = "text"
    clean: bool | None = None
    dedupe: str = ""
    bad_rows: str = "error"
    epochs: int = 4
    licence: str = ""

    @property
    def label(self) -> str:
        """What summaries and messages call the source."""
        if self.kind == "generated":
            return f"generated:{self.name}"
        if self.kind in (*FORMS, "preference"):
            return f"{self.path}:{self.kind}"
        return ":".join(filter(None, (self.kind, self.url or self.path)))

    @property
    def form(self) -> str:
        """What its documents are: text, chat or intent_prompts."""
        if self.kind == "url":
            return self.holds
        return {"folder": "text", "stdlib": "text", "generated": "chat"}.get(self.kind, self.kind)

    @property
    def is_cleaned(self) -> bool:
        """Whether `clean.py` goes over the documents: unless the recipe says, those that nobody has prepared yet."""
        return self.kind in RAW if self.clean is None else self.clean

    @property
    def copies(self) -> str:
        """Which copies are left out, of each other and of held-out documents: none, exact or near ones too (`dedupe.py`)."""
        return self.dedupe or ("none" if self.kind not in RAW else "near" if self.form == "text" else "exact")


@dataclass(frozen=True)
class TokenizerRecipe:
    vocab_size: int
    sample_mb: float  # text the merges are learnt from, taken in the proportions of the pretraining mix


@dataclass(frozen=True)
class StageRecipe:
    """One training stage. Learning rates are peaks: `lr_matrix` for Muon, `lr_vector` for AdamW."""

    tokens: int  # tokens trained on, decay included
    prepare_tokens: int  # tokens of data prepared; where `tokens` are more, rows come again, in a new order each time
    decay_tokens: int  # the last part, with a linearly falling learning rate
    warmup_tokens: int
    batch_tokens: int
    sequence: int  # row length
    decay_sequence: int  # row length during the decay
    lr_matrix: float
    lr_vector: float
    weight_decay: float
    mix: tuple[Source, ...]
    z_loss: float = 1e-4
    dropout: float = 0.0  # share of what layers add to the residual stream that is left out, at random
    clock: float = 0.0  # the stage's part of a wall-clock budget beside the others' parts, preparation included
    options: dict[str, Any] = field(default_factory=dict)  # what this stage alone has; its module knows them


@dataclass(frozen=True)
class Recipe:
    """All of a run. `minutes`: the wall-clock budget of all stages together, shared out by their `clock`; none: by tokens."""

    name: str
    seed: int
    held_out: float  # part of the documents of `text` sources that training never sees
    net: NetConfig
    tokenizer: TokenizerRecipe
    pretrain: StageRecipe
    sft: StageRecipe
    long: StageRecipe | None = None  # the later stages may be left out, each by itself
    constitutional: StageRecipe | None = None
    reward: StageRecipe | None = None
    dpo: StageRecipe | None = None
    rl: StageRecipe | None = None
    minutes: float | None = None

    @property
    def stages(self) -> dict[str, StageRecipe]:
        """The stages that the recipe has, in the order in which they run."""
        return {name: stage for name in STAGES if (stage := getattr(self, name)) is not None}

    def share(self, name: str) -> float:
        """The stage's part of a wall-clock budget; 0 where time is not shared."""
        stages = self.stages
        return stages[name].clock / (sum(stage.clock for stage in stages.values()) or 1)


def build(kind: type[T], table: dict[str, Any], where: str) -> T:
    """A dataclass from a table of a recipe. Raises RecipeError for unknown keys, missing ones and values of a wrong kind."""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise RecipeError(f"{where}: unknown key `{key}`; known keys: {', '.join(known)}")
    missing = [n for n, f in known.items() if f.default is f.default_factory is MISSING and n not in table]
    if missing:
        raise RecipeError(f"{where}: missing {', '.join(missing)}; add them to the recipe")
    for key, value in table.items():
        wanted = KINDS.get(str(known[key].type).removesuffix(" | None"))
        if wanted and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise RecipeError(f"{where}: {key} = {value!r} is no {wanted[-1].__name__}; correct it")
    return kind(**table)


def _source(table: dict[str, Any], where: str) -> Source:
    if isinstance(table.get("glob"), str):
        table = {**table, "glob": [table["glob"]]}
    globs = table.get("glob", [])
    if not isinstance(globs, list) or not all(isinstance(g, str) and g and not g.startswith("/") for g in globs):
        raise RecipeError(f'{where}: glob is a pattern below the folder, such as "**/*.md", or a list of them')
    source = build(Source, {**table, "glob": tuple(globs)}, where)
    if source.kind not in KEYS:
        raise RecipeError(f"{where}: source kind `{source.kind}` is unknown; use one of {', '.join(KEYS)}")
    needed, more = KEYS[source.kind]
    for key in table:
        if key not in ("kind", "share", *needed, *more):
            raise RecipeError(
                f"{where}: a source of kind {source.kind} takes no {key}, only {', '.join((*needed, *more))}; remove it"
            )
    for key in needed:
        if not table.get(key):
            raise RecipeError(f"{where}: a source of kind {source.kind} needs {key}; add it")
    for key, allowed in CHOICES.items():
        if key in table and getattr(source, key) not in allowed:
            raise RecipeError(f"{where}: {key} = `{getattr(source, key)}` is unknown; use one of {', '.join(allowed)}")
    _check_values(source, table, where)
    return source


def _check_values(source: Source, table: dict[str, Any], where: str) -> None:
    if not 0 < source.share <= 1:
        raise RecipeError(f"{where}: share = {source.share} must lie above 0 and be at most 1; correct it")
    if source.epochs < 1:
        raise RecipeError(f"{where}: epochs = {source.epochs} reads nothing; use 1 or more")
    if source.kind == "generated" and source.name not in GENERATORS:
        raise RecipeError(f"{where}: generator `{source.name}` is unknown; use one of {', '.join(GENERATORS)} as name")
    if "chars" in table and source.name != "retrieval":
        raise RecipeError(f"{where}: chars is for the generator retrieval alone; remove it")
    if "chars" in table and source.chars < SHORTEST:
        raise RecipeError(f"{where}: chars = {source.chars} is too short; use {SHORTEST} or more")
    if source.kind == "url":
        if not source.url.startswith(("http://", "https://")):
            raise RecipeError(f"{where}: url = {source.url} is no http:// or https:// address; for a file here use path")
        if not re.fullmatch("[0-9a-f]{64}", source.sha256):
            raise RecipeError(f"{where}: sha256 is the file's checksum in 64 small hex digits (`sha256sum FILE` prints it)")


def _stage(name: str, table: dict[str, Any], where: str) -> StageRecipe:
    sources = tuple(_source(entry, f"{where}.mix[{i}]") for i, entry in enumerate(table.get("mix", ())))
    stage = build(StageRecipe, {**table, "mix": sources}, where)
    kinds = MIXES.get(name, DOCUMENTS)
    for source in sources:
        if source.kind not in kinds:
            raise RecipeError(f"{where}: this stage cannot use the kind {source.kind}; use {', '.join(kinds)}")
    if abs(sum(s.share for s in sources) - 1) > 1e-6:
        raise RecipeError(f"{where}: shares of the mix add up to {sum(s.share for s in sources):.3f}; make them 1")
    for row, length in (("sequence", stage.sequence), ("decay_sequence", stage.decay_sequence)):
        if stage.decay_sequence % length or stage.batch_tokens % length:
            raise RecipeError(f"{where}: {row} = {length} must divide decay_sequence and batch_tokens; change one of them")
    if not 0 <= stage.dropout < 1:
        raise RecipeError(f"{where}: dropout = {stage.dropout:g} is no share to leave out; use 0 or more, below 1")
    return stage


def load_recipe(path: Path) -> Recipe:
    """Read a recipe. `extends = "other.toml"` takes what it does not say from a recipe beside it; a mix is taken whole.

    Raises RecipeError with the place of the first mistake, OSError if there is no such file.
    """
    table = _table(path, ())
    parts: dict[str, Any] = dict(table)
    for key, kind in (("net", NetConfig), ("tokenizer", TokenizerRecipe)):
        parts[key] = build(kind, table.get(key, {}), f"{path}: [{key}]")
    for key in STAGES:
        if key in table or key in ("pretrain", "sft"):
            parts[key] = _stage(key, table.get(key, {}), f"{path}: [{key}]")
    recipe = build(Recipe, parts, str(path))
    if recipe.net.vocab_size != recipe.tokenizer.vocab_size:
        raise RecipeError(f"{path}: net.vocab_size and tokenizer.vocab_size differ; make them equal")
    _check_clocks(recipe, str(path))
    return recipe


def _table(path: Path, within: tuple[Path, ...]) -> dict[str, Any]:
    """A recipe's TOML over that of the recipe it extends. within: those that extend this one."""
    if path in within:
        raise RecipeError(f"{path}: extends itself, by {within[-1].name}; remove one of the two")
    try:
        table = tomllib.loads(path.read_text(encoding="utf8"))
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path}: {error}") from error
    if "extends" not in table:
        return table
    made = _table(path.parent / str(table.pop("extends")), (*within, path))
    for key, value in table.items():
        made[key] = {**made[key], **value} if isinstance(value, dict) and isinstance(made.get(key), dict) else value
    return made


def _check_clocks(recipe: Recipe, where: str) -> None:
    clocks = {name: stage.clock for name, stage in recipe.stages.items()}
    if recipe.minutes is not None and recipe.minutes <= 0:
        raise RecipeError(f"{where}: minutes = {recipe.minutes:g} is no time; make it positive, or remove it to go by tokens")
    if (any(clocks.values()) or recipe.minutes) and min(clocks.values()) <= 0:
        listed = ", ".join(f"{name} {clock:g}" for name, clock in clocks.items())
        raise RecipeError(f"{where}: `clock` shares a wall-clock budget between the stages ({listed}); make all positive")


def with_minutes(recipe: Recipe, minutes: float) -> Recipe:
    """The recipe under a wall-clock budget. Raises RecipeError unless its stages share time."""
    timed = replace(recipe, minutes=minutes)
    _check_clocks(timed, f"recipe {recipe.name}")
    return timed


def recipe_text(recipe: Recipe) -> str:
    """The recipe as TOML that `load_recipe` reads back to an equal one; what has its default is left out."""
    return _toml(recipe, "").lstrip("\n")


def _toml(value: Any, path: str) -> str:
    """Of a dataclass: its plain values, then its tables, then its lists of tables."""
    lines: list[str] = []
    tables: list[str] = []
    for each in fields(value):
        item, name = getattr(value, each.name), f"{path}.{each.name}".lstrip(".")
        if is_dataclass(item):
            tables.append(f"\n[{name}]\n{_toml(item, name)}")
        elif isinstance(item, dict) and item:
            tables.append(f"\n[{name}]\n" + "".join(f"{key} = {json.dumps(entry)}\n" for key, entry in item.items()))
        elif isinstance(item, tuple) and item and is_dataclass(item[0]):
            tables += [f"\n[[{name}]]\n{_toml(entry, name)}" for entry in item]
        elif item not in (each.default, {}):
            lines.append(f"{each.name} = {json.dumps(item, ensure_ascii=False)}\n")
    return "".join(lines + tables)
