"""The judge by endpoint against a local server that fails as servers do; the judge by the model's own log-probabilities."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer

from senryu.train import chat
from senryu.train.constitution.build import JUDGES, build_judge, examples, held_pairs
from senryu.train.constitution.document import OURS, ConstitutionError, Principle, load
from senryu.train.constitution.endpoint import Endpoint, EndpointError, EndpointJudge, answers
from senryu.train.constitution.judge import Critique, Judge, Message, Prompt
from senryu.train.constitution.own import Held, SelfJudge
from senryu.train.constitution.prompts import generated
from senryu.train.constitution.rules import RuleJudge
from senryu.train.constitution.scoring import scorer
from senryu.train.net import Net
from senryu.train.recipe import Recipe

PRINCIPLE = Principle("calm", "Stay calm.", "Anger spreads.", "style", applies_to=("violence",))
PROMPT = Prompt("1", ({"role": "user", "content": "Hi"},), system="Be nice.")
OK = 200


@dataclass
class Fake:
    """A server that plays its replies: (status, body, headers), the last one for ever; `seen` is what it was sent."""

    replies: list[tuple[int, Any, dict[str, str]]]
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    url: str = ""

    def reply(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        self.seen.append((path, headers, body))
        return self.replies[min(len(self.seen), len(self.replies)) - 1]


@pytest.fixture
def fake() -> Iterator[Fake]:
    made = Fake([])

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer, headers = made.reply(self.path, {k.lower(): v for k, v in self.headers.items()}, body)
            if status == 0:  # breaks off
                return
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in (headers | {"content-length": str(len(raw))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    yield made
    server.shutdown()
    server.server_close()


def said(text: str) -> tuple[int, Any, dict[str, str]]:
    return OK, {"content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}, {}


def failed(status: int, **headers: str) -> tuple[int, Any, dict[str, str]]:
    return status, {"type": "error", "error": {"type": "x", "message": "no luck"}}, headers


def endpoint(fake: Fake, waits: list[float] | None = None, **more: Any) -> Endpoint:
    return Endpoint(fake.url, "m", sleep=(waits if waits is not None else []).append, **more)


def test_a_request_is_that_of_the_messages_api(fake: Fake) -> None:
    fake.replies = [said(" Hello ")]
    assert endpoint(fake, key="k-1").ask(PROMPT.messages, system="S", max_tokens=9, temperature=0.5) == "Hello"
    ((path, headers, body),) = fake.seen
    assert path == "/v1/messages"
    assert (headers["x-api-key"], headers["anthropic-version"], headers["content-type"]) == (
        "k-1",
        "2023-06-01",
        "application/json",
    )
    assert body == {"model": "m", "max_tokens": 9, "messages": [*PROMPT.messages], "system": "S", "temperature": 0.5}
    assert Endpoint("http://h/v1/", "m").url == Endpoint("http://h", "m").url == "http://h/v1/messages"
    assert "x-api-key" not in fake.seen[0][1] or endpoint(fake).key == ""


def test_busy_servers_are_asked_again_when_they_say(fake: Fake) -> None:
    fake.replies = [
        failed(429, **{"retry-after": "7"}),
        failed(529),
        failed(500, **{"retry-after": "soon"}),
        (0, b"", {}),
        said("ok"),
    ]
    waits: list[float] = []
    assert endpoint(fake, waits).ask(PROMPT.messages) == "ok"
    assert waits == [7, 2, 4, 8]
    assert len(fake.seen) == 5


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (failed(401), "refused with 401: no luck; check the key", 1),
        (failed(404), "refused with 404: no luck; check the address", 1),
        (failed(400), "refused with 400: no luck; check the model's name", 1),
        ((400, b"<html>", {}), "refused with 400: <html>", 1),
        (failed(503), "failed 3 times, at last with 503: no luck; try again later", 3),
        ((OK, b"<html>", {}), "answered no JSON", 1),
        ((OK, {"choices": []}, {}), "answered no message of the Claude API", 1),
    ],
)
def test_what_cannot_be_helped_is_an_error_with_an_advice(fake: Fake, reply: Any, message: str, requests: int) -> None:
    fake.replies = [reply]
    with pytest.raises(EndpointError, match=message):
        endpoint(fake, tries=3).ask(PROMPT.messages)
    assert len(fake.seen) == requests


def test_an_address_that_is_none_and_a_server_that_is_not_there_are_named() -> None:
    with pytest.raises(EndpointError, match="is no address of a server"):
        Endpoint("localhost:80", "m")
    with pytest.raises(EndpointError, match=r"failed 1 times.*refused"):
        Endpoint("http://127.0.0.1:9", "m", tries=1).ask(PROMPT.messages)


@pytest.mark.parametrize(("text", "none"), [("NONE", True), ("None.", True), ("", True), ("It shouts.", False)])
def test_a_critique_is_none_when_the_model_says_so(fake: Fake, text: str, none: bool) -> None:
    fake.replies = [said(text)]
    critique = EndpointJudge(endpoint(fake)).critique(PRINCIPLE, PROMPT, "HI!")
    assert (critique is None) == none
    assert "Stay calm." in fake.seen[0][2]["messages"][0]["content"]


def test_a_revision_is_the_models_without_its_label(fake: Fake) -> None:
    fake.replies = [said('Revised answer: "Hello there."')]
    judge = EndpointJudge(endpoint(fake))
    assert judge.revise(PRINCIPLE, PROMPT, "HI!", Critique("calm", "It shouts.")) == "Hello there."
    assert "It shouts." in fake.seen[0][2]["messages"][0]["content"]


@pytest.mark.parametrize(
    ("first", "second", "probability"),
    [
        ("A", "B", 1.0),
        ("B", "A", 0.0),
        ("A", "A", 0.5),
        ("(A)", "Answer: B", 1.0),
        ("Both", "B", 0.75),
        ("All fine", "Be", 0.5),
    ],
)
def test_a_comparison_is_the_mean_of_both_orders(fake: Fake, first: str, second: str, probability: float) -> None:
    fake.replies = [said(first), said(second)]
    judge = EndpointJudge(endpoint(fake))
    assert judge.compare(PRINCIPLE, PROMPT, "x", "y") == probability
    assert ["(A) x" in s[2]["messages"][0]["content"] for s in fake.seen] == [True, False]
    assert judge.report()["unclear_comparisons"] == sum(text in ("Both", "All fine", "Be") for text in (first, second))


def test_a_served_model_answers_prompts_in_their_order(fake: Fake) -> None:
    fake.reply = lambda path, headers, body: said(body["messages"][0]["content"].upper())  # type: ignore[method-assign]
    prompts = [Prompt(str(i), ({"role": "user", "content": f"p{i}"},)) for i in range(9)]
    assert answers(endpoint(fake), prompts, max_tokens=5, temperature=1.0) == [f"P{i}" for i in range(9)]


# self


def by_length(asked: Any) -> list[float]:
    """A model that finds the shorter answer better, and likes the letter A."""
    out = []
    for messages, letter in asked:
        a, b = (messages[0]["content"].split(f"({x}) ")[1].split("\n")[0] for x in "AB")
        out.append(1.0 * (letter == "A") + 0.5 * (len(a) < len(b)) * (1 if letter == "A" else -1))
    return out


def held(count: int, better: str, worse: str) -> list[Held]:
    return [Held(Prompt(str(i), PROMPT.messages), better, worse, "calm") for i in range(count)]


class Other(RuleJudge):
    """Says 0.25 to every comparison."""

    def compare(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        return 0.25


def test_own_comparisons_cancel_a_liking_for_a_letter_and_are_used_where_they_beat_chance() -> None:
    judge = SelfJudge(by_length, Other([], 0), [PRINCIPLE], held(10, "short", "much longer"))
    assert judge.compare(PRINCIPLE, PROMPT, "x", "yyyy") > 0.5 > judge.compare(PRINCIPLE, PROMPT, "yyyy", "x")
    assert judge.compare(PRINCIPLE, PROMPT, "x", "y") == pytest.approx(0.5)
    table = judge.report()["calibration"]["calm"]
    assert table == {"pairs": 10, "right": 1.0, "chance": pytest.approx(1 / 1024, abs=1e-4), "used": True}


@pytest.mark.parametrize("pairs", [held(10, "much longer", "short"), held(4, "short", "much longer"), []])
def test_comparisons_no_better_than_chance_are_left_to_the_other_judge(pairs: list[Held]) -> None:
    judge = SelfJudge(by_length, Other([], 0), [PRINCIPLE], pairs)
    assert judge.compare(PRINCIPLE, PROMPT, "x", "yyyy") == 0.25
    report = judge.report()
    assert report["used"] == []
    assert report["verdict"].startswith("own comparisons are used for 0 of 1")
    assert report["other"]["judge"] == "rules"


def test_a_principle_is_calibrated_on_pairs_that_it_tells_apart() -> None:
    principles = load(OURS).principles
    pairs = [*examples(load(OURS)), *held_pairs(0, 40, [])]
    judge = SelfJudge(lambda asked: [0.0] * len(asked), RuleJudge(principles, 0), principles, pairs)
    counts = {id: calibration.pairs for id, calibration in judge.calibration.items()}
    assert counts["answer-what-is-harmless"] > 25  # every benign one, and its example
    assert 1 < counts["no-violence"] < 12
    assert counts["short-and-plain"] == 0
    assert counts["do-not-preach"] == 1  # an example of the constitution
    assert {c.right for c in judge.calibration.values() if c.pairs} == {0.5}  # ties


def test_held_pairs_are_none_of_the_datas() -> None:
    prompts = generated(0, 300)
    pairs = held_pairs(0, 100, prompts)
    assert len(pairs) > 100
    assert not {(p.system, str(p.messages)) for p in prompts} & {(h.prompt.system, str(h.prompt.messages)) for h in pairs}
    principles = load(OURS).principles
    rules = RuleJudge(principles, 0)
    right = [any(rules.compare(p, pair.prompt, pair.better, pair.worse) > 0.5 for p in principles) for pair in pairs]
    assert sum(right) > 0.95 * len(right)


def test_judges_are_built_by_name_with_what_they_need() -> None:
    ours = load(OURS)
    made: list[Judge] = [
        build_judge(name, ours, 0, [], endpoint=Endpoint("http://h", "m"), score=lambda asked: [0.0] * len(asked))
        for name in JUDGES
    ]
    assert [judge.name for judge in made] == list(JUDGES)
    for name, message in (
        ("self", "needs the model"),
        ("endpoint", "needs the address"),
        ("oracle", "is unknown; use one of rules"),
    ):
        with pytest.raises(ConstitutionError, match=message):
            build_judge(name, ours, 0, [])


def test_a_nets_scores_are_its_log_probabilities_whatever_the_batch(recipe: Recipe) -> None:
    tokenizer = Tokenizer.from_file(str(chat.TEMPLATE.parent / "tokenizer.json"))
    net = Net(replace(recipe.net, vocab_size=tokenizer.get_vocab_size()))
    net.initialise(1)
    with torch.no_grad():
        for p in net.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    asked: list[tuple[list[Message], str]] = [
        ([{"role": "user", "content": text}], letter)
        for text in ("Hi", "A longer question, is it?")
        for letter in ("A", "B", "Bread")
    ]
    scores = scorer(net, tokenizer)(asked)
    assert scores == pytest.approx([scorer(net, tokenizer, at_once=1)([one])[0] for one in asked], abs=1e-4)
    ids = tokenizer.encode(chat.render(asked[0][0], answer=True), add_special_tokens=False).ids
    wanted = torch.log_softmax(net(torch.tensor([ids])).detach()[0, -1], -1)[
        tokenizer.encode("A", add_special_tokens=False).ids[0]
    ]
    assert scores[0] == pytest.approx(wanted.item(), abs=1e-4)
