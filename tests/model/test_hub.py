"""References to models: bundled, local, and from a hub that we play ourselves on loopback."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import checkpoints
import pytest
import vocabularies
from huggingface_hub import snapshot_download

from senryu.model.hub import ModelFiles, describe, local_models, parameters, resolve
from senryu.model.spec import ModelError, load_spec
from senryu.model.weights import load_weights

COMMITS = {"main": "a" * 40, "v2": "b" * 40}
CARD = "---\nlicense: apache-2.0\n---\n# Tiny\n"


def model_directory(path: Path, family: str = "qwen3") -> Path:
    checkpoints.save(checkpoints.make(family), path)
    (path / "tokenizer.json").write_text(vocabularies.description("byte level"))
    (path / "chat_template.jinja").write_text("{{ messages[0].content }}")
    (path / "README.md").write_text(CARD)
    return path


class Hub(ThreadingHTTPServer):
    """Enough of a Hugging Face hub for snapshot_download: a revision's commit, its tree, its files."""

    def __init__(self, repositories: dict[str, dict[str, bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.repositories = repositories
        self.fetched: list[str] = []

    @property
    def download(self) -> partial[str]:
        return partial(snapshot_download, endpoint=f"http://127.0.0.1:{self.server_address[1]}", token=False)


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        for name, files in self.server.repositories.items():
            for revision, commit in [*COMMITS.items(), *((commit, commit) for commit in COMMITS.values())]:
                if path == f"/api/models/{name}/revision/{revision}":
                    return self.answer(json.dumps({"id": name, "sha": commit, "siblings": []}).encode(), commit)
                if path == f"/api/models/{name}/tree/{revision}":
                    tree = [
                        {"type": "file", "path": file, "size": len(data), "oid": digest(data)} for file, data in files.items()
                    ]
                    return self.answer(json.dumps(tree).encode(), commit)
                for file, data in files.items():
                    if path == f"/{name}/resolve/{revision}/{file}":
                        if self.command == "GET":
                            self.server.fetched.append(file)
                        return self.answer(data, commit)
            if path.startswith((f"/api/models/{name}/", f"/{name}/")):
                return self.answer(b"{}", "", 404, "RevisionNotFound")
        return self.answer(b"{}", "", 404, "RepoNotFound")

    do_HEAD = do_GET

    def answer(self, data: bytes, commit: str, status: int = 200, code: str = "") -> None:
        self.send_response(status)
        for header, value in {
            "Content-Length": str(len(data)), "Content-Type": "application/json", "ETag": f'"{digest(data)}"',
            "X-Repo-Commit": commit, "X-Error-Code": code,
        }.items():  # fmt: skip
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_directory(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    good = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    extras = {
        "pytorch_model.bin": b"x",
        "original/params.json": b"{}",
        "consolidated.safetensors": b"x",
        "run.py": b"",
        "a.pkl": b"",
    }
    pickled = {name: data for name, data in good.items() if not name.endswith(".safetensors")} | {"pytorch_model.bin": b"x"}
    other = good | {"config.json": json.dumps({"model_type": "mamba"}).encode()}
    server = Hub({"org/tiny": good | extras, "org/pickled": pickled, "org/other": other})
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_repository_is_downloaded_once_and_pinned(hub: Hub, checkpoint: Path, tmp_path: Path) -> None:
    files = resolve("hf:org/tiny", tmp_path, download=hub.download)
    assert files == ModelFiles(files.path, "tiny", f"hf:org/tiny@{COMMITS['main']}", COMMITS["main"])
    assert tmp_path / "models" in files.path.parents
    assert sorted(file.name for file in files.path.iterdir()) == sorted(file.name for file in checkpoint.iterdir())
    assert load_weights(files.path).fingerprint == load_weights(checkpoint).fingerprint
    assert not {"pytorch_model.bin", "original/params.json", "consolidated.safetensors", "run.py", "a.pkl"} & set(hub.fetched)

    before = list(hub.fetched)
    assert resolve("hf:org/tiny", tmp_path, download=hub.download) == files
    assert resolve(files.ref, tmp_path, download=hub.download) == files
    assert hub.fetched == before
    assert files in local_models(tmp_path)
    assert resolve("hf:org/tiny@v2", tmp_path, download=hub.download).revision == COMMITS["v2"]


def test_a_download_serves_without_a_network(hub: Hub, tmp_path: Path) -> None:
    files = resolve("hf:org/tiny", tmp_path, download=hub.download)
    offline = partial(snapshot_download, endpoint="http://127.0.0.1:9", token=False)
    assert resolve("hf:org/tiny", tmp_path, download=offline) == files
    assert resolve(files.ref, tmp_path, download=offline) == files
    with pytest.raises(ModelError, match=r"hf:org/missing: the hub cannot be reached and no download is finished"):
        resolve("hf:org/missing", tmp_path, download=offline)


def test_what_cannot_run_is_refused_before_its_weights_are_fetched(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="model_type 'mamba' is not supported"):
        resolve("hf:org/other", tmp_path, download=hub.download)
    assert hub.fetched == ["config.json"]
    with pytest.raises(ModelError, match=r"hf:org/pickled has no safetensors weights \(pickles"):
        resolve("hf:org/pickled", tmp_path, download=hub.download)
    assert "pytorch_model.bin" not in hub.fetched
    assert [files.ref for files in local_models(tmp_path) if files.revision] == []


def test_failed_downloads_are_explained(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"hf:org/nothing: there is no such repository, or it is private"):
        resolve("hf:org/nothing", tmp_path, download=hub.download)
    with pytest.raises(ModelError, match=r"hf:org/tiny@v9: the repository has no such revision"):
        resolve("hf:org/tiny@v9", tmp_path, download=hub.download)

    def broken(*_: object, **__: object) -> str:
        raise OSError("no space left on device")

    with pytest.raises(ModelError, match=r"the download failed \(no space left on device\)"):
        resolve("hf:org/tiny", tmp_path, download=broken)


def test_directories(checkpoint: Path, tmp_path: Path) -> None:
    expected = ModelFiles(checkpoint, checkpoint.name, f"path:{checkpoint}")
    assert resolve(f"path:{checkpoint}", tmp_path) == expected
    assert resolve(str(checkpoint), tmp_path) == expected


def test_a_name_is_a_directory_in_home(tmp_path: Path) -> None:
    mine = model_directory(tmp_path / "models" / "mine")
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "config.json").write_text("{}")
    assert resolve("mine", tmp_path) == ModelFiles(mine, "mine", "mine")
    assert [files.ref for files in local_models(tmp_path)] == ["mini", "mine"]
    with pytest.raises(ModelError, match="model_type None is not supported"):
        describe(resolve("broken", tmp_path))


@pytest.mark.parametrize(
    ("ref", "why"),
    [
        ("minii", r"'minii': no model .* Did you mean mini\?"),
        ("org/repo", r"write hf:org/repo\."),
        ("gguf:model.gguf", r"a reference of this kind is not known. Write mini, path:DIR or hf:ORG/REPO\."),
        ("hf:repo", r"Write hf:ORG/REPO or"),
        ("hf:org/repo@", r"Write hf:ORG/REPO or"),
        ("hf:../../etc", r"Write hf:ORG/REPO or"),
        ("path:/no/such/place", r"there is no directory /no/such/place"),
        ("../models", r"no model and no directory|there is no such directory"),
        ("", r"no model and no directory"),
    ],
)
def test_an_unknown_reference_is_explained(ref: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=why):
        resolve(ref, tmp_path)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve(f"path:{tmp_path}", tmp_path)


@pytest.mark.parametrize("family", ["cohere2", "qwen3"])
def test_describe(family: str, tmp_path: Path) -> None:
    model = checkpoints.make(family)
    model_directory(tmp_path / family, family)
    facts = describe(resolve(f"path:{tmp_path / family}", tmp_path))
    assert facts["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert facts["parameters"] == parameters(load_spec(tmp_path / family))
    assert facts["bytes"] == 4 * facts["parameters"]
    assert facts["parameters"] < facts["int8_bytes"] < 1.3 * facts["parameters"]
    assert (facts["family"], facts["layers"], facts["heads"], facts["kv_heads"]) == (family, 4, 4, 2)
    assert facts["kv_bytes_per_token"] == 4 * 2 * (2 * facts["head_dim"] + 8)  # layers, heads; K and V in int8, two scales
    assert (facts["context"], facts["vocab"], facts["dtype"], facts["licence"]) == (256, 97, "f32", "apache-2.0")
    assert facts["template"] is True
    json.dumps(facts)


def test_describe_a_base_model_with_a_licence_file(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        if file.name not in ("README.md", "chat_template.jinja"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "LICENSE.txt").write_text("\n  MIT License\n\nCopyright\n")
    facts = describe(resolve(str(tmp_path), tmp_path))
    assert (facts["template"], facts["licence"]) == (False, "MIT License")
