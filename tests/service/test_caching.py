"""What is billed as written and read: the rules of positions alone, and through the service with an engine that reuses K/V."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.service.caching import Cache
from senryu.service.positions import Position
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import CacheControl, CacheMiss, Finished, Message, Started, Text, TextDelta, Tool, ToolChoice, Turn, Usage
from serving import END, TOKENIZER, idle, says, scripted_model

FIVE, HOUR = CacheControl(300), CacheControl(3600)
Ask = tuple[
    list[tuple[int, int | None]], int, float
]  # blocks (content, ttl), tokens that the engine has, seconds since the last


def positions(blocks: Sequence[tuple[int, int | None]], size: int = 700) -> list[Position]:
    """Blocks of `size` tokens."""
    state, found = hashlib.sha256(), []
    for content, ttl in blocks:
        state.update(f"{content};".encode())
        found.append(Position("messages", state.digest(), (len(found) + 1) * size, ttl))
    return found


class Twin:
    """The rules once more, token by token and block by block."""

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[int, float]] = {}  # ttl, until when

    def usage(self, blocks: list[Position], total: int, cached: int, now: float) -> Usage:
        marks = [i for i, block in enumerate(blocks) if block.ttl and block.end >= 2048]
        live = {digest: entry for digest, entry in self.entries.items() if now < entry[1]}
        hit = None
        for mark in reversed(marks):
            at, looked = mark, 0
            while hit is None and at >= 0 and looked < 20:
                hit = at if blocks[at].digest in live else None
                at, looked = at - 1, looked + 1
        bill = {"read": 0, 300: 0, 3600: 0, "input": 0}
        for token in range(total):
            later = [blocks[mark].ttl for mark in marks if blocks[mark].end > token]
            if hit is not None and token < blocks[hit].end and token < cached:
                bill["read"] += 1
            elif not later:
                bill["input"] += 1
            else:
                bill[3600 if 3600 in later else 300] += 1
        for at in {*marks, *([] if hit is None else [hit])}:
            own, until = live.get(blocks[at].digest, (0, 0.0))
            free = own and blocks[at].end <= bill["read"]
            ttl = own if free else max(own, blocks[at].ttl or 0)
            self.entries[blocks[at].digest] = ttl, max(until, now + ttl)
        return Usage(bill["input"], bill[300], bill[3600], bill["read"], 0, cached)


BLOCKS = st.integers(0, 3).flatmap(
    lambda hours: st.lists(
        st.tuples(st.sampled_from([0] * 30 + [1]), st.integers(0, 9).map(lambda n: n < 2)), min_size=1, max_size=40
    ).map(lambda blocks: marked_by(blocks, hours))
)


def marked_by(blocks: list[tuple[int, bool]], hours: int) -> list[tuple[int, int | None]]:
    """Of the blocks that want one, the last four get a breakpoint, the first `hours` of these for an hour."""
    wanted = [i for i, (_, want) in enumerate(blocks) if want][-4:]
    return [
        (content, (3600 if wanted.index(i) < hours else 300) if i in wanted else None) for i, (content, _) in enumerate(blocks)
    ]


@settings(max_examples=150, deadline=None)
@given(asks=st.lists(st.tuples(BLOCKS, st.integers(0, 3500), st.sampled_from([0.0, 100.0, 299.0, 300.0, 3599.0])), max_size=8))
def test_usage_is_that_of_a_literal_twin(asks: list[Ask]) -> None:
    cache, twin, now = Cache(), Twin(), 0.0
    for blocks, cached, later in asks:
        now += later
        prompt = positions(blocks, 150)
        total = 150 * len(blocks) + 5
        usage = cache.settle("t", "m", prompt, total, min(cached, total), now)
        assert usage == twin.usage(prompt, total, min(cached, total), now)
        assert usage.input_tokens + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read == total
        assert usage.cache_read <= cached


@pytest.mark.parametrize(("blocks", "hit"), [(19, True), (20, False)])
def test_a_breakpoint_sees_twenty_positions_itself_counted(blocks: int, hit: bool) -> None:
    cache = Cache()
    cache.settle("t", "m", positions([(7, 300)], 3000), 3000, 0, 0.0)
    grown = [(7, None), *[(i, None) for i in range(blocks - 1)], (99, 300)]
    usage = cache.settle("t", "m", positions(grown, 3000), 3000 * len(grown), 3000, 1.0)
    assert (usage.cache_read, usage.cache_write_5m) == ((3000, 3000 * blocks) if hit else (0, 3000 * (blocks + 1)))


def test_the_search_goes_on_from_the_breakpoint_before() -> None:
    cache = Cache()
    cache.settle("t", "m", positions([(7, 300)], 3000), 3000, 0, 0.0)
    grown = [(7, None), *[(i, 300 if i == 10 else None) for i in range(40)], (99, 300)]
    assert cache.settle("t", "m", positions(grown, 3000), 3000 * 42, 3000 * 42, 1.0).cache_read == 3000


def test_what_was_never_written_is_not_found() -> None:
    cache = Cache()
    cache.settle("t", "m", positions([(0, None), (1, None), (2, 300)]), 2100, 0, 0.0)
    assert cache.settle("t", "m", positions([(0, None), (1, None), (9, 300)]), 2100, 1400, 1.0).cache_read == 0


def test_an_hour_before_five_minutes_is_split() -> None:
    cache = Cache()
    blocks = positions([(0, 3600), (1, 3600), (2, 300), (3, None)], 3000)
    assert cache.settle("t", "m", blocks, 12_010, 0, 0.0) == Usage(3010, 3000, 6000, 0)
    assert cache.settle("t", "m", blocks, 12_010, 12_000, 1000.0) == Usage(3010, 3000, 0, 6000, 0, 12_000)  # 300 s are over
    assert cache.settle("t", "m", blocks, 12_010, 4000, 1001.0) == Usage(3010, 3000, 2000, 4000, 0, 4000)  # lost by the engine


def test_a_read_in_five_minutes_does_not_buy_an_hour() -> None:
    cache = Cache()
    cache.settle("t", "m", positions([(0, 300)], 3000), 3000, 0, 0.0)
    assert cache.settle("t", "m", positions([(0, 3600)], 3000), 3000, 3000, 10.0).cache_read == 3000
    assert cache.settle("t", "m", positions([(0, 3600)], 3000), 3000, 3000, 310.0) == Usage(0, 0, 3000, 0, 0, 3000)
    assert cache.settle("t", "m", positions([(0, 300)], 3000), 3000, 3000, 3909.0).cache_read == 3000


def test_entries_are_bounded_and_those_long_unused_go() -> None:
    cache = Cache(most=2)
    for content in (0, 1, 0, 2):
        cache.settle("t", "m", positions([(content, 300)], 3000), 3000, 3000, 0.0)
    reads = [cache.settle("t", "m", positions([(content, 300)], 3000), 3000, 3000, 0.0).cache_read for content in (0, 2, 1)]
    assert reads == [3000, 3000, 0]


class Asking:
    """A service whose clock stands still, and what its turns give."""

    def __init__(self, model: LoadedModel) -> None:
        self.model, self.now = model, 1000.0
        self.service = Service(Registry([model]), Settings(home=Path("unused")), clock=lambda: self.now)

    async def __call__(self, turn: Turn) -> tuple[Started, str, Finished]:
        async with aclosing(self.service.run(turn)) as stream:
            events = [event async for event in stream]
        started, finished = events[0], events[-1]
        assert isinstance(started, Started)
        assert isinstance(finished, Finished)
        before, after = (replace(usage, output_tokens=0, reused_tokens=0) for usage in (started.usage, finished.usage))
        assert before == after, "usage is right from the start"
        total = before.input_tokens + before.cache_write_5m + before.cache_write_1h + before.cache_read
        assert total == await self.service.count_tokens(turn)
        assert before.cache_read <= finished.usage.reused_tokens
        while not idle(self.model):
            await asyncio.sleep(0.001)
        return started, "".join(event.text for event in events if isinstance(event, TextDelta)), finished

    async def usage(self, turn: Turn) -> tuple[int, int, int, int]:
        """Read, written for 5 minutes, written for an hour, plain."""
        usage = (await self(turn))[0].usage
        return usage.cache_read, usage.cache_write_5m, usage.cache_write_1h, usage.input_tokens


@asynccontextmanager
async def asking(*arguments: Any, **options: Any) -> AsyncIterator[Asking]:
    made = Asking(scripted_model(*arguments, check=True, **options))
    try:
        yield made
    finally:
        await made.model.engine.close()


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def test() -> None:
        asyncio.run(asyncio.wait_for(main(), 120))

    test.__name__ = main.__name__
    return test


def user(*texts: str | Text) -> Message:
    return Message("user", tuple(Text(text) if isinstance(text, str) else text for text in texts))


def turn(*messages: Message, **fields: Any) -> Turn:
    return Turn(**{"model": "senryu-mini", "messages": messages, "max_tokens": 8, "temperature": 0.0, **fields})


HEAD = 2  # tokens before the first user's text: begin, user


@run
async def test_2047_tokens_are_not_cached_and_2048_are() -> None:
    async with asking(says("ok")) as ask:
        for tokens, expected in ((2047, [(0, 0, 0, 2049), (0, 0, 0, 2049)]), (2048, [(0, 2048, 0, 2), (2048, 0, 0, 2)])):
            asked = turn(user(Text("x" * (tokens - HEAD), FIVE)))
            assert [await ask.usage(asked) for _ in range(2)] == expected


@run
async def test_the_answer_is_the_same_with_breakpoints_and_without() -> None:
    async with asking() as ask:
        texts = [f"{i} " * 400 for i in range(5)]
        plain = turn(user(*texts), Message("assistant", (Text("So"),)), max_tokens=40)
        marked = turn(
            user(*(Text(text, FIVE) if i in (1, 4) else text for i, text in enumerate(texts))), plain.messages[1], max_tokens=40
        )
        answers = [(await ask(asked))[1] for asked in (plain, marked, marked, replace(plain, cache=FIVE))]
        assert len(answers[0]) > 10
        assert len(set(answers)) == 1


@run
async def test_lifetime_counts_from_the_start_of_the_request() -> None:
    async with asking(None, max_sequences=1) as ask:
        asked = turn(user(Text("x" * 3000, FIVE)))
        async with aclosing(ask.service.run(turn(user("hold the one place"), max_tokens=5000))) as holder:
            await anext(holder)
            await anext(holder)
            waiting = asyncio.ensure_future(ask(asked))
            while not ask.model.engine.stats().queued:
                await asyncio.sleep(0.001)
            ask.now += 299
        assert (await waiting)[0].usage.cache_write_5m == 3002  # asked at 0, answered at 299
        ask.now += 1
        assert await ask.usage(asked) == (0, 3002, 0, 2)


@run
async def test_a_hit_refreshes() -> None:
    async with asking(says("ok")) as ask:
        asked = turn(user(Text("x" * 3000, FIVE)))
        assert (await ask.usage(asked))[1] == 3002
        for _ in range(3):
            ask.now += 299
            assert await ask.usage(asked) == (3002, 0, 0, 2)
        ask.now += 300
        assert await ask.usage(asked) == (0, 3002, 0, 2)


@run
async def test_tenants_and_models_share_nothing() -> None:
    async with asking(says("ok")) as ask:
        asked = turn(user(Text("x" * 3000, FIVE)), tenant="a")
        assert [(await ask.usage(asked))[0] for _ in range(2)] == [0, 3002]
        started, _, finished = await ask(replace(asked, tenant="b"))
        assert (started.usage.cache_read, finished.usage.reused_tokens) == (0, 0)
        assert (await ask.usage(replace(asked, model="claude-3-5-haiku-20241022")))[0] == 0
        assert (await ask.usage(replace(asked, model="senryu-mini")))[0] == 3002


@run
async def test_what_was_evicted_is_honestly_written_again() -> None:
    async with asking(says("ok"), pages=64) as ask:
        asked = turn(user(Text("x" * 2500, HOUR), "tail"))
        assert [await ask.usage(asked) for _ in range(2)] == [(0, 0, 2502, 8), (2502, 0, 0, 8)]
        await ask(turn(user("y" * 3900)))
        read, _, written, rest = await ask.usage(asked)
        assert (read + written, rest) == (2502, 8)
        assert read < 2502
        assert await ask.usage(asked) == (2502, 0, 0, 8)


def test_what_comes_back_from_disk_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(says("ok"), pages=64, spill_directory=tmp_path, spill_bytes=1 << 20) as ask:
            asked = turn(user(Text("x" * 2500, HOUR), "tail"))
            assert await ask.usage(asked) == (0, 0, 2502, 8)
            await ask(turn(user("y" * 3900)))
            assert await ask.usage(asked) == (2496, 0, 6, 8)  # 39 full pages; the head of another is not kept

    asyncio.run(asyncio.wait_for(main(), 120))


@run
async def test_a_prefill_that_is_marked_is_read_but_for_the_token_to_answer_from() -> None:
    async with asking(says("ok")) as ask:
        asked = turn(user("x" * 3000), Message("assistant", (Text("So"),)), cache=FIVE)
        assert [await ask.usage(asked) for _ in range(2)] == [(0, 3006, 0, 0), (3005, 1, 0, 0)]


@run
async def test_a_twin_on_its_way_is_read_from() -> None:
    async with asking(says("ok"), max_rows=256, step_seconds=0.001) as ask:
        asked = turn(user(Text("x" * 4000, FIVE), "and"))
        usages = await asyncio.gather(*(ask.usage(asked) for _ in range(3)))
        assert sorted(usage[0] > 3900 for usage in usages) == [False, True, True]


TOOLS = (Tool("look", {"type": "object"}, "Looks. " * 400), Tool("jump", {"type": "object"}, cache=FIVE))


@run
async def test_what_invalidates_what() -> None:
    async with asking(says("ok")) as ask:
        asked = turn(user(Text("x" * 3000, FIVE)), system=(Text("s" * 3000, FIVE),), tools=TOOLS)
        ends = [position.end for position in (await ask.service.prompts.encode(ask.model, asked, {})).positions]
        await ask(asked)
        assert (await ask.usage(asked))[0] == ends[-1]
        for changed, kept in [
            (replace(asked, tool_choice=ToolChoice("any")), ends[2]),
            (replace(asked, tool_choice=ToolChoice(parallel=False)), ends[2]),
            (replace(asked, system=(Text("t" * 3000, FIVE),)), ends[1] if ends[1] >= 2048 else 0),
            (replace(asked, tools=TOOLS[1:]), 0),
            (replace(asked, output_schema={"type": "object", "additionalProperties": False}), 0),
        ]:
            assert (await ask.usage(changed))[0] == kept
            assert (await ask.usage(changed))[0] > kept


@run
async def test_automatic_caching_takes_the_last_block() -> None:
    async with asking(says("ok")) as ask:
        first = turn(user("x" * 3000), cache=FIVE)
        assert [await ask.usage(first) for _ in range(2)] == [(0, 3002, 0, 2), (3002, 0, 0, 2)]
        second = turn(first.messages[0], Message("assistant", (Text("ok"),)), user("more"), cache=FIVE)
        read, written, _, rest = await ask.usage(second)
        assert (read, rest) == (3002, 2)
        assert written == len("ok") + len("more") + 4  # end, assistant, end, user
        same = turn(user(Text("x" * 3000, FIVE)), cache=FIVE)
        assert (await ask.usage(same))[0] == 3002
        for asked, code in [
            (turn(user(Text("x", HOUR)), cache=FIVE), "automatic_ttl"),
            (turn(user(*[Text("x", FIVE)] * 4, "y"), cache=FIVE), "many_breakpoints"),
            (turn(user(Text("x", FIVE), "y"), cache=HOUR), "automatic_order"),
        ]:
            with pytest.raises(SenryuError) as caught:
                await ask(asked)
            assert (caught.value.code, caught.value.status) == (code, 400)
        await ask(turn(user(*[Text("x", FIVE)] * 4), cache=FIVE))  # the last one has it already
        emptied = turn(user("x" * 3000), Message("assistant", ()), cache=FIVE)
        assert (await ask.usage(emptied))[0] == 3002


@run
async def test_prewarming() -> None:
    async with asking(lambda request: [*TOKENIZER.encode("never seen"), END]) as ask:
        asked = turn(user(Text("x" * 3000, FIVE), "?"), max_tokens=0)
        started, text, finished = await ask(asked)
        assert (started.usage.cache_write_5m, started.usage.output_tokens) == (3002, 0)
        assert (text, finished.stop_reason, finished.stop_sequence, finished.usage.output_tokens) == ("", "max_tokens", None, 0)
        started, text, _ = await ask(replace(asked, max_tokens=20))
        assert (started.usage.cache_read, text) == (3002, "never seen")
        for refused, what in [
            (replace(asked, output_schema={"type": "object"}), "output_config.format"),
            (replace(asked, tools=TOOLS, tool_choice=ToolChoice("any")), "tool_choice 'any'"),
            (replace(asked, tools=TOOLS, tool_choice=ToolChoice("tool", "look")), "tool_choice 'tool'"),
        ]:
            with pytest.raises(SenryuError, match=what):
                await ask(refused)


@run
async def test_a_client_s_nonce_does_not_change_the_prompt() -> None:
    async with asking(says("ok")) as ask:

        def asked(nonce: str, place: int) -> Turn:
            header = Text(f"x-anthropic-billing-header: cc_version=2.1.37.fd4; cc_entrypoint=cli; cch={nonce};")
            blocks = [Text("s" * 3000, FIVE)]
            blocks.insert(place, header)
            return turn(user("hi"), system=tuple(blocks))

        assert (await ask.usage(asked("a1b2c", 0)))[0] == 0
        assert (await ask.usage(asked("d3e4f99", 0)))[0] > 3000
        assert (await ask.usage(asked("a1b2c", 1)))[0] == 0
        started = (await ask(asked("77777", 1)))[0]
        assert started.usage.cache_read == 3002, "elsewhere it is text"


@run
async def test_why_the_cache_was_missed() -> None:
    async with asking(says("ok")) as ask:
        base = turn(user(Text("x" * 3000, FIVE)), system=(Text("s" * 3000, FIVE),), tools=TOOLS, diagnose="", tenant="a")
        started = (await ask(base))[0]
        assert started.miss is None
        end = started.usage.cache_write_5m

        async def miss(**fields: Any) -> CacheMiss | None:
            return (await ask(replace(base, diagnose=started.id, **fields)))[0].miss

        assert await miss() is None
        more = (*base.messages, Message("assistant", (Text("ok"),)), user(Text("go on", FIVE)))
        assert await miss(messages=more) is None
        assert await miss(model="claude-3-5-haiku-20241022") == CacheMiss("model_changed", end)
        assert await miss(tools=TOOLS[1:]) == CacheMiss("tools_changed", end)
        for changed, reason in [
            ({"system": (Text("t" * 3000, FIVE),)}, "system_changed"),
            ({"messages": (user(Text("y" * 3000, FIVE)),)}, "messages_changed"),
            ({"tool_choice": ToolChoice("any")}, "messages_changed"),
        ]:
            found = await miss(**changed)
            assert found is not None
            assert found.reason == reason
            assert found.missed_tokens is not None
            assert 0 < found.missed_tokens < end or reason == "system_changed"
        assert await miss(tenant="b") == CacheMiss("previous_message_not_found")
        assert (await ask(replace(base, diagnose="msg_01never")))[0].miss == CacheMiss("previous_message_not_found")
        assert await miss(messages=(user("short"),), system=(), tools=()) == CacheMiss("unavailable")
