"""How a client's script reports: one JSON line a check. Runs in the clients' environments, so it needs nothing but Python."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn, TypeVar

ACCESS_KEY = "AKIDFORTHESECHECKS"  # of AWS; its secret is the server's key
BREAK_OFF = "Break off in the middle of your answer."  # the scripted model's engine then fails after a few words
EDIT_TASK = "Let greet() name the town."  # the scripted model then answers with an edit of aider's
PATIENCE = 0.3  # seconds: whoever was answered faster was not told to wait
TOPIC = "The harbour of Ithra has two piers, a crane, a lighthouse and a customs house built of grey stone. "
Failure = TypeVar("Failure", bound=BaseException)


class Lacks(Exception):
    """The client itself has no such thing. The message says so by the client's name, for it is a footnote of the table."""


class NotServed(Lacks):
    """The server does not offer this in the client's shape; as `Lacks`."""


class Outcome(NamedTuple):
    """What a check may return. raised: the client's own class for what went wrong. note: a footnote of the table."""

    detail: str
    raised: str = ""
    note: str = ""


class Given(NamedTuple):
    """A script's arguments. stage: a server with a scripted model. limited: one that answers few requests a minute. tls: mini
    over HTTPS, its certificate signed by the authority in the file `ca`. All want the same key."""

    url: str
    key: str
    stage: str = ""
    limited: str = ""
    tls: str = ""
    ca: str = ""
    variant: str = ""


Check = Callable[[], object]


def arguments() -> Given:
    """The script's."""
    return Given(*sys.argv[1:])


def lacks(
    why: str, has: Callable[[], object] | None = None, without: type[Exception] = AttributeError, kind: type[Lacks] = Lacks
) -> Check:
    """The check of what is not there, and why. has: reaches for it in the client, which must then fail with `without`."""

    def lacking() -> NoReturn:
        if has is not None:
            caught(without, has)
        raise kind(why)

    return lacking


def report(checks: Sequence[tuple[str, Check]]) -> None:
    """Run all checks, whatever fails. A check's name is its column in the table; its result is shown beside it."""
    for column, check in checks:
        line: dict[str, object] = {"column": column, "check": check.__name__}
        try:
            result = check()
            outcome = result if isinstance(result, Outcome) else Outcome(str(result))
            line |= {"ok": True, **outcome._asdict(), "detail": outcome.detail[:100]}
        except Lacks as error:
            who = "server" if isinstance(error, NotServed) else "client"
            line |= {"ok": True, "lacks": str(error), "by": who, "detail": str(error)[:100]}
        except Exception:
            line |= {"ok": False, "detail": traceback.format_exc()}
        print(json.dumps(line), flush=True)


def long_text(words: int = 3000) -> str:
    """Text of more tokens than the least that is cached, the same at every call."""
    return TOPIC * (words // 18)


def caught(kind: type[Failure], call: Callable[[], object]) -> Failure:
    """What `call` must raise: of this very class."""
    try:
        got = call()
    except kind as error:
        if type(error) is kind:
            return error
        raise AssertionError(f"{type(error).__name__}, expected {kind.__name__}: {error}") from error
    raise AssertionError(f"no {kind.__name__}, but {got!r}")


def breaks_off(kind: type[BaseException], read: Callable[[], object]) -> Outcome:
    """`read` takes a stream to its end whose answer fails midway: the client must say so, with this very class."""
    error = caught(kind, read)
    return Outcome(str(error), kind.__name__)


def waits(ask: Callable[[int], object], refusal: type[BaseException], retries: int = 5, name: str = "") -> Outcome:
    """`ask(most retries)` is refused when the requests of this minute are spent; with retries the client waits and is answered.

    refusal: the class, or one above it whose class has the `name`.
    """
    name = name or refusal.__name__
    for _ in range(5):
        spend(lambda: ask(0), refusal, name)
        start = time.monotonic()
        ask(retries)
        if (waited := time.monotonic() - start) > PATIENCE:  # else the server had room again at that very moment
            return Outcome(f"{name}; with retries answered after {waited:.1f} s", name)
    raise AssertionError("never had to wait")


def spend(ask: Callable[[], object], refusal: type[BaseException], name: str) -> None:
    """Ask without retries until the server refuses."""
    for _ in range(200):
        try:
            ask()
        except refusal as error:
            if type(error).__name__ == name:
                return
            raise AssertionError(f"{type(error).__name__}, expected {name}") from error
    raise AssertionError(f"no {name} in 200 requests")
