"""The documents tell the truth: every file they name exists, every make target and senryu command is real."""

from __future__ import annotations

import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
from typer.main import get_command

from senryu.cli import app
from senryu.config import Settings

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(p for at in (ROOT.glob("*.md"), (ROOT / "docs").glob("*.md"), (ROOT / "src").rglob("*.md")) for p in at)
DOCS = [p for p in DOCS if p.name != "ATTRIBUTION.md"]
PATH = re.compile(r"`((?:src|tests|recipes|web|\.ci)/[\w./\-*]+|[\w\-]+\.(?:md|toml)|Makefile|LICENSE)`")
COMMAND = re.compile(r"^\s*(?:\$ )?senryu ([a-z]+)(?: ([a-z]+))?", re.M)
TARGET = re.compile(r"^\s*(?:\$ )?make ([a-z]+)", re.M)


def code(text: str) -> str:
    """The fenced blocks of a Markdown text, and its inline code, a line each."""
    return "\n".join([*re.findall(r"```[a-z]*\n(.*?)```", text, re.S), *re.findall(r"`([^`\n]+)`", text)])


@pytest.mark.parametrize("doc", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_that_documents_name_exist(doc: Path) -> None:
    missing = [name for name in PATH.findall(doc.read_text()) if not any(ROOT.glob(name)) and not (doc.parent / name).exists()]
    assert not missing, f"{doc.name} names files that do not exist: {missing}"


def test_architecture_names_every_module() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    src = ROOT / "src" / "senryu"
    unnamed = [
        str(path.relative_to(src))
        for path in sorted(src.rglob("*.py"))
        if not path.name.startswith("__") and not re.search(rf"\b{re.escape(path.stem)}\b", text)
    ]
    assert not unnamed, f"ARCHITECTURE.md does not know {unnamed}"


@pytest.mark.parametrize("doc", DOCS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_that_documents_show_are_real(doc: Path) -> None:
    shown = code(doc.read_text())
    targets = set(re.findall(r"^([a-z\-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(TARGET.findall(shown)) <= targets
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    for verb, sub in COMMAND.findall(shown):
        assert verb in verbs, f"{doc.name} shows `senryu {verb}`, which does not exist"
        if sub and hasattr(verbs[verb], "commands"):
            assert sub in verbs[verb].commands, f"{doc.name} shows `senryu {verb} {sub}`, which does not exist"


def test_the_readme_lists_every_setting_with_its_default() -> None:
    text = (ROOT / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (?:`(.*?)`|none) \|", text[text.index("## Settings") :], re.M)
    shown = {key: tomllib.loads(f"value = {default}")["value"] if default else None for key, default in rows}
    expected = {field.name: field.default for field in fields(Settings) if field.default is not MISSING}
    assert shown == expected
    assert {key: type(value) for key, value in shown.items()} == {key: type(value) for key, value in expected.items()}
    assert len(rows) == len(shown)
