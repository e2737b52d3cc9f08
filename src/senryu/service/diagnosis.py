"""Why a prompt missed the cache: it is compared with that of an earlier answer, by their positions."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from senryu.service.caching import countable
from senryu.service.positions import ORDER, Position
from senryu.types import CacheMiss


class Diagnosis:
    """Remembers the prompts of the last answers that asked for it, and tells where a new prompt leaves one of them."""

    def __init__(self, most: int = 200_000) -> None:
        """most: positions of all prompts together; beyond it the oldest prompts are forgotten, the last one never."""
        self._most = most
        self._held = 0
        self._prompts: OrderedDict[tuple[str, str], tuple[str, Sequence[Position]]] = OrderedDict()  # by tenant and answer

    def remember(self, tenant: str, answer: str, model: str, positions: Sequence[Position]) -> None:
        """The prompt of the answer whose id is `answer`."""
        self._prompts[tenant, answer] = model, positions
        self._held += len(positions)
        while self._held > self._most and len(self._prompts) > 1:
            _, (_, forgotten) = self._prompts.popitem(last=False)
            self._held -= len(forgotten)

    def compare(self, tenant: str, previous: str, model: str, positions: Sequence[Position]) -> CacheMiss | None:
        """None when all that the prompt of answer `previous` had in the cache stands in this prompt too, or this one is its
        beginning; and for "", which is no answer. missed_tokens: those of the older prompt's that do not.
        """
        if not previous:
            return None
        if (tenant, previous) not in self._prompts:
            return CacheMiss("previous_message_not_found")
        older_model, older = self._prompts[tenant, previous]
        last = max((number for number, position in enumerate(older) if countable(position)), default=None)
        if last is None or not any(map(countable, positions)):
            return CacheMiss("unavailable")  # one of the two is not to be cached: there is nothing to miss
        if older_model != model:
            return CacheMiss("model_changed", older[last].end)
        for number, (was, now) in enumerate(zip(older[: last + 1], positions)):
            if was.digest != now.digest:
                common = older[number - 1].end if number else 0
                return CacheMiss(f"{min(was.section, now.section, key=ORDER.index)}_changed", older[last].end - common)
        return None
