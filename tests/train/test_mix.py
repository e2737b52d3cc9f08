"""A mix of a user's own sources: what is read, what is dropped and counted, what is held out, and the manifest that says so."""

from __future__ import annotations

import gzip
import json
import lzma
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dedupe import edited, text
from tokenizers import Tokenizer
from toy_bundle import TOY

from senryu.train import chat, data, manifest
from senryu.train.mix import Mix, is_held_out
from senryu.train.recipe import Recipe, RecipeError, Source, load_recipe
from senryu.train.sources import Places, find
from senryu.train.vocabulary import IDS

MINI = Path(chat.TEMPLATE).parent
CHAT = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MINI / "tokenizer.json"))


def write_rows(path: Path, rows: list[Any]) -> Path:
    openers: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open}
    with openers.get(path.suffix, open)(path, "wt", encoding="utf8") as out:
        out.writelines((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    return path


def texts(mix: Mix, at: int = 0) -> list[str]:
    opened = mix.opened[at]
    assert opened.store is not None
    return [opened.store[i].text or opened.store[i].plain() for i in opened.training]


def read(recipe: Recipe, folder: Path, *sources: Source, held_out: float = 0.0) -> tuple[list[list[str]], list[manifest.Entry]]:
    with Mix(sources, replace(recipe, held_out=held_out), Places(folder)) as mix:
        return [texts(mix, at) for at in range(len(sources))], [opened.entry for opened in mix.opened]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.xz"])
def test_rows_are_read_plain_and_packed(tmp_path: Path, recipe: Recipe, name: str) -> None:
    write_rows(
        tmp_path / name, [{"text": "one", "licence": "MIT"}, "", {"text": "two", "license": "CC0-1.0"}, {"text": "three"}]
    )
    (found,), (entry,) = read(recipe, tmp_path, Source("text", 1.0, path=name))
    assert found == ["one", "two", "three"]
    assert entry.licences == {"MIT": 1, "CC0-1.0": 1, "unknown": 1}
    assert len(entry.sha256) == 64


def test_an_absolute_path_and_a_home_path_need_no_bundle(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "one"}])
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(path), "~/a.jsonl"):
        assert read(recipe, Path("/nowhere"), Source("text", 1.0, path=name))[0] == [["one"]]


@pytest.mark.parametrize(
    ("rows", "kind", "message"),
    [
        ([CHAT, "{broken"], "chat", "line 2: is not JSON"),
        ([CHAT, [1]], "chat", "line 2: is list, not a JSON object"),
        ([CHAT, "", {"messages": [{"role": "user", "content": 5}]}], "chat", r"line 3: messages\[0\]: content is neither"),
        ([CHAT, {"messages": CHAT["messages"][:1]}], "chat", "line 2: no message is the assistant's"),
        ([CHAT, {"messages": [*CHAT["messages"], {**CHAT["messages"][1], "weight": 0}]}], "chat", "line 2: weight 0 has no"),
        ([{"text": "one"}, {"content": "two"}], "text", "line 2: has no string `text`"),
    ],
)
def test_a_wrong_row_names_file_and_line_or_is_counted(
    tmp_path: Path, recipe: Recipe, rows: list[Any], kind: str, message: str
) -> None:
    path = write_rows(tmp_path / "a.jsonl", rows)
    source = Source(kind, 1.0, path="a.jsonl")
    with pytest.raises(RecipeError, match=f"{path}, {message}"):
        read(recipe, tmp_path, source)
    (found,), (entry,) = read(recipe, tmp_path, replace(source, bad_rows="skip"))
    assert len(found) == 1
    assert entry.dropped == {"malformed": 1}


def test_conversations_of_both_forms_are_one_document(tmp_path: Path, recipe: Recipe) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}}
    asked, answer = {"role": "user", "content": "Rain in Bonn?"}, {"role": "assistant", "content": "Yes."}
    ours = {
        "system": "Be brief.",
        "messages": [
            asked,
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "sky", "input": {"at": "Bonn"}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "wet"}]},
            answer,
        ],
        "tools": [{"name": "sky", "description": "The sky.", "input_schema": schema}],
    }
    call = {"id": "a", "type": "function", "function": {"name": "sky", "arguments": '{"at": "Bonn"}'}}
    theirs = {
        "messages": [
            {"role": "system", "content": "Be brief."},
            asked,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "a", "content": "wet"},
            answer,
        ],
        "tools": [{"type": "function", "function": {"name": "sky", "description": "The sky.", "parameters": schema}}],
    }
    write_rows(tmp_path / "a.jsonl", [ours, theirs])
    with Mix([Source("chat", 1.0, path="a.jsonl")], recipe, Places(tmp_path)) as mix:
        first, second = (document.render() for document in mix.opened[0].in_order(1, 1))
    assert first == second == chat.render(chat.to_messages(ours), chat.to_tools(ours))
    assert '<|call|>{"name": "sky", "arguments": {"at": "Bonn"}}<|end|><|result|>wet<|end|><|assistant|>Yes.<|end|>' in first


def test_files_that_cannot_be_read_say_why(tmp_path: Path, recipe: Recipe) -> None:
    packed = write_rows(tmp_path / "cut.jsonl.xz", [{"text": str(n)} for n in range(5000)])
    packed.write_bytes(packed.read_bytes()[:-500])
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    write_rows(tmp_path / "rows.jsonl", [{"text": "one"}])
    for source, message in (
        (Source("text", 1.0, path="none.jsonl"), "none.jsonl does not exist"),
        (Source("text", 1.0, path="cut.jsonl.xz"), "is damaged behind line"),
        (Source("text", 1.0, path="notes.txt"), r".txt is a document, not a file of rows; use kind = \"folder\""),
        (Source("chat", 1.0, path="data.parquet"), ".parquet cannot be read as chat"),
        (Source("folder", 1.0, path="none"), "there is no folder"),
        (Source("folder", 1.0, path=".", glob=("*.rst",)), "no file below .* matches"),
        (Source("folder", 1.0, path=".", glob=("*.jsonl",)), "rows.jsonl holds rows"),
        (Source("url", 1.0, url="http://127.0.0.1/a.txt", sha256="0" * 64), "no folder for downloads"),
    ):
        with pytest.raises(RecipeError, match=message):
            read(recipe, tmp_path, source)


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path, recipe: Recipe) -> None:
    documents = {
        "b.md": text(1),
        "a/z.txt": text(2),
        "a/code.py": f"def f():\n    return '{text(3, 8)}'\n" * 3,
        "c.rst": text(4),
    }
    others = {".git/x.txt": text(5), "node_modules/y.md": text(6), "picture.png": text(7), "a/b.csv": text(8)}
    for name, content in {**documents, **others}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1") * 40)
    (found,), (entry,) = read(recipe, tmp_path, Source("folder", 1.0, path=".", licence="CC0-1.0"))
    assert found == [documents[name].rstrip("\n") for name in sorted(documents)]
    assert (entry.dropped, entry.licences) == ({"encoding": 1}, {"CC0-1.0": 4})
    (some,), (other,) = read(recipe, tmp_path, Source("folder", 1.0, path=".", glob=("a/*.txt", "*.csv", "a/*.csv")))
    assert some == [text(8), text(2)]
    assert other.sha256 != entry.sha256


def test_the_standard_library_is_code_without_tests_and_tables() -> None:
    entry = manifest.Entry()
    found = list(find(Source("stdlib", 1.0), Places(Path()), entry))
    codes = [one.document.text for one in found]
    assert all(one.code and one.licence == "PSF-2.0" for one in found)
    assert len(entry.sha256) == 64
    assert len(codes) > 300
    assert any("Heap queue algorithm" in code[:400] for code in codes)
    assert not [code for code in codes if "import unittest\n" in code and "class Test" in code]
    assert not [code for code in codes if code.startswith('""" Python Character Mapping Codec')]


def test_a_downloaded_file_is_read_as_what_it_holds(
    tmp_path: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer
) -> None:
    local = write_rows(tmp_path / "talk.jsonl", [CHAT, CHAT])
    monkeypatch.setattr("senryu.train.sources.fetch", lambda url, sha256, cache: local)
    source = Source("url", 1.0, url="https://example.com/talk.jsonl?raw=1", sha256="a" * 64, holds="chat")
    with Mix([source], recipe, Places(tmp_path, downloads=tmp_path)) as mix:
        assert texts(mix) == ["Hi\nHello!"]
        assert mix.opened[0].entry.duplicates == {"exact": 1}
    assert (source.is_cleaned, source.copies, source.label) == (True, "exact", f"url:{source.url}")


def test_stored_sources_are_taken_as_they_are_unless_the_recipe_says(tmp_path: Path, recipe: Recipe) -> None:
    rows = [
        {"text": t}
        for t in (text(1), text(1), edited(text(1), 0.02), "short", "1 2 3 4 " * 50, "<|end|>", " \n", "\ud800 half")
    ]
    write_rows(tmp_path / "a.jsonl", rows)
    source = Source("text", 1.0, path="a.jsonl")
    (found,), (entry,) = read(recipe, tmp_path, source)
    assert found == [row["text"] for row in rows[:5]]
    assert entry.dropped == {"special": 1, "empty": 1, "encoding": 1}
    assert not entry.duplicates
    (found,), (entry,) = read(recipe, tmp_path, replace(source, clean=True, dedupe="near"))
    assert found == [text(1)]
    assert entry.duplicates == {"exact": 1, "near": 1}
    assert entry.dropped == {"short": 4, "letters": 1}


def test_copies_are_found_across_sources_and_kinds(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.txt").write_text(edited(text(1), 0.02))
    (tmp_path / "own" / "b.txt").write_text(text(2))
    write_rows(tmp_path / "a.jsonl", [{"text": text(1)}])
    bundle, own = Source("text", 0.5, path="a.jsonl", dedupe="near"), Source("folder", 0.5, path="own")
    assert read(recipe, tmp_path, bundle, own)[0] == [[text(1)], [text(2)]]
    assert read(recipe, tmp_path, replace(bundle, dedupe="none"), own)[0] == [[text(1)], [edited(text(1), 0.02), text(2)]]


def test_a_source_of_which_nothing_is_left_says_why(tmp_path: Path, recipe: Recipe) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "short"}, {"text": "<|pad|>"}, {"text": "brief"}])
    with pytest.raises(RecipeError, match="has no document left: 3 read, 3 short; check what it names and its filters"):
        read(recipe, tmp_path, Source("text", 1.0, path="a.jsonl", clean=True))


def opening(document: str) -> str:
    """What a text and its edited copies have in common, and no other text."""
    return " ".join(document.split()[:4])


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=5, max_size=60), st.sampled_from([0.2, 0.5]), st.integers(0, 3))
def test_held_out_documents_and_their_twins_are_never_trained_on(
    tmp_path_factory: pytest.TempPathFactory, recipe: Recipe, picks: list[int], share: float, seed: int
) -> None:
    """Document n is text n // 3: as it is, with other white space, or with a few other words."""
    folder = tmp_path_factory.mktemp("held")
    forms = (lambda t: t, lambda t: t.replace(" ", "  "), lambda t: edited(t, 0.01))
    documents = [forms[n % 3](text(n // 3)) for n in [*picks, 300]]
    recipe = replace(recipe, held_out=share, seed=seed)
    held = {opening(t) for t in documents if is_held_out(t, recipe)}
    write_rows(folder / "a.jsonl", [{"text": t} for t in documents])
    write_rows(folder / "b.jsonl", [{"text": t} for t in (*documents, "always there " * 30)])
    first, second = (Source("text", 0.5, path=name, dedupe="near") for name in ("a.jsonl", "b.jsonl"))
    try:
        mix = Mix([first, second], recipe, Places(folder))
    except RecipeError:  # nothing is left to train on
        return
    with mix:
        trained = [t for at in (0, 1) for t in texts(mix, at)]
        data.write_held_out(mix, folder / "held_out.jsonl.xz")
    assert not [t for t in trained if opening(t) in held]
    with lzma.open(folder / "held_out.jsonl.xz", "rt") as lines:
        kept = [json.loads(line) for line in lines]
    assert {opening(row["text"]) for row in kept} >= held
    with Mix(
        [replace(second, path="b.jsonl")], replace(recipe, held_out=0.0), Places(folder), folder / "held_out.jsonl.xz"
    ) as later:
        assert not [t for t in texts(later) if opening(t) in held]  # nor by a later stage


def test_the_manifest_says_what_was_used(tmp_path: Path, recipe: Recipe, tokenizer: Tokenizer) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": text(n, 80), "licence": "MIT"} for n in range(40)] + [{"text": text(1, 80)}])
    long = {"messages": [{"role": "user", "content": text(99, 900)}, {"role": "assistant", "content": "Yes."}]}
    write_rows(tmp_path / "b.jsonl", [CHAT, long])
    mix = (
        Source("text", 0.7, path="a.jsonl", dedupe="exact", epochs=2),
        Source("chat", 0.2, path="b.jsonl"),
        Source("generated", 0.1, name="arithmetic"),
    )
    stage = replace(recipe.pretrain, mix=mix, prepare_tokens=20_000, decay_sequence=512)
    with Mix(mix, recipe, Places(tmp_path)) as opened:
        prepared = data.pack(opened, stage, recipe, tokenizer, "stream")
    path = tmp_path / "manifest.json"
    manifest.write(path, recipe, "pretrain", prepared.entries)
    manifest.write(path, recipe, "sft", prepared.entries[2:])
    stored, talk, made = manifest.read(path)["stages"]["pretrain"]
    assert stored["duplicates"] == {"exact": 1}
    assert stored["documents"] + stored["held_out"] == 40
    assert stored["licences"] == {"MIT": stored["documents"]}
    assert (stored["epochs"], stored["used"]) == (2.0, 2 * stored["documents"])
    assert stored["tokens_used"] == 2 * stored["tokens"] < 14_000
    assert talk["dropped"] == {"over_length": 1}
    assert (talk["epochs"], talk["used"]) == (4.0, 4)
    assert (made["seed"], made["epochs"]) == (recipe.seed, 0.0)
    assert prepared.tokens["generated:arithmetic"] == made["tokens_used"] >= 2_000
    rows = manifest.table(manifest.read(path))
    assert all(len(row) == len(manifest.COLUMNS) for row in rows)
    assert [row[:2] for row in rows] == [
        ("pretrain", "a.jsonl:text"),
        ("pretrain", "b.jsonl:chat"),
        ("pretrain", "generated:arithmetic"),
        ("pretrain", "all"),
        ("sft", "generated:arithmetic"),
        ("sft", "all"),
    ]
    assert rows[3][7] == f"{sum(prepared.tokens.values()):,}"
    begins = int((prepared.rows == IDS["<|begin|>"]).sum())
    assert begins <= stored["used"] + talk["used"] + made["used"]


def test_too_little_data_for_a_row_is_an_error(tmp_path: Path, recipe: Recipe, tokenizer: Tokenizer) -> None:
    write_rows(tmp_path / "a.jsonl", [{"text": "a few words"}])
    stage = replace(recipe.pretrain, mix=(Source("text", 1.0, path="a.jsonl"),), decay_sequence=512)
    with (
        Mix(stage.mix, replace(recipe, held_out=0.0), Places(tmp_path)) as mix,
        pytest.raises(RecipeError, match=r"the mix has \d+ tokens, fewer than one row of 512"),
    ):
        data.pack(mix, stage, recipe, tokenizer, "stream")


def test_a_source_s_text_is_not_held_in_memory(tmp_path: Path, recipe: Recipe) -> None:
    size, count = 20_000, 600  # 12 MB
    body = "".join(random.Random(0).choices("abcdefgh \n", k=size))
    write_rows(tmp_path / "a.jsonl", [{"text": f"{n} {body}"} for n in range(count)])
    with Mix([Source("text", 1.0, path="a.jsonl")], recipe, Places(tmp_path)):
        pass  # whatever is imported or cached on the way
    tracemalloc.start()
    with Mix([Source("text", 1.0, path="a.jsonl")], recipe, Places(tmp_path)) as mix:
        read_once = sum(len(document.text) for document in mix.opened[0].in_order(1, 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read_once > 0.8 * size * count
    assert peak < size * count / 4


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('kind = "folder"\npath = "x"\nchars = 500', "a source of kind folder takes no chars"),
        ('kind = "folder"', "a source of kind folder needs path"),
        ('kind = "folder"\npath = "x"\nglob = "/etc/*"', r"\[pretrain\].mix\[0\]: glob is a pattern below the folder"),
        ('kind = "folder"\npath = "x"\nglob = 3', "glob is a pattern"),
        ('kind = "url"\nurl = "https://example.com/a.txt"', "needs sha256"),
        ('kind = "url"\nurl = "https://example.com/a.txt"\nsha256 = "abc"', "64 small hex digits"),
        (f'kind = "url"\nurl = "file:///etc/passwd"\nsha256 = "{"0" * 64}"', "is no http:// or https:// address"),
        (f'kind = "url"\nurl = "http://x/a"\nsha256 = "{"0" * 64}"\nholds = "prose"', "holds = `prose` is unknown"),
        ('kind = "stdlib"\npath = "x"', "a source of kind stdlib takes no path"),
        ('kind = "text"\npath = "x"\ndedupe = "fuzzy"', "dedupe = `fuzzy` is unknown; use one of none, exact, near"),
        ('kind = "text"\npath = "x"\nbad_rows = "drop"', "bad_rows = `drop` is unknown; use one of error, skip"),
        ('kind = "text"\npath = "x"\nclean = "yes"', "clean = 'yes' is no bool"),
        ('kind = "text"\npath = 3', "path = 3 is no str"),
        ('kind = "text"\npath = "x"\nepochs = 0', "epochs = 0 reads nothing"),
        ('kind = "text"\npath = "x"\nepochs = true', "epochs = True is no int"),
    ],
)
def test_a_wrong_source_names_its_place_and_key(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    old = 'kind = "text"\npath = "pretrain/prose.jsonl.xz"'
    path.write_text(TOY.read_text().replace(old, lines, 1))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_every_kind_of_source_is_read_from_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    old = 'kind = "text"\npath = "pretrain/prose.jsonl.xz"'
    lines = 'kind = "folder"\npath = "~/notes"\nglob = "**/*.md"\nclean = false\ndedupe = "exact"\nepochs = 8\nlicence = "own"'
    path.write_text(TOY.read_text().replace(old, lines, 1))
    source = load_recipe(path).pretrain.mix[0]
    assert source == Source(
        "folder", 0.7, path="~/notes", glob=("**/*.md",), clean=False, dedupe="exact", epochs=8, licence="own"
    )
    assert (source.is_cleaned, source.copies, source.form, source.label) == (False, "exact", "text", "folder:~/notes")
    stored = load_recipe(path).pretrain.mix[1]
    assert (stored.is_cleaned, stored.copies) == (False, "none")
