"""`senryu chat` and `senryu run`: the model in this process, answering on the terminal."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from senryu.cli.output import CompileProgress, Weights, say
from senryu.types import Event, Finished, Message, Text, TextDelta, Turn

HELP = """  /system TEXT   set the system prompt (empty clears it)
  /clear         forget the conversation
  /history       show it
  /exit          leave (Ctrl-D does too)
  End a line with \\ to continue it, or put many lines between two lines of \"\"\"."""

System = Annotated[str, typer.Option("--system", "-s", help="System prompt.")]
Temperature = Annotated[float, typer.Option(min=0.0, max=1.0, help="0 always takes the likeliest token.")]
MaxTokens = Annotated[int, typer.Option(min=1, max=8192, help="Most tokens of one answer.")]


class Session:
    """A conversation with one loaded model."""

    def __init__(self, ref: str, system: str, temperature: float, max_tokens: int, weights: str | None) -> None:
        from senryu.config import load_settings
        from senryu.service.registry import Registry, load_model
        from senryu.service.turn import Service

        settings = load_settings(weights=weights)
        self.home = settings.home
        self.model = load_model(settings, ref, progress=CompileProgress())
        self.service = Service(Registry([self.model]), settings)
        self.system, self.temperature, self.max_tokens = system, temperature, max_tokens
        self.messages: list[Message] = []

    async def answer(self, prompt: str) -> Event:
        """Stream the answer to stdout and remember it, an interrupted one as far as it came; returns the last event."""
        self.messages.append(Message("user", (Text(prompt),)))
        turn = Turn(
            model=self.model.name,
            messages=tuple(self.messages),
            max_tokens=self.max_tokens,
            system=(Text(self.system),) if self.system else (),
            temperature=self.temperature,
        )
        pieces: list[str] = []
        last: Event | None = None
        try:
            async with contextlib.aclosing(self.service.run(turn)) as events:
                async for event in events:
                    last = event
                    if isinstance(event, TextDelta):
                        pieces.append(event.text)
                        print(event.text, end="", flush=True)
        finally:
            text = "".join(pieces)
            if text.strip():
                self.messages.append(Message("assistant", (Text(text.rstrip()),)))
            else:
                self.messages.pop()
        assert last is not None
        return last

    async def close(self) -> None:
        await self.model.engine.close()


def run(
    model: Annotated[str, typer.Argument(help="mini, path:DIR or hf:ORG/REPO")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; - or nothing reads stdin.")] = None,
    system: System = "",
    temperature: Temperature = 0.0,
    max_tokens: MaxTokens = 1024,
    weights: Weights = None,
) -> None:
    """Answer one prompt and print only the answer. Text on stdin is added to the prompt."""
    piped = "" if sys.stdin.isatty() else sys.stdin.read()
    parts = [part for part in (prompt if prompt != "-" else None, piped.strip()) if part]
    if not parts:
        say('senryu run: no prompt. Type `senryu run mini "Hello"`, or pipe text into it.')
        raise typer.Exit(2)
    session = Session(model, system, temperature, max_tokens, weights)

    async def once() -> None:
        try:
            last = await session.answer("\n\n".join(parts))
            print()
            if isinstance(last, Finished) and last.stop_reason == "max_tokens":
                say(f"senryu run: cut at {max_tokens} tokens; --max-tokens allows more.")
        finally:
            await session.close()

    asyncio.run(once())


def read_prompt(ask: Callable[[str], str] = input) -> str | None:
    """One message, of several lines where the user asks for them (see HELP); None at the end of input."""
    try:
        line = ask("> ")
        lines: list[str] = []
        if line.strip() == '"""':
            while (line := ask("… ")).strip() != '"""':
                lines.append(line)
            return "\n".join(lines)
        while line.endswith("\\"):
            lines.append(line[:-1])
            line = ask("… ")
        return "\n".join([*lines, line])
    except EOFError:
        return None


@contextlib.contextmanager
def line_history(path: Path) -> Iterator[None]:
    """Arrow keys and a history that outlives the chat, where the platform has readline."""
    try:
        import readline
    except ImportError:
        yield
        return
    with contextlib.suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(1000)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            readline.write_history_file(path)


def command(session: Session, line: str) -> bool:
    """Carry out a slash command; False ends the chat."""
    verb, _, rest = line.partition(" ")
    if verb in {"/exit", "/quit", "/bye"}:
        return False
    if verb == "/clear":
        session.messages.clear()
        say("The conversation is forgotten.")
    elif verb == "/system":
        session.system = rest.strip()
        say("System prompt set." if session.system else "System prompt cleared.")
    elif verb == "/history":
        for message in session.messages:
            say(f"{message.role}: " + "".join(block.text for block in message.content if isinstance(block, Text)))
    else:
        say(HELP if verb in {"/help", "/?"} else f"{verb} is no command. These are:\n{HELP}")
    return True


def chat(
    model: Annotated[str, typer.Option("--model", "-m", help="mini, path:DIR or hf:ORG/REPO")] = "mini",
    system: System = "",
    temperature: Temperature = 0.7,
    max_tokens: MaxTokens = 1024,
    weights: Weights = None,
) -> None:
    """Talk with a model on the terminal. /help shows the commands; Ctrl-C stops an answer."""
    session = Session(model, system, temperature, max_tokens, weights)
    say(f"{session.model.name} is ready. /help shows the commands, Ctrl-D leaves.")
    with asyncio.Runner() as runner, line_history(session.home / "history"):
        try:
            while (line := read_prompt()) is not None:
                if line.startswith("/"):
                    if not command(session, line):
                        break
                elif line.strip():
                    try:
                        runner.run(session.answer(line))
                    except KeyboardInterrupt:
                        say(" (stopped)")
                    print()
        finally:
            runner.run(session.close())
