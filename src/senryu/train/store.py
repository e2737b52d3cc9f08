"""Documents on the disk while a stage is prepared: written in reading order, read in any; memory holds their places only."""

from __future__ import annotations

import json
import tempfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senryu.train import chat


@dataclass(frozen=True)
class Document:
    """One training document, rendered only when it is needed: rendering costs more than reading."""

    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    origin: str = ""  # what its row names as its source: documents of one origin belong together

    def render(self) -> str:
        """The document as training text with its special tokens."""
        if self.messages:
            return chat.render(list(self.messages), list(self.tools) or None)
        return f"<|begin|><|text|>{self.text}<|end|>"

    def plain(self) -> str:
        """Its words alone: what tells one document from another."""
        if not self.messages:
            return self.text
        said = (m["content"] + "".join(json.dumps(c["function"]) for c in m.get("tool_calls", ())) for m in self.messages)
        return "\n".join(said)

    def serialised(self) -> str:
        """As JSON, in which every character but quotes, backslashes and control characters stands for itself."""
        return json.dumps([self.text, self.messages, self.tools, self.origin], ensure_ascii=False)


class Store:
    """Appended documents, by number. The file has no name, so that nothing is left behind, however the process ends."""

    def __init__(self, folder: Path | None) -> None:
        """folder: where the file lies, which needs room for all text; None is the system's place for temporary files."""
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed with the store
        self._ends = array("q", [0])
        self._at_end = True  # a seek empties the buffer, so there is none between two writes

    def append(self, serialised: str) -> None:
        """Add a document in its `serialised` form. Raises UnicodeEncodeError for half of a surrogate pair."""
        line = serialised.encode()
        if not self._at_end:
            self._file.seek(self._ends[-1])
            self._at_end = True
        self._file.write(line)
        self._ends.append(self._ends[-1] + len(line))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, at: int) -> Document:
        if not 0 <= at < len(self):
            raise IndexError(at)
        self._at_end = False
        self._file.seek(self._ends[at])
        text, messages, tools, origin = json.loads(self._file.read(self._ends[at + 1] - self._ends[at]))
        return Document(text, tuple(messages), tuple(tools), origin)

    def close(self) -> None:
        self._file.close()
