"""/v1/files over real sockets: uploads, both shapes of lists, and files as documents of a message."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import httpx
import pytest

from pdfs import pdf
from senryu.config import Settings
from senryu.service import files as service
from serving import says, scripted_model, serving_with

VERSION = {"anthropic-version": "2023-06-01"}
OLDER = {**VERSION, "anthropic-beta": "prompt-caching-2024-07-31, files-api-2025-04-14"}

HEAD = (
    "POST /v1/files HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-type: multipart/form-data; boundary=b\r\n"
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def url(home: Path) -> Iterator[str]:
    with serving_with(scripted_model(says("The grass is green.")), Settings(home=home, port=0, stall_timeout_s=5.0)) as url:
        yield url


def upload(url: str, data: bytes = b"The grass is green.", name: str = "facts.txt", **fields: str) -> httpx.Response:
    return httpx.post(url + "/v1/files", files={"file": (name, data, "text/plain")}, data=fields, headers=VERSION)


def get(url: str, path: str, headers: dict[str, str] = VERSION, **query: Any) -> httpx.Response:
    return httpx.get(url + path, params=query, headers=headers)


def message_of(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["message"]


def stored(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "files").glob("*"))


def test_upload_look_and_delete(url: str, home: Path) -> None:
    answer = upload(url)
    assert answer.status_code == 200
    assert answer.headers["request-id"].startswith("req_")
    file = answer.json()
    assert re.fullmatch(r"file_01\w{22}", file["id"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", file["created_at"])
    assert {key: value for key, value in file.items() if key not in ("id", "created_at")} == {
        "type": "file",
        "filename": "facts.txt",
        "mime_type": "text/plain",
        "size_bytes": 19,
        "downloadable": False,
        "expires_at": None,
    }
    assert get(url, f"/v1/files/{file['id']}").json() == file
    assert (home / "files" / file["id"]).read_bytes() == b"The grass is green."
    refused = get(url, f"/v1/files/{file['id']}/content")
    assert refused.status_code == 400
    assert refused.json()["error"]["details"] == {"error_code": "file_not_downloadable"}
    assert httpx.delete(f"{url}/v1/files/{file['id']}", headers=VERSION).json() == {"id": file["id"], "type": "file_deleted"}
    assert stored(home) == []
    for path in (f"/v1/files/{file['id']}", "/v1/files/file_none", "/v1/files/file_none/content"):
        assert get(url, path).status_code == 404
    assert message_of(httpx.delete(f"{url}/v1/files/{file['id']}", headers=VERSION)) == (404, f"File not found: {file['id']}")


def test_a_large_file_goes_to_the_disk_as_it_came(url: str, home: Path) -> None:
    data = bytes(range(256)) * 20_000
    file = upload(url, data, "b.bin").json()
    assert file["size_bytes"] == len(data)
    assert (home / "files" / file["id"]).read_bytes() == data


def test_expiry(url: str) -> None:
    file = upload(url, expires_in_seconds="3600").json()
    assert file["expires_at"][:14] > file["created_at"][:14]
    assert file["expires_at"][14:] == file["created_at"][14:]
    below = "expires_in_seconds: Input should be greater than or equal to 3600"
    above = "expires_in_seconds: Input should be less than or equal to 7776000"
    for sent, message in (
        ("3599", below),
        ("-1", below),
        ("7776001", above),
        ("9" * 100, above),
        ("soon", "expires_in_seconds: Input should be a valid integer"),
        ("", "expires_in_seconds: Input should be a valid integer"),
        ("3_600", "expires_in_seconds: Input should be a valid integer"),
    ):
        assert message_of(upload(url, expires_in_seconds=sent)) == (400, message)


def test_names(url: str) -> None:
    assert upload(url, name="some/dir/é.md").json()["filename"] == "é.md"
    assert message_of(upload(url, name="a|b"))[0] == 400
    assert message_of(upload(url, name="x" * 256))[0] == 400
    bare = httpx.post(url + "/v1/files", files={"file": (None, b"{}", "application/json")}, headers=VERSION)
    assert bare.json()["filename"] == "unnamed.json"
    assert bare.json()["mime_type"] == "application/json"


def test_forms_that_are_wrong(url: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def post(content: bytes, kind: str = "multipart/form-data; boundary=b") -> tuple[int, str]:
        return message_of(httpx.post(url + "/v1/files", content=content, headers={**VERSION, "content-type": kind}))

    def part(name: str, data: str = "x") -> bytes:
        return f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{data}\r\n'.encode()

    end = b"--b--\r\n"
    assert post(b"{}", "application/json") == (
        400,
        "The request body is not valid multipart/form-data: content-type must be multipart/form-data with a boundary",
    )
    for content, expected in (
        (b"", "it ends too early"),
        (b"nonsense", "The request body is not valid multipart/form-data: "),
        (part("file"), "it ends too early"),
        (part("file") + part("file") + end, "file is there twice"),
        (part("purpose") + part("file") + end, "purpose: Extra inputs are not permitted"),
        (part("expires_in_seconds", "3600") + end, "file: Field required"),
    ):
        status, message = post(content)
        assert status == 400
        assert expected in message
    before = stored(home)
    monkeypatch.setattr(service, "FILE_BYTES", 1000)
    assert message_of(upload(url, b"x" * 1001)) == (413, "file: a file may hold 1000 bytes. Split it and try again.")
    assert message_of(httpx.post(url + "/v1/files", headers={"content-type": "multipart/form-data; boundary=b"})) == (
        400,
        "anthropic-version: header is required",
    )
    assert stored(home) == before


def test_a_body_that_is_too_large_is_refused_at_once(url: str) -> None:
    address = urlsplit(url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        connection.sendall(f"{HEAD}content-length: {501 << 20}\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_an_upload_that_breaks_off_leaves_nothing(url: str, home: Path) -> None:
    """The caller hangs up, or sends nothing any more."""
    address = urlsplit(url)
    data = b"x" * (3 << 20)
    begin = f"{HEAD}content-length: {len(data) * 2}\r\n\r\n".encode()
    begin += b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n' + data
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as stalled:
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=60) as gone:
            gone.sendall(begin)
        stalled.sendall(begin)
        assert stalled.recv(1000).startswith(b"HTTP/1.1 408 ")
    assert stored(home) == []


def test_lists_in_the_newer_shape(url: str) -> None:
    assert get(url, "/v1/files").json() == {"data": [], "next_page": None}
    ids = [upload(url, name=f"{number}").json()["id"] for number in range(5)][::-1]
    seen: list[str] = []
    page: dict[str, Any] = {"next_page": ""}
    while page["next_page"] is not None:
        page = get(url, "/v1/files", limit=2, **({"page": page["next_page"]} if page["next_page"] else {})).json()
        assert page.keys() == {"data", "next_page"}
        assert len(page["data"]) <= 2
        seen += [file["id"] for file in page["data"]]
        assert page["next_page"] is None or page["next_page"].startswith("page_")
    assert seen == ids
    chosen = get(url, "/v1/files", **{"ids[]": [ids[3], ids[1], ids[3], "file_none"]}).json()
    assert [file["id"] for file in chosen["data"]] == [ids[1], ids[3]]
    assert chosen["next_page"] is None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"limit": "0"}, "limit: Input should be greater than or equal to 1"),
        ({"limit": "1001"}, "limit: Input should be less than or equal to 1000"),
        ({"page": "page_?"}, "page: this is no cursor of ours."),
        ({"page": "page_MTphYg\xff"}, "page: this is no cursor of ours."),
        ({"page": "page_" + "OTk5OTk5OTk5OTk5OTk5OTk5OTk5OmE"}, "page: this is no cursor of ours."),
        ({"ids[]": ["a"], "limit": "1"}, "ids: cannot be combined with limit"),
        ({"ids[]": [f"a{number}" for number in range(101)]}, "ids: at most 100 may be given. Found 101."),
    ],
)
def test_lists_that_cannot_be(url: str, query: dict[str, Any], expected: str) -> None:
    status, message = message_of(get(url, "/v1/files", **query))
    assert status == 400
    assert message.startswith(expected)


def test_lists_in_the_older_shape(url: str) -> None:
    assert get(url, "/v1/files", OLDER).json() == {"data": [], "has_more": False, "first_id": None, "last_id": None}
    ids = [upload(url, name=f"{number}").json()["id"] for number in range(5)][::-1]

    def page(**query: Any) -> tuple[list[str], bool]:
        body = get(url, "/v1/files", OLDER, **query).json()
        found = [file["id"] for file in body["data"]]
        assert (body["first_id"], body["last_id"]) == (found[0], found[-1])
        return found, body["has_more"]

    assert page() == (ids, False)
    assert page(limit=2) == (ids[:2], True)
    assert page(limit=2, after_id=ids[1]) == (ids[2:4], True)
    assert page(limit=2, before_id=ids[4]) == (ids[2:4], True)
    assert message_of(get(url, "/v1/files", OLDER, after_id="file_none"))[0] == 400


def test_keys_have_files_of_their_own(url: str) -> None:
    ours, theirs = {**VERSION, "x-api-key": "ours"}, {**VERSION, "x-api-key": "theirs"}
    file = httpx.post(url + "/v1/files", files={"file": ("a", b"a")}, headers=ours).json()
    assert get(url, f"/v1/files/{file['id']}", ours).status_code == 200
    assert get(url, f"/v1/files/{file['id']}", theirs).status_code == 404
    assert get(url, "/v1/files", theirs).json()["data"] == []
    assert httpx.delete(f"{url}/v1/files/{file['id']}", headers=theirs).status_code == 404
    body = {"model": "senryu-mini", "max_tokens": 64}
    body["messages"] = [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": file["id"]}}]}]
    assert httpx.post(url + "/v1/messages", json=body, headers=ours).status_code == 200
    assert httpx.post(url + "/v1/messages", json=body, headers=theirs).status_code == 404


def test_a_message_cites_a_file(url: str) -> None:
    """By JSON and by the SDK's stream, which must come to the same."""
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        pages = pdf(["Nothing here."], ["Look outside.", "The grass is green."])
        facts = client.files.upload(file=("facts.txt", b"So it is: the grass is green.", "text/plain"))
        leaf = client.files.upload(file=("leaf.pdf", pages, "application/pdf"))
        asked: Any = {"model": "senryu-mini", "max_tokens": 64}
        for file, place in (
            (facts, {"type": "char_location", "start_char_index": 0, "end_char_index": 29}),
            (leaf, {"type": "page_location", "start_page_number": 2, "end_page_number": 3}),
        ):
            source = {"type": "file", "file_id": file.id}
            document = {"type": "document", "source": source, "title": "Lawn", "citations": {"enabled": True}}
            asked["messages"] = [{"role": "user", "content": [document, {"type": "text", "text": "What color?"}]}]
            (block,) = client.messages.create(**asked).content
            assert block.type == "text"
            assert block.text == "The grass is green."
            (citation,) = block.citations or ()
            shown = citation.to_dict()
            cited = shown.pop("cited_text")
            assert shown == {"document_index": 0, "document_title": "Lawn", "file_id": file.id, **place}
            assert cited in ("So it is: the grass is green.", "Look outside.\nThe grass is green.", "The grass is green.")
            with client.messages.stream(**asked) as stream:
                (streamed,) = stream.get_final_message().content
            assert (streamed.text, streamed.citations) == (block.text, block.citations)
            history = [
                *asked["messages"],
                {"role": "assistant", "content": [block.to_dict()]},
                {"role": "user", "content": "So?"},
            ]
            assert client.messages.create(**{**asked, "messages": history}).content[0].type == "text"


def test_with_the_sdk(url: str, tmp_path: Path) -> None:
    with anthropic.Anthropic(base_url=url, api_key="any", max_retries=0) as client:
        path = tmp_path / "facts.md"
        path.write_text("# Facts")
        made = [
            client.files.upload(file=path, expires_in_seconds=3600),
            client.files.upload(file=("b.txt", b"b", "text/plain")),
        ]
        assert made[0].filename == "facts.md"
        assert made[0].expires_at
        assert [file.id for file in client.files.list(limit=1)] == [made[1].id, made[0].id]
        assert [file.id for file in client.files.list(ids=[made[0].id])] == [made[0].id]
        assert client.files.retrieve_metadata(made[1].id) == made[1]
        with pytest.raises(anthropic.BadRequestError, match="cannot be downloaded"):
            client.files.download(made[0].id)
        assert client.files.delete(made[0].id).type == "file_deleted"
        with pytest.raises(anthropic.NotFoundError):
            client.files.retrieve_metadata(made[0].id)
