"""Documents become text: PDFs page by page, files by their bytes; and how the model reads them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdfs import locked, pdf
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.service import documents
from senryu.service import pdf as pdf_module
from senryu.service.documents import Documents, FileData, document_text, plain
from senryu.service.pdf import Unreadable, extract, read_pdf
from senryu.service.registry import Registry
from senryu.service.turn import Service
from senryu.types import (
    CacheControl,
    Chunks,
    Document,
    FileReference,
    Message,
    Pages,
    Pdf,
    PlainText,
    SearchResult,
    Text,
    ToolResult,
    ToolUse,
    Turn,
)
from serving import scripted_model

TWO_PAGES = pdf(["The first page", "has two lines."], ["Caf\xe9 on the second."])


def turn(*content: object, tenant: str = "") -> Turn:
    return Turn("senryu-mini", (Message("user", content),), 64, tenant=tenant)  # type: ignore[arg-type]


class Uploaded:
    """Files of one tenant."""

    def __init__(self, **files: tuple[bytes, str]) -> None:
        self.files, self.reads = files, 0

    async def read(self, tenant: str, id: str, most: int) -> FileData | None:
        self.reads += 1
        if tenant != "me" or id not in self.files:
            return None
        data, mime = self.files[id]
        return FileData(data[: most + 1], mime)


def resolved(asked: Turn, files: Uploaded | None = None) -> tuple[object, ...]:
    return asyncio.run(Documents(files).resolve(asked)).messages[0].content


def refusal(asked: Turn, files: Uploaded | None = None) -> SenryuError:
    with pytest.raises(SenryuError) as caught:
        resolved(asked, files)
    return caught.value


def test_a_pdf_is_read_page_by_page() -> None:
    (block,) = resolved(turn(Document(Pdf(TWO_PAGES), title="Two", citations=True)))
    assert block == Document(Pages(("The first page\nhas two lines.", "Café on the second.")), title="Two", citations=True)


def test_a_turn_without_documents_stays_as_it_is() -> None:
    asked = turn(Text("Hi"))
    assert asyncio.run(Documents().resolve(asked)) is asked
    assert plain(asked) is asked


def test_a_pdf_that_anyone_may_open_is_read() -> None:
    assert read_pdf(locked(TWO_PAGES, ""))[1] == "Café on the second."


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (locked(TWO_PAGES, "secret"), "pdf_encrypted", "password protected"),
        (pdf([], []), "pdf_textless", "no text"),
        (b"%PDF-1.4 and then nothing of the kind", "pdf_broken", "not valid"),
        (b"", "pdf_broken", "not valid"),
        (TWO_PAGES[:200], "pdf_broken", "not valid"),
        (pdf(*[["x"]] * 101), "pdf_pages", "A maximum of 100 PDF pages may be provided. Found 101."),
        (pdf(["x" * (pdf_module.PAGE_BYTES + 1)]), "pdf_heavy", "draws too much"),
    ],
)
def test_a_pdf_that_cannot_be_read_says_why(data: bytes, code: str, says: str) -> None:
    error = refusal(turn(Text("Read this:"), Document(Pdf(data))))
    assert (error.code, error.status) == (code, 400)
    assert error.message.startswith("messages.0.content.1.source: ")
    assert says in error.message


def test_reading_a_pdf_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_module, "READ_SECONDS", -1.0)
    with pytest.raises(Unreadable, match="pdf_heavy"):
        read_pdf(TWO_PAGES)
    assert refusal(turn(Document(Pdf(TWO_PAGES)))).code == "pdf_heavy"


@pytest.mark.parametrize("how", ["raise MemoryError", "import os; os.abort()"])
def test_a_pdf_that_ends_its_reader_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    (tmp_path / "pypdf.py").write_text(how)
    monkeypatch.syspath_prepend(tmp_path)
    assert refusal(turn(Document(Pdf(TWO_PAGES)))).code == "pdf_heavy"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(TWO_PAGES) - 1), st.integers(0, 255)), min_size=1, max_size=20))
def test_whatever_a_pdf_holds_it_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(TWO_PAGES)
    for place, value in changes:
        data[place] = value
    with contextlib.suppress(Unreadable):  # anything else would be a crash
        assert "".join(read_pdf(bytes(data))).encode()


def test_pages_are_counted_over_the_request() -> None:
    half = Document(Pdf(pdf(*[["x"]] * 60)))
    assert len(resolved(turn(half))) == 1
    error = refusal(turn(half, half))
    assert error.message.startswith("messages.0.content.1.source: A maximum of 100 PDF pages may be provided. Found 120.")


def test_a_pdf_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(documents, "extract", lambda data, path: reads.append(path) or extract(data, path))
    reader, asked = Documents(), turn(Document(Pdf(TWO_PAGES)))

    async def twice() -> None:
        assert await reader.resolve(asked) == await reader.resolve(asked)
        monkeypatch.setattr(documents, "KEPT_CHARACTERS", 10)
        await reader.resolve(turn(Document(Pdf(pdf(["another"])))))
        await reader.resolve(asked)

    asyncio.run(twice())
    assert len(reads) == 3


def test_files_become_text_or_pages() -> None:
    files = Uploaded(
        a=(b"\xef\xbb\xbfplain \xc3\xa9", "text/plain"), b=(b'{"a": 1}\n', "application/x-ndjson"), c=(TWO_PAGES, "x/y")
    )
    blocks = [Document(FileReference(id), title=id) for id in ("a", "b", "c", "a")]
    found = resolved(turn(*blocks, tenant="me"), files)
    assert found[0] == Document(PlainText("plain é"), title="a", file_id="a")
    assert found[1] == Document(PlainText('{"a": 1}\n'), title="b", file_id="b")
    assert found[2] == Document(Pages(read_pdf(TWO_PAGES)), title="c", file_id="c")
    assert found[3] == found[0]
    assert files.reads == 3


def test_a_file_that_is_not_there() -> None:
    files = Uploaded(a=(b"text", "text/plain"))
    asked = Document(FileReference("b"))
    for error in (
        refusal(turn(asked, tenant="me"), files),
        refusal(turn(Document(FileReference("a"))), files),
        refusal(turn(asked)),
    ):
        assert (error.status, error.type) == (404, "not_found_error")
        assert error.message.startswith("File not found: ")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0", b"\xff\xfe", b"a\0b"])
def test_a_file_that_is_no_text(data: bytes) -> None:
    error = refusal(turn(Document(FileReference("a")), tenant="me"), Uploaded(a=(data, "image/png")))
    assert error.message.startswith("messages.0.content.0.source: the file a (image/png) is neither a PDF nor text")


def test_files_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MOST_BYTES", 10)
    files = Uploaded(a=(b"123456", "text/plain"), b=(b"1234", "text/plain"), c=(b"12345", "text/plain"))
    a, b, c = (Document(FileReference(id)) for id in "abc")
    assert len(resolved(turn(a, b, a, tenant="me"), files)) == 3
    assert refusal(turn(a, c, tenant="me"), files).message.startswith("messages.0.content.1.source: the files of one request")


def test_what_the_model_reads() -> None:
    document = Document(PlainText("One.\nTwo."), title="T", context="C")
    assert document_text(document, 3) == (
        '<document index="3">\n<title>T</title>\n<context>C</context>\n<content>\nOne.\nTwo.\n</content>\n</document>'
    )
    assert document_text(Document(Chunks(("a", "b"))), 1) == '<document index="1">\n<content>\na\n\nb\n</content>\n</document>'
    assert document_text(Document(Pages(("a", "b"))), 1) == (
        '<document index="1">\n<content>\n<page number="1">\na\n</page>\n<page number="2">\nb\n</page>\n</content>\n</document>'
    )
    assert document_text(SearchResult("http://s", "T", ("a", "b")), 2) == (
        '<search_result index="2">\n<source>http://s</source>\n<title>T</title>\n<content>\na\n\nb\n</content>\n</search_result>'
    )


def test_indices_count_over_all_messages_and_breakpoints_stay() -> None:
    marked = Document(PlainText("b"), cache=CacheControl(3600))
    result = SearchResult("s", "t", ("x",))
    asked = Turn(
        "senryu-mini",
        (
            Message("user", (Document(PlainText("a")), Text("?"))),
            Message("assistant", (ToolUse("toolu_1", "find", {}),)),
            Message("user", (ToolResult("toolu_1", (result, marked, Text("t"))), result)),
        ),
        64,
    )
    first, call, last = plain(asked).messages
    assert first.content == (Text(document_text(Document(PlainText("a")), 1)), Text("?"))
    assert call == asked.messages[1]
    texts = (Text(document_text(result, 1)), Text(document_text(marked, 2), cache=CacheControl(3600)), Text("t"))
    assert last.content == (ToolResult("toolu_1", texts), Text(document_text(result, 2)))


def test_a_document_is_counted_as_the_model_reads_it() -> None:
    async def count(asked: Turn) -> int:
        model = scripted_model()
        try:
            return await Service(Registry([model]), Settings(home=Path("unused"))).count_tokens(asked)
        finally:
            await model.engine.close()

    block = Document(Pdf(TWO_PAGES))
    text = document_text(Document(Pages(read_pdf(TWO_PAGES))), 1)
    assert asyncio.run(count(turn(block))) == asyncio.run(count(turn(Text(text)))) > 100
