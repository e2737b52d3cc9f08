"""Message threads: what is continued is the whole conversation, once, for a while, and only by its own tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from senryu.errors import SenryuError
from senryu.ledger.rows import UsageRow
from senryu.service.prompt import encode
from senryu.service.registry import LoadedModel, Registry
from senryu.service.threads import LIFETIME, Threads
from senryu.service.turn import Service
from senryu.types import (
    BlockStopped,
    CacheControl,
    Document,
    Event,
    Finished,
    Message,
    Pdf,
    Started,
    Text,
    Thread,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
    Usage,
)
from serving import END, SPECIALS, TOKENIZER, idle, says, scripted_model

SETTINGS = Settings(home=Path("unused"))
TOOL = Tool("clock", {"type": "object", "properties": {}})
CALL = '{"name": "clock", "arguments": {}}'
CREATE = Thread()


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def user(*texts: str) -> Message:
    return Message("user", tuple(map(Text, texts)))


def turn(*messages: Message, **fields: Any) -> Turn:
    return Turn(**{"model": "senryu-mini", "messages": messages, "max_tokens": 64, "thread": CREATE, **fields})


def going_on(id: str, *messages: Message, **fields: Any) -> Turn:
    return turn(*messages, **({"thread": Thread(id)} | fields))


class Answered:
    """One answer, from its events."""

    def __init__(self, events: list[Event]) -> None:
        self.id = next(event.id for event in events if isinstance(event, Started))
        self.blocks = tuple(event.block for event in events if isinstance(event, BlockStopped))
        self.usage = next(event.usage for event in events if isinstance(event, Finished))

    @property
    def message(self) -> Message:
        return Message("assistant", self.blocks)


async def ask(service: Service, asked: Turn) -> Answered:
    async with aclosing(service.run(asked)) as stream:
        return Answered([event async for event in stream])


async def refused(service: Service, asked: Turn) -> str:
    with pytest.raises(SenryuError) as caught:
        await ask(service, asked)
    return caught.value.code


def play(model: LoadedModel, scene: Callable[[Service, Time], Coroutine[Any, Any, None]], **options: Any) -> None:
    """Runs `scene` with a service whose clock it sets; whatever happens in it, the engine is idle in the end."""

    async def run() -> None:
        time = Time()
        service = Service(Registry([model]), SETTINGS, clock=time, **options)
        try:
            await scene(service, time)
        finally:
            async with asyncio.timeout(30):
                while not idle(model):
                    await asyncio.sleep(0.005)
            await model.engine.close()

    asyncio.run(run())


def recorder(*texts: str) -> tuple[LoadedModel, list[TokenRequest]]:
    """A model that says the texts one after the other, the last one for ever, and the requests that it gets. CALL is a call."""
    asked: list[TokenRequest] = []

    def reply(request: TokenRequest) -> list[int]:
        text = texts[min(len(asked), len(texts) - 1)]
        asked.append(request)
        return [*([SPECIALS.index("<|call|>")] if text == CALL else []), *TOKENIZER.encode(text), END]

    return scripted_model(reply), asked


def ids_of(model: LoadedModel, whole: Turn) -> tuple[int, ...]:
    return tuple(encode(model, whole).ids)


def test_a_continued_turn_is_that_of_the_whole_conversation() -> None:
    model, asked = recorder(CALL, "noon")
    common = {"system": (Text("Be brief."),), "tools": (TOOL,)}
    rows: list[UsageRow] = []

    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("When?"), **common))
        call = first.blocks[0]
        assert isinstance(call, ToolUse)
        result = Message("user", (ToolResult(call.id, (Text("12:00"),)),))
        second = await ask(service, going_on(first.id, result))
        whole = turn(user("When?"), first.message, result, **common, thread=None)
        assert asked[1].ids == ids_of(model, whole)
        await ask(service, going_on(second.id, user("Thanks")))
        last = replace(whole, messages=(*whole.messages, second.message, user("Thanks")))
        assert asked[2].ids == ids_of(model, last)
        assert [row.tools_offered for row in rows] == [1, 1, 1]

    play(model, scene, keep=rows.append)


def test_an_answer_is_continued_once() -> None:
    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi")))
        second = await ask(service, going_on(first.id, user("more")))
        assert await refused(service, going_on(first.id, user("more"))) == "thread_continued"
        time.now += LIFETIME - 1
        assert await refused(service, going_on(first.id, user("more"))) == "thread_continued"
        await ask(service, going_on(second.id, user("more")))
        time.now += 1
        assert await refused(service, going_on(first.id, user("more"))) == "thread_not_found"

    play(scripted_model(says("ok")), scene)


def test_nobody_else_s_and_no_unknown_answer_is_continued() -> None:
    async def scene(service: Service, time: Time) -> None:
        plain = await ask(service, turn(user("Hi"), thread=None))
        assert await refused(service, going_on(plain.id, user("more"))) == "thread_not_found"
        assert await refused(service, going_on("msg_nobody", user("more"))) == "thread_not_found"
        first = await ask(service, turn(user("Hi"), tenant="a"))
        assert await refused(service, going_on(first.id, user("more"), tenant="b")) == "thread_not_found"
        await ask(service, going_on(first.id, user("more"), tenant="a"))

    play(scripted_model(says("ok")), scene)


def test_each_answer_starts_the_five_minutes_again() -> None:
    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi")))
        time.now += LIFETIME - 1
        second = await ask(service, going_on(first.id, user("more")))
        time.now += LIFETIME - 1
        third = await ask(service, going_on(second.id, user("more")))
        time.now += LIFETIME
        assert await refused(service, going_on(third.id, user("more"))) == "thread_not_found"

    play(scripted_model(says("ok")), scene)


def test_while_a_turn_runs_the_answer_before_is_in_flight_and_an_abort_frees_it() -> None:
    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi"), max_tokens=4))
        running = service.run(going_on(first.id, user("long"), max_tokens=8_000))
        started = await anext(running)
        assert isinstance(started, Started)
        assert await refused(service, going_on(first.id, user("more"))) == "thread_in_flight"
        assert await refused(service, going_on(started.id, user("more"))) == "thread_not_found"
        time.now += 10
        await running.aclose()
        assert await refused(service, going_on(started.id, user("more"))) == "thread_not_found"
        younger = await ask(service, turn(user("Hi"), max_tokens=4))
        time.now += LIFETIME - 10
        assert await refused(service, going_on(first.id, user("again"))) == "thread_not_found"  # its time did not start again
        await ask(service, going_on(younger.id, user("again"), max_tokens=4))

    play(scripted_model(), scene)


def test_a_refused_or_aborted_turn_may_be_tried_again() -> None:
    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi"), max_tokens=4))
        assert await refused(service, going_on(first.id, user(" "))) == "blank_text"
        assert await refused(service, going_on(first.id)) == "no_messages"
        assert await refused(service, going_on(first.id, user("x"), max_tokens=10**9)) == "max_tokens_high"
        running = service.run(going_on(first.id, user("long"), max_tokens=8_000))
        await anext(running)
        await running.aclose()
        await ask(service, going_on(first.id, user("again"), max_tokens=4))

    play(scripted_model(), scene)


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"system": (Text("Be brief."),)}, "thread_keeps", "system"),
        ({"tools": (TOOL,)}, "thread_keeps", "tools"),
        ({"model": "other"}, "thread_mismatch", "field(s): model."),
        ({"tool_choice": ToolChoice("any")}, "thread_mismatch", "field(s): tool_choice."),
        ({"cache": CacheControl()}, "thread_mismatch", "field(s): cache_control."),
        ({"model": "other", "output_schema": {"type": "object"}}, "thread_mismatch", "field(s): model, output_config."),
    ],
)
def test_what_a_thread_keeps_cannot_be_changed(fields: dict[str, Any], code: str, named: str) -> None:
    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi"), system=(Text("Be brief."),), tools=(TOOL,)))
        with pytest.raises(SenryuError) as caught:
            await ask(service, going_on(first.id, user("more"), **fields))
        assert caught.value.code == code
        assert named in caught.value.message
        same = going_on(first.id, user("more"), temperature=0.5, stop_sequences=("x",), max_tokens=9)
        await ask(service, same)

    play(scripted_model(says("ok")), scene)


def test_a_thread_reads_from_the_cache_what_it_wrote() -> None:
    marker = CacheControl()

    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("a" * 3000), cache=marker))
        assert first.usage.cache_write_5m > 2900
        second = await ask(service, going_on(first.id, user("more"), cache=marker))
        assert second.usage.cache_read == first.usage.cache_write_5m
        full = await ask(service, turn(user("a" * 3000), first.message, user("more"), cache=marker, thread=None))
        assert full.usage.cache_read == second.usage.cache_read + second.usage.cache_write_5m
        assert full.usage.cache_write_5m == 0

    play(scripted_model(says("ok")), scene)


def test_breakpoints_of_earlier_messages_do_not_count_again_those_of_the_system_prompt_do() -> None:
    def marked(text: str) -> Message:
        return Message("user", (Text(text, CacheControl()),))

    async def scene(service: Service, time: Time) -> None:
        last = await ask(service, turn(*[marked("b" * 1100)] * 3, system=(Text("s" * 2100, CacheControl()),)))
        for number in range(3):
            last = await ask(service, going_on(last.id, *[marked(f"{number}" * 1100)] * 3))
        assert await refused(service, going_on(last.id, *[marked("c")] * 4)) == "many_breakpoints"
        plain = await ask(service, going_on(last.id, user("and?")))
        assert 2100 < plain.usage.cache_read < 2200  # by the breakpoint of the system prompt alone

    play(scripted_model(says("ok")), scene)


def test_an_answer_that_says_nothing_leaves_no_message() -> None:
    model, asked = recorder("", " \n", "yes")

    async def scene(service: Service, time: Time) -> None:
        first = await ask(service, turn(user("Hi"), Message("assistant", ())))
        second = await ask(service, going_on(first.id, user("Hello?")))
        await ask(service, going_on(second.id, user("Anyone?")))
        assert asked[2].ids == ids_of(model, turn(user("Hi"), user("Hello?"), user("Anyone?")))

    play(model, scene)


def answer(threads: Threads, asked: Turn, id: str, tokens: int) -> None:
    """As the service does it, without a model."""
    with threads.joined(asked) as thread:
        thread.see(Started(id, "m", Usage()))
        thread.see(BlockStopped(Text("ok")))
        thread.see(Finished("end_turn", usage=Usage(input_tokens=tokens)))


def code_of(threads: Threads, asked: Turn, go: Callable[[Threads, Turn], None] | None = None) -> str | None:
    """Why a turn is refused; None where it is not. go: what is to be done with it; it is aborted otherwise."""
    try:
        if go:
            go(threads, asked)
        else:
            with threads.joined(asked):
                pass
    except SenryuError as error:
        return error.code
    return None


def lost(threads: Threads, id: str) -> bool:
    code = code_of(threads, going_on(id, user("?")))
    assert code in (None, "thread_not_found")
    return code is not None


def test_the_oldest_threads_go_when_there_is_no_room_and_one_without_room_is_not_kept() -> None:
    threads = Threads(Time(), most=1_000_000)
    for id in "abc":
        answer(threads, turn(user("x")), id, 100_000)
    assert [lost(threads, id) for id in "abc"] == [True, False, False]
    answer(threads, turn(user("x")), "large", 250_000)
    assert [lost(threads, id) for id in ("b", "c", "large")] == [False, False, True]
    document = Message("user", (Document(Pdf(b"x" * 1_000_000)),))
    answer(threads, turn(document), "file", 1)
    assert lost(threads, "file")


steps = st.lists(st.tuples(st.sampled_from(["create", "continue", "abort", "wait"]), st.integers(0, 30)), max_size=60)


@given(steps)
def test_an_answer_is_continued_at_most_once_and_never_after_its_time(script: list[tuple[str, int]]) -> None:
    time = Time()
    threads = Threads(time, most=20_000)
    kept: dict[str, float] = {}  # answers that may be there, and when they were kept
    gone: set[str] = set()
    for number, (step, at) in enumerate(script):
        id = f"m{number}"
        if step == "create":
            answer(threads, turn(user("x")), id, at)
            kept[id] = time.now
        elif step == "wait":
            time.now += 20 * at
        elif every := [*kept, *gone]:
            previous = every[at % len(every)]
            go = None if step == "abort" else partial(answer, id=id, tokens=at)
            if code := code_of(threads, going_on(previous, user("?")), go):
                assert code in ("thread_not_found", "thread_continued")
                continue
            assert previous in kept
            assert time.now - kept[previous] < LIFETIME
            if step == "continue":
                gone.add(previous)
                del kept[previous]
                kept[id] = time.now
        waiting = threads._waiting.values()
        assert threads._held == sum(one.size for one in waiting) <= 20_000
        assert not threads._running
