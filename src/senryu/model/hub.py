"""A model's reference in, a directory on this machine out. Downloads, lists and describes; loads nothing."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import senryu
from senryu.model.program import Program
from senryu.model.spec import ModelError, ModelSpec, load_spec
from senryu.model.template import TemplateError, load_template
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import check, expected_shapes, load_weights

MINI = "mini"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
_FETCHED = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "LICENSE*", "README*"]
# folders hold other formats of the same weights, "consolidated" is the same again in Mistral's layout, pickles run code
_NOT_FETCHED = ["*/*", "consolidated*", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl"]

Download = Callable[..., str]  # huggingface_hub.snapshot_download


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model directory in Hugging Face's layout. `ref` resolves to it again, `name` is what a list shows."""

    path: Path
    name: str
    ref: str
    revision: str | None = None  # the commit, where the directory is a download


def resolve(ref: str, home: Path, *, download: Download | None = None) -> ModelFiles:
    """The directory of `ref`, downloaded into home/models first if it must be.

    mini                the model in this package
    path:DIR, DIR       a directory in Hugging Face's layout
    NAME                a directory in home/models
    hf:ORG/REPO[@REV]   a repository of the Hugging Face hub; only safetensors, JSON, template and licence files are fetched

    Raises ModelError for a reference that names nothing, a failed download, and a model that we cannot run (known from its
    config.json, before its weights are fetched).
    """
    if ref == MINI:
        return _directory(_bundled(), "senryu-mini", MINI)
    if ref.startswith("hf:"):
        return _from_hub(ref, home / "models", download)
    path = Path(ref.removeprefix("path:")).expanduser()
    if ref.startswith("path:") or (ref and path.is_dir()):
        return _directory(path.resolve(), path.resolve().name, f"path:{path.resolve()}")
    if _is_name(ref) and (home / "models" / ref).is_dir():
        return _directory(home / "models" / ref, ref, ref)
    raise ModelError(_unknown(ref, home))


def local_models(home: Path) -> list[ModelFiles]:
    """The models that need no download: mini, then the directories and the finished downloads in home/models by name.

    What is there but cannot run (another family, files missing) is left out; `resolve` and `describe` say why.
    """
    found = [resolve(MINI, home)]
    for entry in sorted((home / "models").glob("*")) if (home / "models").is_dir() else []:
        if entry.name.startswith("models--"):
            repository = entry.name.removeprefix("models--").replace("--", "/")
            found += [_download(snapshot, repository) for snapshot in sorted((entry / "snapshots").glob("*"))]
        elif entry.is_dir():
            found.append(ModelFiles(entry, entry.name, entry.name))
    return [files for files in found if _runs(files)]


def describe(files: ModelFiles) -> dict[str, Any]:
    """What `models show` prints: shape, size, licence, and the memory that serving it takes.

    Only headers are read. `int8_bytes` is the weights as the CPU engine packs them, `kv_bytes_per_token` one token in its K/V
    cache; the first is an estimate. Raises ModelError when the directory is not a model that we can run.
    """
    spec, weights = load_spec(files.path), load_weights(files.path)
    check(spec, weights)
    kinds = sorted({weights.dtype(name) for name in weights})
    return {
        "name": files.name,
        "ref": files.ref,
        "path": str(files.path),
        "revision": files.revision,
        "family": spec.family,
        "parameters": parameters(spec),
        "layers": len(spec.layers),
        "hidden": spec.hidden,
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab": spec.vocab,
        "context": spec.max_position,
        "window": next((layer.window for layer in spec.layers if layer.window), None),
        "dtype": "+".join(kinds).lower(),
        "bytes": weights.nbytes,
        "int8_bytes": _int8_bytes(spec),
        "kv_bytes_per_token": Program.page_bytes(spec, "int8") // Program.page_size,
        "template": _has_template(files.path),
        "licence": _licence(files.path),
    }


def parameters(spec: ModelSpec) -> int:
    """Number of weights of a model of this spec; a tied head counts once."""
    return sum(math.prod(shape) for shape in expected_shapes(spec).values())


def _int8_bytes(spec: ModelSpec) -> int:
    """One byte per weight, and a float32 scale per row of every matrix; vectors stay float32."""
    shapes = expected_shapes(spec).values()
    return sum(math.prod(shape) + 4 * shape[0] if len(shape) == 2 else 4 * shape[0] for shape in shapes)


def _bundled() -> Path:
    return Path(senryu.__file__).parent / "models" / "mini"


def _is_name(ref: str) -> bool:
    return re.fullmatch(r"[\w][\w.-]*", ref) is not None


def _directory(path: Path, name: str, ref: str) -> ModelFiles:
    if not path.is_dir():
        raise ModelError(f"{ref}: there is no directory {path}. Check the path.")
    if not (path / "config.json").exists():
        raise ModelError(f"{ref}: {path} has no config.json, so it is not a model directory in Hugging Face's layout.")
    return ModelFiles(path, name, ref)


def _download(snapshot: Path, repository: str) -> ModelFiles:
    return ModelFiles(snapshot, repository.rpartition("/")[2], f"hf:{repository}@{snapshot.name}", snapshot.name)


def _runs(files: ModelFiles) -> bool:
    try:
        describe(files)
    except ModelError:
        return False
    return True


def _has_weights(path: Path) -> bool:
    return (path / "config.json").exists() and any(path.glob("*.safetensors"))


def _from_hub(ref: str, cache: Path, download: Download | None) -> ModelFiles:
    repository, _, revision = ref.removeprefix("hf:").partition("@")
    if not _REPOSITORY.fullmatch(repository) or ref.endswith("@"):
        raise ModelError(f"{ref!r} is not a reference to a repository. Write hf:ORG/REPO or hf:ORG/REPO@REVISION.")
    if download is None:
        from huggingface_hub import snapshot_download  # lazily: it takes a while, and most starts need none of it

        download = snapshot_download

    def fetch(patterns: list[str], revision: str | None) -> Path:
        try:
            return Path(
                download(
                    repository,
                    revision=revision,
                    cache_dir=cache,
                    allow_patterns=patterns,
                    ignore_patterns=_NOT_FETCHED,
                    library_name="senryu",
                    library_version=senryu.__version__,
                )
            )
        except (OSError, ValueError) as error:
            raise ModelError(_why_not_fetched(ref, error)) from error

    first = fetch(["config.json"], revision or None)
    load_spec(first)  # a model that we cannot run is refused before gigabytes of it are fetched
    snapshot = fetch(_FETCHED, first.name)
    if not _has_weights(snapshot):
        raise ModelError(
            f"{ref} has no safetensors weights (pickles, which can run code, are never fetched). Choose a converted copy of it."
        )
    return _download(snapshot, repository)


def _why_not_fetched(ref: str, error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError

    match error:
        case GatedRepoError():
            what = "the repository wants its terms to be accepted. Accept them on its page, then set HF_TOKEN."
        case RepositoryNotFoundError():
            what = "there is no such repository, or it is private. Check the name; for a private one set HF_TOKEN."
        case RevisionNotFoundError():
            what = "the repository has no such revision. Leave out the part after @, or name a branch, a tag or a commit."
        case LocalEntryNotFoundError():
            what = "the hub cannot be reached and no download is finished. Check the network, HF_ENDPOINT and HF_HUB_OFFLINE."
        case _:
            what = f"the download failed ({error}). Try again: what has arrived is kept."
    return f"{ref}: {what}"


def _unknown(ref: str, home: Path) -> str:
    known = [files.ref for files in local_models(home)]
    if _REPOSITORY.fullmatch(ref):
        return f"{ref!r}: there is no such directory. For a repository of the Hugging Face hub write hf:{ref}."
    if ":" in ref:
        return f"{ref!r}: a reference of this kind is not known. Write mini, path:DIR or hf:ORG/REPO."
    close = difflib.get_close_matches(ref, [MINI, *known], n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{ref!r}: no model and no directory has this name.{hint} Write mini, path:DIR or hf:ORG/REPO."


def _has_template(path: Path) -> bool:
    try:
        load_template(path, load_tokenizer(path))
    except TemplateError:
        return False
    return True


def _licence(path: Path) -> str | None:
    """`license:` of the card's front matter, else the first line of a licence file."""
    for card in ("README.md", "MODEL_CARD.md"):
        if (path / card).exists():
            front = re.match(r"---\n(.*?)\n---", (path / card).read_text(encoding="utf-8"), re.DOTALL)
            named = re.search(r"^licen[sc]e:\s*(.+)$", front[1], re.MULTILINE) if front else None
            if named:
                return named[1].strip(" \"'")
    for file in sorted(path.glob("LICEN[SC]E*")):
        lines = (line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines())
        return next((line for line in lines if line), None)
    return None
