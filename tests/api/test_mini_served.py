"""The bundled model behind a real server and the official SDK: long beside short, the end of the window, hanging up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import replace

import anthropic
import pytest

from senryu import kernels
from senryu.config import load_settings
from senryu.service.registry import LoadedModel, load_model
from serving import idle, serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.available()[0] == "numpy", reason="too long without compiled kernels"),
]
MODEL = "senryu-mini"  # for the original id the SDK warns, and warnings are errors here
WORD = " river"


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Enough K/V for one full window and the streams beside it."""
    return load_model(replace(load_settings({"SENRYU_HOME": str(tmp_path_factory.mktemp("home"))}), kv_cache_gb=1.5), "mini")


@pytest.fixture(scope="module")
def url(mini: LoadedModel) -> Iterator[str]:
    with serving(mini) as base:
        yield base


def sized(client: anthropic.Anthropic, tokens: int) -> str:
    """A prompt that counts exactly `tokens`, template included."""

    def count(text: str) -> int:
        return client.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": text}]).input_tokens

    text = WORD * (tokens // (count(WORD * 1001) - count(WORD * 1000)))
    while (excess := count(text) - tokens) > 0:
        text = text[: -len(WORD) * max(1, excess // 4)]
    while (missing := tokens - count(text)) > 0:
        text += "~" * missing  # a character that never merges with its like
    assert count(text) == tokens
    return text


@pytest.fixture
def sdk(url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=url, api_key="any") as client:
        yield client


def test_sixteen_streams_do_not_wait_for_a_long_prompt(mini: LoadedModel, url: str, sdk: anthropic.Anthropic) -> None:
    long = sized(sdk, 30_000)
    prompts = [long, *(f"Define the noun river, example {i}." for i in range(15))]

    async def ask(client: anthropic.AsyncAnthropic, prompt: str) -> tuple[str, int, float]:
        extra = {"temperature": 0}
        async with client.messages.stream(
            model=MODEL, max_tokens=64, messages=[{"role": "user", "content": prompt}], extra_body=extra,
            extra_headers={"anthropic-version": "2023-06-01"},
        ) as stream:  # fmt: skip
            message = await stream.get_final_message()
        text = "".join(block.text for block in message.content if block.type == "text")
        return text, message.usage.input_tokens, time.monotonic()

    async def all_at_once() -> list[tuple[str, int, float]]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="any", timeout=600) as client:
            together = await asyncio.gather(*(ask(client, prompt) for prompt in prompts))
            alone = [await ask(client, prompt) for prompt in prompts]
        assert [text for text, _, _ in together] == [text for text, _, _ in alone]
        return together

    answers = asyncio.run(all_at_once())
    assert answers[0][1] == 30_000
    assert answers[0][2] > max(end for _, _, end in answers[1:]), "a short answer waited for the long prompt"
    assert idle(mini)


@pytest.mark.parametrize(
    ("tokens", "answer", "refusal"),
    [
        (200_001, 1, "prompt is too long: 200001 tokens > 200000 maximum"),
        (
            199_990,
            11,
            "input length and `max_tokens` exceed context limit: 199990 + 11 > 200000, "
            "decrease input length or `max_tokens` and try again",
        ),
    ],
)
def test_the_window_ends_where_it_says(sdk: anthropic.Anthropic, tokens: int, answer: int, refusal: str) -> None:
    prompt = sized(sdk, tokens)
    with pytest.raises(anthropic.BadRequestError) as error:
        sdk.messages.create(model=MODEL, max_tokens=answer, messages=[{"role": "user", "content": prompt}])
    assert error.value.body["error"]["message"] == refusal  # type: ignore[index]


def test_hanging_up_during_prefill_frees_the_engine(mini: LoadedModel, url: str, sdk: anthropic.Anthropic) -> None:
    """One step at most is computed for a caller who has left; the steps are counted, not the time."""
    prompt = sized(sdk, 60_000)[5:]  # not the pages of the tests above

    async def leave() -> None:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="any", max_retries=0) as client:
            messages = [{"role": "user", "content": "now " + prompt}]
            task = asyncio.create_task(client.messages.create(model=MODEL, max_tokens=8, messages=messages))  # type: ignore[call-overload]
            while not mini.engine.stats().running and not task.done():
                await asyncio.sleep(0.005)
            assert task.cancel(), "the answer was quicker than the hang-up"
            await asyncio.gather(task, return_exceptions=True)

    before = mini.engine.stats()
    asyncio.run(leave())
    left = time.monotonic()
    while not idle(mini) and time.monotonic() < left + 30:
        time.sleep(0.001)
    assert idle(mini)
    print(f"idle {1e3 * (time.monotonic() - left):.0f} ms after the caller left")
    assert mini.engine.stats().output_tokens == before.output_tokens
