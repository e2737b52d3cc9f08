"""Stop strings: the same answer however the text arrives, and nothing of a stop string ever shown."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from senryu.service.stops import StopWatcher

letters = st.text("ab c", min_size=1, max_size=4)


def reference(stops: list[str], text: str) -> tuple[str, str | None]:
    """Character by character: the first character that completes a stop string ends it; the longest wins."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end - len(stop)], stop
    return text, None


def watch(stops: list[str], pieces: list[str]) -> tuple[list[str], str | None]:
    watcher, shown = StopWatcher(stops), []
    for piece in pieces:
        text, stop = watcher.push(piece)
        shown.append(text)
        if stop is not None:
            return shown, stop
    return [*shown, watcher.flush()], None


@given(st.lists(letters, max_size=4), st.lists(st.text("ab c", max_size=5), max_size=12))
def test_pieces_do_not_matter(stops: list[str], pieces: list[str]) -> None:
    shown, stop = watch(stops, pieces)
    assert ("".join(shown), stop) == reference(stops, "".join(pieces))


@given(st.lists(letters, min_size=1, max_size=4), st.text("ab c", max_size=30))
def test_holds_back_no_more_than_needed(stops: list[str], text: str) -> None:
    """What is held is exactly the longest end of the text that begins a stop string."""
    watcher, shown = StopWatcher(stops), ""
    for end, char in enumerate(text, start=1):
        piece, stop = watcher.push(char)
        if stop is not None:
            return
        shown += piece
        longest = max((n for n in range(end + 1) for s in stops if n < len(s) and text[:end].endswith(s[:n])), default=0)
        assert shown == text[: end - longest]


def test_without_stops_everything_passes() -> None:
    assert StopWatcher([]).push("anything") == ("anything", None)


def test_a_long_stop_and_its_beginning() -> None:
    shown, stop = watch(["\n\nHuman:"], ["Hi\n", "\nHu", "m", "an", "\n\nHuman", ": no"])
    assert (shown, stop) == (["Hi", "", "", "", "\n\nHuman", ""], "\n\nHuman:")
