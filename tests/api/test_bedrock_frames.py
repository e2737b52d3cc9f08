"""Event-stream frames: what is written is read again by another decoder, however the stream is cut; damage is noticed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws import Frames
from senryu.api.bedrock.eventstream import event, exception, frame

NAMES = st.text(min_size=1, max_size=40)
HEADERS = st.dictionaries(NAMES, st.text(max_size=200), max_size=4)


def test_one_frame_byte_by_byte() -> None:
    """The numbers were worked out by hand from the format."""
    assert frame({}, b"").hex() == "000000100000000005c248eb7d98c8ff"
    one = frame({"a": "bc"}, b"{}")
    assert one[:8].hex() == "0000001900000007"
    assert one[12:-4] == b"\x01a\x07\x00\x02bc{}"


@given(st.lists(st.tuples(HEADERS, st.binary(max_size=300)), max_size=4), st.data())
def test_frames_survive_any_cuts(frames: list[tuple[dict[str, str], bytes]], data: st.DataObject) -> None:
    stream = b"".join(frame(headers, payload) for headers, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Frames()
    for start, end in zip([0, *cuts], [*cuts, len(stream)]):
        decoder.feed(stream[start:end])
    assert decoder.found == frames
    assert decoder.left == b""


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_both_checksums_cover_every_byte(place: int, flipped: int) -> None:
    whole = bytearray(event("chunk", {"bytes": "aGVsbG8="}))
    whole[place % len(whole)] ^= flipped
    decoder = Frames()
    with pytest.raises(AssertionError):
        decoder.feed(bytes(whole))


def test_events_and_exceptions_say_what_they_are() -> None:
    decoder = Frames()
    decoder.feed(event("messageStop", {"stopReason": "end_turn"}) + exception("throttlingException", "Overloaded"))
    (headers, payload), (failed, why) = decoder.found
    assert headers == {":event-type": "messageStop", ":content-type": "application/json", ":message-type": "event"}
    assert failed == {
        ":exception-type": "throttlingException",
        ":content-type": "application/json",
        ":message-type": "exception",
    }
    assert json.loads(why) == {"message": "Overloaded"}
    value = json.loads(payload)
    assert set(value) == {"stopReason", "p"}


def test_padding_varies_the_size() -> None:
    assert len({len(event("chunk", {"bytes": ""})) for _ in range(200)}) > 20
