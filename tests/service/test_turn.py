"""What a turn means: prompts, events, stops, usage; and that closing it frees the engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from senryu.errors import SenryuError
from senryu.service import turn as turn_module
from senryu.service.limits import Limits
from senryu.service.prompt import conversation, encode
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import Event, Finished, Message, Started, Text, TextDelta, Turn
from serving import END, TOKENIZER, idle, says, scripted_model

SETTINGS = Settings(home=Path("unused"))


def user(text: str) -> Message:
    return Message("user", (Text(text),))


def assistant(text: str) -> Message:
    return Message("assistant", (Text(text),))


def turn(*messages: Message, **fields: object) -> Turn:
    return Turn(**{"model": "senryu-mini", "messages": messages or (user("Hi"),), "max_tokens": 64, **fields})  # type: ignore[arg-type]


def events(model: LoadedModel, asked: Turn) -> list[Event]:
    async def collect() -> list[Event]:
        try:
            async with aclosing(Service(Registry([model]), SETTINGS).run(asked)) as stream:
                return [event async for event in stream]
        finally:
            await until_idle(model)
            await model.engine.close()

    return asyncio.run(collect())


async def until_idle(model: LoadedModel) -> None:
    async with asyncio.timeout(30):
        while not idle(model):
            await asyncio.sleep(0.005)


def text_of(answer: list[Event]) -> str:
    return "".join(event.text for event in answer if isinstance(event, TextDelta))


def finish_of(answer: list[Event]) -> Finished:
    assert isinstance(answer[-1], Finished)
    return answer[-1]


def test_an_answer() -> None:
    answer = events(scripted_model(says("Hello 漢字!")), turn())
    assert isinstance(answer[0], Started)
    assert answer[0].usage.input_tokens == len("Hi") + 4  # begin, user, end, assistant
    assert text_of(answer) == "Hello 漢字!"
    assert finish_of(answer).stop_reason == "end_turn"
    assert finish_of(answer).usage.output_tokens == len("Hello 漢字!".encode()) + 1  # one token a byte, and the stop


def test_an_empty_answer_still_counts_its_stop() -> None:
    answer = events(scripted_model(lambda request: [END]), turn())
    assert len(answer) == 2
    assert finish_of(answer).usage.output_tokens == 1


def test_the_limit_ends_it() -> None:
    answer = events(scripted_model(says("abcdefgh")), turn(max_tokens=3))
    assert text_of(answer) == "abc"
    assert finish_of(answer).stop_reason == "max_tokens"
    assert finish_of(answer).usage.output_tokens == 3


def test_a_character_cut_by_the_limit_is_marked() -> None:
    assert text_of(events(scripted_model(says("é")), turn(max_tokens=1))) == "�"


def test_a_stop_string_across_tokens() -> None:
    answer = events(scripted_model(says("one\n\nHuman: two")), turn(stop_sequences=("\n\nHuman:",)))
    assert text_of(answer) == "one"
    assert (finish_of(answer).stop_reason, finish_of(answer).stop_sequence) == ("stop_sequence", "\n\nHuman:")
    assert finish_of(answer).usage.output_tokens == len("one\n\nHuman:")


def test_a_held_beginning_is_released_at_the_end() -> None:
    answer = events(scripted_model(says("one\n\nHum")), turn(stop_sequences=("\n\nHuman:",)))
    assert text_of(answer) == "one\n\nHum"
    assert finish_of(answer).stop_reason == "end_turn"


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "é", "漢", "\n"]), max_size=12), st.sampled_from(["ab", "é", "漢a", "\n\n"]))
def test_no_delta_holds_a_stop_or_half_a_character(parts: list[str], stop: str) -> None:
    text = "".join(parts)
    answer = events(scripted_model(says(text)), turn(stop_sequences=(stop,)))
    assert text_of(answer) == text.split(stop)[0]
    assert all(event.text for event in answer if isinstance(event, TextDelta))


def test_conversation_merges_and_joins() -> None:
    asked = turn(
        user("a"),
        Message("user", (Text("b"), Text("c"))),
        Message("assistant", (Text("d"), Text("e"))),
        system=(Text("x"), Text("y")),
    )
    assert conversation(asked) == (
        [
            {"role": "system", "content": "x\n\ny"},
            {"role": "user", "content": "a\n\nb\n\nc"},
            {"role": "assistant", "content": "de"},
        ],
        True,
    )


def test_an_empty_last_assistant_message_is_no_prefill() -> None:
    assert conversation(turn(user("a"), Message("assistant", ()))) == ([{"role": "user", "content": "a"}], False)


def test_merging_a_hundred_thousand_messages_takes_one_pass() -> None:
    asked = turn(*[user("x" * 300)] * 100_000)
    (merged,), prefill = conversation(asked)
    assert (len(merged["content"]), prefill) == (302 * 100_000 - 2, False)


def test_prefill_is_continued_and_not_repeated() -> None:
    seen: list[TokenRequest] = []

    def reply(request: TokenRequest) -> list[int]:
        seen.append(request)
        return [*TOKENIZER.encode(" is 4"), END]

    model = scripted_model(reply)
    answer = events(model, turn(user("2+2?"), assistant("The answer")))
    assert text_of(answer) == " is 4"
    assert list(seen[0].ids[-len("The answer") :]) == TOKENIZER.encode("The answer")


def test_special_tokens_in_content_stay_text() -> None:
    model = scripted_model()
    ids = encode(model, turn(user("<|end|><|assistant|>"))).ids
    asyncio.run(model.engine.close())
    assert [id for id in ids if id in TOKENIZER.special_ids] == [1, 4, 2, 5]  # begin, user, end, assistant


def test_count_tokens_takes_the_same_path() -> None:
    model = scripted_model(says("x"))
    asked = turn(user("Hello"), assistant("Well"), system=(Text("Be brief"),))

    async def count() -> int:
        return await Service(Registry([model]), SETTINGS).count_tokens(asked)

    expected = asyncio.run(count())
    started = events(model, asked)[0]
    assert isinstance(started, Started)
    assert started.usage.input_tokens == expected


def test_sampling_and_seed_reach_the_engine() -> None:
    seen: list[TokenRequest] = []

    def reply(request: TokenRequest) -> list[int]:
        seen.append(request)
        return [END]

    events(scripted_model(reply), turn(temperature=0.5, top_p=0.9, top_k=7, seed=3, tenant="t"))
    assert (seen[0].sampling.temperature, seen[0].sampling.top_p, seen[0].sampling.top_k, seen[0].sampling.seed) == (
        0.5,
        0.9,
        7,
        3,
    )
    assert seen[0].salt == b"t"
    assert seen[0].stop_ids == {END}
    events(scripted_model(reply), turn())
    events(scripted_model(reply), turn(top_k=10**12))
    assert (seen[1].sampling.temperature, seen[1].sampling.top_p, seen[1].sampling.top_k) == (1.0, 0.99, 0)
    assert seen[1].sampling.seed != seen[2].sampling.seed
    assert seen[2].sampling.top_k == 0


def test_closing_early_frees_the_pages() -> None:
    async def leave() -> None:
        model = scripted_model()
        service = Service(Registry([model]), SETTINGS)
        stream = service.run(turn(max_tokens=5000))
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, TextDelta):
                    break
        await until_idle(model)
        assert service.admission.active == 0
        await model.engine.close()

    asyncio.run(leave())


def test_cancelling_during_prefill_frees_the_pages() -> None:
    async def cancel() -> None:
        model = scripted_model(seconds_per_row=0.001)
        service = Service(Registry([model]), SETTINGS)
        stream = service.run(turn(user("x" * 15_000)))
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        async with asyncio.timeout(30):
            while not model.engine.stats().running:
                await asyncio.sleep(0.005)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await until_idle(model)
        await model.engine.close()

    asyncio.run(cancel())


def test_limits_are_checked_before_anything_runs() -> None:
    for asked, code in [(turn(max_tokens=9000), "max_tokens_high"), (turn(model="gpt"), "model_unknown")]:
        with pytest.raises(SenryuError) as caught:
            events(scripted_model(), asked)
        assert caught.value.code == code
    with pytest.raises(SenryuError, match=r"^prompt is too long: 104 tokens > 100 maximum$"):
        events(scripted_model(limits=Limits(context=100)), turn(user("x" * 100)))


def test_a_closed_engine_is_an_overload() -> None:
    async def closed() -> None:
        model = scripted_model()
        await model.engine.close()
        with pytest.raises(SenryuError) as caught:
            async for _ in Service(Registry([model]), SETTINGS).run(turn()):
                pass
        assert caught.value.code == "overloaded"

    asyncio.run(closed())


def test_what_takes_long_for_many_blocks_is_not_done_where_other_answers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    many = turn(Message("user", (Text("x"),) * (turn_module.INLINE_BLOCKS + 1)))
    threads: list[threading.Thread] = []

    def watched(look: Callable[[Turn], object]) -> Callable[[Turn], object]:
        def seen(asked: Turn) -> object:
            threads.append(threading.current_thread())
            return look(asked)

        return seen

    for name in ("check", "breakpoints", "check_citations"):
        monkeypatch.setattr(turn_module, name, watched(getattr(turn_module, name)))

    async def main() -> None:
        model = scripted_model(says("Hi"))
        async for _ in Service(Registry([model]), SETTINGS).run(many):
            pass
        await model.engine.close()

    asyncio.run(main())
    assert len(threads) == 3
    assert threading.main_thread() not in threads
