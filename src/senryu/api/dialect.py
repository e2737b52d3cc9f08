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


@dataclass(slots=True)
class Dialect:
    """`canonical` gives the id by which errors name a model; `ignored` are the paths that were passed over."""

    version: str
    canonical: Callable[[str], str]
    betas: frozenset[str] = frozenset()
    lenient: bool = False
    model: str = ""
    ignored: list[str] = field(default_factory=list)

    def finish(self, fields: Fields) -> None:
        """Deals with the fields that were not taken. Raises SenryuError("extra") in the faithful profile."""
        if self.lenient:
            self.ignored += [fields.path(name) for name in fields.rest()]
        else:
            fields.finish()

    def pass_over(self, path: str, error: SenryuError) -> None:
        """Leaves out what stands at `path`. Raises `error` in the faithful profile."""
        if not self.lenient:
            raise error
        self.ignored.append(path)

    def headers(self) -> dict[str, str]:
        """The response header that names what was passed over; none where nothing was."""
        names = ", ".join(quote(path, safe="!#$&'*+-.:^_`|~/") for path in dict.fromkeys(self.ignored))
        if len(names) > HEADER_CHARACTERS:
            names = names[: names.rindex(", ", 0, HEADER_CHARACTERS) + 2] + "..."
        return {"senryu-ignored": names} if names else {}

    def without(self, feature: str, value: object, path: str) -> None:
        """A field whose feature is not here: passes when it asks for nothing. `feature` is as in "MCP servers are"."""
        if value is not None and value != [] and value != {}:
            raise SenryuError("unsupported", path=path, what=feature)

    def tag_error(self, feature: str, kind: str, path: str) -> SenryuError:
        """The refusal of a known kind of object that is not here."""
        return SenryuError("unsupported", path=path, what=f"{feature} of type '{kind[:SHOWN]}' are")
