"""How one body is to be read: the API version, the betas and the profile of its request; and what of it was passed over.

The faithful profile refuses by name what this server does not know or have. The lenient one is for agents that send the same
to every model: it passes over what asks for more thought, speed or bookkeeping, and names it; never what a user says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import quote

from senryu.api.fields import SHOWN, Fields
from senryu.errors import SenryuError

HEADER_CHARACTERS = 1000  # of names in `senryu-ignored`: proxies bound headers
NAME_CHARACTERS = 250  # of one of them: any path in plain ASCII fits


@dataclass(slots=True)
class Dialect:
    """`canonical` gives the id by which errors name a model; `files`: whether uploaded files can be referred to; `ignored` are
    the first paths that were passed over, as they stand in a header."""

    version: str
    canonical: Callable[[str], str]
    betas: frozenset[str] = frozenset()
    lenient: bool = False
    files: bool = True
    model: str = ""
    ignored: dict[str, None] = field(default_factory=dict)
    _room: int = HEADER_CHARACTERS

    def finish(self, fields: Fields) -> None:
        """Deals with the fields that were not taken. Raises SenryuError("extra") in the faithful profile."""
        if not self.lenient:
            fields.finish()
        for name in fields.rest():
            self.ignore(fields.path(name))

    def pass_over(self, path: str, error: SenryuError) -> None:
        """Leaves out what stands at `path`. Raises `error` in the faithful profile."""
        if not self.lenient:
            raise error
        self.ignore(path)

    def ignore(self, path: str) -> None:
        """Notes that what stands at `path` was passed over; "..." stands for all that finds no room in the header."""
        if self._room <= 0:
            return
        name = quote(path, safe="!#$&'*+-.:^_`|~/")
        if len(name) > NAME_CHARACTERS:
            name = name[:NAME_CHARACTERS] + "..."
        if name not in self.ignored:
            self._room -= len(name) + 2
            self.ignored[name if self._room > 0 else "..."] = None

    def headers(self) -> dict[str, str]:
        """The response header that names what was passed over; none where nothing was."""
        return {"senryu-ignored": ", ".join(self.ignored)} if self.ignored else {}

    def without(self, feature: str, value: object, path: str) -> None:
        """A field whose feature is not here: passes when it asks for nothing. `feature` is as in "MCP servers are"."""
        if value is not None and value != [] and value != {}:
            raise SenryuError("unsupported", path=path, what=feature)

    def tag_error(self, feature: str, kind: str, path: str) -> SenryuError:
        """The refusal of a known kind of object that is not here."""
        return SenryuError("unsupported", path=path, what=f"{feature} of type '{kind[:SHOWN]}' are")
