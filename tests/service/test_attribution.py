"""Which sentences are cited, and by what: copies always, paraphrases that agree, nothing that only sounds alike."""

from __future__ import annotations

import pydoc_data.topics
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.service.attribution import Attribution, Passage
from senryu.service.sentences import SentenceCutter, sentences
from senryu.types import Citation

ROOT = Path(__file__).resolve().parents[2]
TOWER = (
    "The Eiffel Tower is a wrought-iron lattice tower on the Champ de Mars in Paris, France. It is named after the "
    "engineer Gustave Eiffel, whose company designed and built the tower from 1887 to 1889. Locally nicknamed “La dame "
    "de fer”, it was constructed as the centerpiece of the 1889 World's Fair. Although initially criticised by some of "
    "France's leading artists, it has since become a global cultural icon. The tower received 5,889,000 visitors in "
    "2022. It is not the tallest structure in the world. The tower is 330 metres tall, about the same height as an "
    "81-storey building."
)
GRASS = Passage("content_block_location", "In spring the grass is green.", 0, 4, "Garden")
SKY = Passage("search_result_location", "By day, the sky is blue.", 2, 1, "Weather", "https://sky.example")


def plain(text: str) -> Attribution:
    return Attribution([Passage("char_location", text, 0)])


TOWERS = plain(TOWER)


@pytest.mark.parametrize(
    ("sentence", "cited"),
    [
        ("The Eiffel Tower is in Paris, France.", "The Eiffel Tower is a"),
        ("It was designed and built from 1887 to 1889 by the company of Gustave Eiffel.", "It is named after"),
        (" The tower was visited by 5889000 visitors in 2022.", "The tower received"),
        ("According to the document, the tower is 330 metres tall.", "The tower is 330"),
        ("- **330 metres** tall", "The tower is 330"),
        ("2. 330 metres tall", "The tower is 330"),
        ("Paris.", "The Eiffel Tower is a"),
        ("1889.", "It is named after"),
        ("Leading artists of France criticised it initially, but it has become a global cultural icon.", "Although initially"),
        ("The tower is as high as an 81-storey building.", "The tower is 330"),
        ("It was the centerpiece of the World’s Fair of 1889.", "Locally nicknamed"),
        ("It isn't the tallest structure in the world.", "It is not the tallest"),
        ('Those who live around there say "named after the engineer Gustave Eiffel" far too often.', "It is named after"),
        ("People of taste will tell you that it has since become a global cultural icon, sadly.", "Although initially"),
    ],
)
def test_what_a_source_says_is_cited(sentence: str, cited: str) -> None:
    (citation,) = TOWERS.cite(sentence)
    assert citation.text.startswith(cited)
    assert citation.text == TOWER[citation.start : citation.end]


@pytest.mark.parametrize(
    "sentence",
    [
        "The Eiffel Tower was sold to Brazil in a secret deal.",
        "The tower is 324 metres tall.",
        "The tower received 5,889,000 visitors in 2021.",
        "It is the tallest structure in the world.",
        "The Louvre is a museum in Paris, France.",
        "The Statue of Liberty was built in 1886 by Gustave Eiffel's company in Paris.",
        "The document does not say who painted the tower.",
        "The tower is nice.",
        "I don't know.",
        "Hello!",
        "Yes.",
        "Metres.",
        "## 7.",
        "Is there anything else that I can help you with?",
        "...",
        "",
    ],
)
def test_what_no_source_says_is_not(sentence: str) -> None:
    assert TOWERS.cite(sentence) == ()


def test_nothing_of_an_unrelated_text_is_cited() -> None:
    source = plain((ROOT / "LICENSE").read_text())
    text = (ROOT / "LAB.md").read_text() + (ROOT / "ARCHITECTURE.md").read_text()
    spans = sentences(text)
    assert len(spans) > 200
    assert [text[a:b] for a, b in spans if source.cite(text[a:b])] == []


def test_common_words_of_a_long_source_are_no_reason() -> None:
    source = plain("\n\n".join(pydoc_data.topics.topics.values()))
    for sentence in (
        "Here is an example of how to use it:",
        "An object is created when the function is called.",
        "The value is not known.",
        "There are two ways to do this.",
        "If you want to learn more, see the documentation.",
        "The capital of France is Paris.",
    ):
        assert source.cite(sentence) == ()
    assert source.cite("A NameError exception is raised when a name is not found at all.")


def test_every_sentence_of_a_source_is_cited_with_itself() -> None:
    text = (ROOT / "LICENSE").read_text()
    source, spans = plain(text), sentences(text)
    assert len(spans) > 60
    for start, end in spans:
        if re.fullmatch(r"\w+\W*", text[start:end]):
            continue  # a word alone says too little
        (citation,) = source.cite(text[start:end].upper())
        assert " ".join(re.findall(r"\w+", text[start:end].lower())) in " ".join(re.findall(r"\w+", citation.text.lower()))


def test_two_sources_for_one_sentence() -> None:
    both = Attribution([SKY, GRASS])
    assert both.cite("The grass is green and the sky is blue.") == (
        Citation("content_block_location", GRASS.text, 0, 4, 5, "Garden"),
        Citation("search_result_location", SKY.text, 2, 1, 2, "Weather", "https://sky.example"),
    )
    assert both.cite("The grass is blue.") == ()


def test_a_page_is_cited_by_its_number_and_a_block_as_a_whole() -> None:
    page = Passage("page_location", "An introduction. Cats sleep for sixteen hours.", 3, 7, "Cats", file_id="file_1")
    assert Attribution([page]).cite("Cats sleep for sixteen hours!") == (
        Citation("page_location", "Cats sleep for sixteen hours.", 3, 7, 8, "Cats", file_id="file_1"),
    )
    block = Passage("content_block_location", page.text, 3, 7)
    assert Attribution([block]).cite("Cats sleep for sixteen hours!")[0].text == page.text


def test_a_quotation_across_sentences_and_lines_is_one_range() -> None:
    text = "Nobody came. The long road led\nInto the hills. A second\nMorning broke."
    (citation,) = plain(text).cite(
        '"The long road led into the hills. A second morning" is how it goes on from there, more or less.'
    )
    assert citation.text == text[13:]


def test_a_quotation_does_not_cross_passages() -> None:
    pages = [Passage("page_location", "It ends with the big", 0, 1), Passage("page_location", "brown fox of winter.", 0, 2)]
    assert Attribution(pages).cite("The big brown fox.") == ()


def test_scripts_without_spaces() -> None:
    source = plain("東京は日本の首都です。富士山の高さは3776メートルです。")
    assert source.cite("富士山の高さは3776メートルです。")[0].text == "富士山の高さは3776メートルです。"
    assert source.cite("はい。") == ()
    assert source.cite("富士山の高さは3000メートルです。") == ()


def test_without_sources_nothing_is_cited() -> None:
    assert Attribution([]).cite("Anything at all.") == ()
    assert Attribution([Passage("char_location", " \n ", 0)]).cite("Anything at all.") == ()


ODDITIES = "the a grass green sky blue 7 1,000 Paris is not it. e.g. end! “so” old. Mr. x\n \n\n 漢字。"
WORDS = st.sampled_from(ODDITIES.split(" "))
TEXTS = st.lists(WORDS, max_size=30).map(" ".join)


@settings(max_examples=150, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), TEXTS)
def test_a_cited_text_is_a_slice_of_its_source(texts: list[str], sentence: str) -> None:
    source = Attribution([Passage("char_location", text, index) for index, text in enumerate(texts)])
    for citation in source.cite(sentence):
        assert citation.text
        assert citation.text == texts[citation.index][citation.start : citation.end]


EARLY, LATE = (st.lists(st.from_regex(letters, fullmatch=True), max_size=40) for letters in (r"[a-m]{4,8}", r"[n-z]{4,8}"))


@settings(max_examples=150, deadline=None)
@given(EARLY.filter(lambda words: len(words) >= 4), st.data())
def test_a_copy_is_always_found(words: list[str], data: st.DataObject) -> None:
    """Any run of words of a source, however the source is cut into sentences and lines."""
    gaps = st.sampled_from([" ", "\n", ", ", ". ", "!\n\n"])
    text = "".join(word + data.draw(gaps) for word in words)
    start = data.draw(st.integers(0, len(words) - 4))
    end = data.draw(st.integers(start + 4, len(words)))
    copy = " ".join(words[start:end])
    for sentence in (copy.upper() + ".", f'Somebody claims "{copy}", which nobody verified.'):
        (citation,) = plain(text).cite(sentence)
        assert copy in re.sub(r"\W+", " ", citation.text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.from_regex(r"[a-m]{3,8}", fullmatch=True), max_size=40), st.lists(st.from_regex(r"[n-z]{3,8}", fullmatch=True))
)
def test_other_words_are_never_cited(source: list[str], answer: list[str]) -> None:
    assert plain(". ".join(source)).cite(" ".join(answer)) == ()


PIECES = st.sampled_from(["a", "B", ". ", ".", "! ", "\n", "\n\n", " ", "3", "。", "”", "Mr.", "x" * 300, " y" * 150])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "B", ". ", ".", "! ", "\n", "\n\n", " ", "3", "。", "”", "Mr.", "x" * 300, " y" * 150])),
    st.data(),
)
def test_a_text_is_cut_alike_however_it_arrives(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cutter, found, at = SentenceCutter(), [], 0
    while at < len(text):
        size = data.draw(st.integers(1, 200))
        found += cutter.push(text[at : at + size])
        at += size
    left, space = cutter.flush()
    found += left
    assert "".join(found) + space == text
    assert not space.strip()
    assert [sentence.strip() for sentence in found] == [text[start:end] for start, end in sentences(text)]
    assert all(0 < len(sentence.strip()) <= 480 for sentence in found)


def test_words_that_repeat_are_compared_once_for_each_alignment() -> None:
    """They would hold up every other answer for seconds."""

    class Counted(list[int]):
        looks = 0

        def __getitem__(self, at: Any) -> Any:
            self.looks += 1
            return super().__getitem__(at)

    index = plain("foo " * 2_000)
    words = index._read("foo " * 100 + "bar")
    index._ids = counted = Counted(index._ids.tolist())  # type: ignore[assignment]
    assert max(end - start for start, end, _ in index._common(words)) == 100
    assert counted.looks < 3 * 100 * 400  # alignments of 100 words with 256 positions: fewer than 400


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("One. Two! Three", ["One.", "Two!", "Three"]),
        ("Dr. No saw J. Bond at 3.5 km, i.e. far off. Then", ["Dr. No saw J. Bond at 3.5 km, i.e. far off.", "Then"]),
        ("He said “No.” Then left.", ["He said “No.”", "Then left."]),
        (
            "A line\nthat goes on.\n\nnew one\n1. First\n2. Next",
            ["A line\nthat goes on.", "new one", "1. First", "2. Next"],
        ),
        ("東京。京都！", ["東京。", "京都！"]),
        ("See a.b. and c etc. and so on.", ["See a.b. and c etc. and so on."]),
    ],
)
def test_where_sentences_end(text: str, cut: list[str]) -> None:
    assert [text[start:end] for start, end in sentences(text)] == cut
