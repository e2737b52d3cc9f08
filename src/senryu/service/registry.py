"""The models that are loaded, the names that they answer to, and how a reference becomes a model in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from senryu.config import Settings
from senryu.engine.grammar import GrammarCompiler
from senryu.engine.interface import Engine
from senryu.engine.local import LocalEngine
from senryu.errors import SenryuError
from senryu.kernels.pack import Format
from senryu.model.hub import parameters, resolve
from senryu.model.program import KernelPath, Program, choose_kv
from senryu.model.spec import ModelError, ModelSpec, load_spec
from senryu.model.template import ChatTemplate, load_template
from senryu.model.tokenizer import Tokenizer, load_tokenizer
from senryu.model.transformer import Float32Weights
from senryu.model.weights import check, load_weights
from senryu.service.calls import CallFormat, detect
from senryu.service.limits import CONTEXT_TOKENS, OUTPUT_TOKENS, Limits
from senryu.service.memory import available_memory
from senryu.service.shapes import CopyingWeights, RandomWeights, shape_spec

__all__ = ["LoadedModel", "Registry", "Served", "available_memory", "load_engine", "load_model"]

Progress = Callable[[str, int, int], None]  # kernel's name, index, total

HAIKU = "claude-3-5-haiku-20241022"
HAIKU_RELEASED = datetime(2024, 10, 22, tzinfo=UTC)
MINI = "senryu-mini"
ALIASES = dict.fromkeys(  # the names that the model had elsewhere -> the one that it has here
    (
        "claude-3-5-haiku-latest",
        "claude-3-5-haiku",
        "anthropic.claude-3-5-haiku-20241022-v1:0",
        "us.anthropic.claude-3-5-haiku-20241022-v1:0",
        "claude-3-5-haiku@20241022",
        "anthropic/claude-3.5-haiku",
        "anthropic/claude-3.5-haiku-20241022",
    ),
    HAIKU,
)
WEIGHT_BYTES = {"int8": 1.0, "int4": 0.55, "bf16": 2.0, "fp32": 4.0}  # of one parameter in memory, about
LEAST_CONTEXT = 2_048  # a K/V cache for less than this is no use


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

    @property
    def calls(self) -> CallFormat | None:
        """How it writes tool calls; None when it cannot."""
        return detect(self.template.text)

    def text_of(self, raw: str | tuple[int, ...]) -> str:
        """What a raw prompt says."""
        return raw if isinstance(raw, str) else self.tokenizer.decode(raw)


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
            MINI: Served(
                MINI, "Senryu mini" if first.name == MINI else f"{MINI} (answered by {first.name})", first.created, first
            ),
        }
        for model in self.models:
            self._served.setdefault(model.name, Served(model.name, model.name, model.created, model))

    def canonical(self, name: str) -> str:
        """The id behind an alias; any other name as it is."""
        return ALIASES.get(name, name)

    def resolve(self, name: str) -> Served:
        """Raises SenryuError("model_unknown")."""
        served = self._served.get(self.canonical(name))
        if served is None:
            raise SenryuError("model_unknown", model=name)
        return served

    def served(self) -> list[Served]:
        """Every id, newest first."""
        return sorted(self._served.values(), key=lambda served: (served.created, served.id), reverse=True)

    def check(self) -> None:
        """Raises SenryuError("engine_closed") for a model whose engine takes no requests any more."""
        for model in self.models:
            if error := model.engine.closed:
                raise SenryuError("engine_closed", model=model.name, why="its engine has failed" if error.__cause__ else error)

    async def close(self) -> None:
        """Stop every engine."""
        for model in self.models:
            await model.engine.close()


def aliases_of(id: str) -> tuple[str, ...]:
    """The names that lead to a served id."""
    return tuple(name for name, canonical in ALIASES.items() if canonical == id)


def names_of(model: str) -> tuple[str, ...]:
    """Every name that leads to the model of this name when it alone is served."""
    ids = dict.fromkeys((model, MINI, HAIKU))
    return tuple(name for id in ids for name in (id, *aliases_of(id)))


def load_model(settings: Settings, ref: str, progress: Progress | None = None) -> LoadedModel:
    """The model of `ref` (mini, hf:ORG/REPO, path:DIR, DIR), ready to answer.

    `progress` is told of every kernel that must be compiled. Raises SenryuError when it cannot be loaded or does not fit.
    """
    try:
        files = resolve(ref, settings.home)
        spec, weights = load_spec(files.path), load_weights(files.path)
        check(spec, weights)
        tokenizer = load_tokenizer(files.path)
        template = load_template(files.path, tokenizer)
        spill = settings.kv_spill / hashlib.sha256(files.name.encode()).hexdigest()[:32]
        engine = _start(settings, files.name, spec, weights, progress, GrammarCompiler(tokenizer, spec.vocab), spill)
    except (ModelError, OSError, RuntimeError) as error:
        raise SenryuError("model_unusable", ref=ref, why=error) from error
    context = min(CONTEXT_TOKENS, engine.max_context)
    return LoadedModel(
        files.name, engine, tokenizer, template, spec, Limits(context, min(OUTPUT_TOKENS, context)), _written(files.path)
    )


def load_engine(
    settings: Settings, ref: str, progress: Progress | None = None, *, copying: bool = False
) -> tuple[ModelSpec, LocalEngine]:
    """An engine without text: of a model's reference, or of random weights (`shape:tiny`, `shape:0.3b`, `shape:1.1b`).

    copying: of the same shape, but with `CopyingWeights`, which are packed at every start.
    It keeps no K/V on disk, so that a measurement finds no prefix of the one before.
    Raises SenryuError as `load_model`.
    """
    try:
        weights: Any
        folder = None if ref.startswith("shape:") else resolve(ref, settings.home).path
        spec = load_spec(folder) if folder else shape_spec(ref.removeprefix("shape:"))
        if copying:
            spec = replace(spec, tied_head=False)
            return spec, _start(settings, ref, spec, CopyingWeights(spec), progress, keep=False)
        if folder:
            weights = load_weights(folder)
            check(spec, weights)
        else:
            weights = RandomWeights(spec)
        return spec, _start(settings, ref, spec, weights, progress)
    except (ModelError, OSError, RuntimeError) as error:
        raise SenryuError("model_unusable", ref=ref, why=error) from error


def _start(
    settings: Settings,
    name: str,
    spec: ModelSpec,
    weights: Float32Weights,
    progress: Progress | None,
    grammars: GrammarCompiler | None = None,
    spill: Path | None = None,
    keep: bool = True,
) -> LocalEngine:
    """keep: the packed weights, for later starts."""
    free = available_memory()
    program = Program(
        spec,
        weights,
        pages=kv_pages(settings, name, spec, free),
        max_sequences=settings.max_sequences,
        threads=settings.threads or None,
        kernels=cast(KernelPath, settings.kernels),
        format=cast(Format, settings.weights),
        kv=settings.kv,
        cache_dir=settings.kernel_cache,
        weights_dir=settings.weight_cache if keep else None,
        spare=free // 4,
        progress=progress,
    )
    return LocalEngine(
        program,
        drafts=settings.drafts,
        grammars=grammars,
        spill_directory=spill,
        spill_bytes=int(settings.kv_spill_gb * 1e9),
    )


def kv_pages(settings: Settings, name: str, spec: ModelSpec, free: int) -> int:
    """Pages of the K/V pool: what kv_cache_gb holds, else two full windows and one page a sequence, in half of what is free.

    free: bytes of memory, the packed weights still to come. Raises SenryuError("no_memory") when that is too little.
    """
    kv = choose_kv(settings.kv, settings.kernels)
    page_bytes, page_tokens = Program.page_bytes(spec, kv), Program.page_size
    window = -(-min(CONTEXT_TOKENS, spec.max_position) // page_tokens)
    weight_bytes = WEIGHT_BYTES["fp32" if settings.kernels == "fp32" else settings.weights]
    room = max(free - int(parameters(spec) * weight_bytes), 0)
    if settings.kv_cache_gb:
        pages = int(settings.kv_cache_gb * 1e9) // page_bytes
        fits = pages * page_bytes <= room
    else:
        pages = min(2 * window + settings.max_sequences, room // 2 // page_bytes)
        fits = True
    least = min(window, LEAST_CONTEXT // page_tokens)
    if pages < least or not fits:
        wanted = max(pages, least)
        raise SenryuError(
            "no_memory",
            name=name,
            need=f"{wanted * page_bytes / 1e9:.2f} GB",
            tokens=wanted * page_tokens,
            free=f"{room / 1e9:.2f} GB",
            config=settings.home / "config.toml",
        )
    return pages


def _written(path: Path) -> datetime:
    """When the weights were last written."""
    newest = max(file.stat().st_mtime for file in path.glob("*.safetensors"))
    return datetime.fromtimestamp(int(newest), UTC)
