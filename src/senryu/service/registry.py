"""The models that are loaded, and the names that they answer to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from senryu.engine.interface import Engine
from senryu.errors import SenryuError
from senryu.service.limits import Limits

if TYPE_CHECKING:
    from senryu.model.spec import ModelSpec
    from senryu.model.template import ChatTemplate
    from senryu.model.tokenizer import Tokenizer

Progress = Callable[[str, int, int], None]  # kernel's name, index, total

HAIKU = "claude-3-5-haiku-20241022"
HAIKU_RELEASED = datetime(2024, 10, 22, tzinfo=UTC)
NANO = "senryu-nano"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that can answer: its engine, and how its text becomes tokens."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate
    spec: ModelSpec
    limits: Limits
    created: datetime


@dataclass(frozen=True, slots=True)
class Served:
    """One id that callers may ask for. An alias answers under its canonical `id`."""

    id: str
    display_name: str
    created: datetime
    model: LoadedModel


class Registry:
    """Names -> models. The names that client code already uses resolve to the first model."""

    def __init__(self, models: Sequence[LoadedModel]) -> None:
        self.models = tuple(models)
        first = self.models[0]
        self._served = {
            HAIKU: Served(HAIKU, f"Claude Haiku 3.5 (answered by {first.name})", HAIKU_RELEASED, first),
            NANO: Served(NANO, NANO if first.name == NANO else f"{NANO} (answered by {first.name})", first.created, first),
        }
        for model in self.models:
            self._served.setdefault(model.name, Served(model.name, model.name, model.created, model))
        self._aliases = {"claude-3-5-haiku-latest": HAIKU}

    def canonical(self, name: str) -> str:
        """The id behind an alias; any other name as it is."""
        return self._aliases.get(name, name)

    def resolve(self, name: str) -> Served:
        """Raises SenryuError("model_unknown")."""
        served = self._served.get(self.canonical(name))
        if served is None:
            raise SenryuError("model_unknown", model=name)
        return served

    def served(self) -> list[Served]:
        """Every id, newest first."""
        return sorted(self._served.values(), key=lambda served: (served.created, served.id), reverse=True)

    async def close(self) -> None:
        """Stop every engine."""
        for model in self.models:
            await model.engine.close()
