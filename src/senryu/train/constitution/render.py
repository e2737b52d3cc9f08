"""A constitution as text: a system prompt, requests to a critic, questions for a preference, documents to pretrain on."""

from __future__ import annotations

import random
from collections.abc import Iterator

from senryu.train.constitution.document import Constitution, Principle
from senryu.train.constitution.judge import Message, Prompt, content_text

FORMS = ("system-prompt", "critic", "preference", "documents")
NOTHING = "NONE"  # what a critic answers when nothing is wrong
CRITIC = "You judge the answers of an assistant by one principle. Be exact and brief."
CRITIQUE = (
    f"Does the assistant's last answer break this principle? If so, say how in one or two sentences; if not, answer {NOTHING}."
)
REVISE = (
    "Rewrite the assistant's last answer so that it keeps to the principle, as helpfully as possible. Decline only what "
    "must be declined, without a lecture. Write the new answer alone, with no word about the principle or the critique."
)
PREFER = "Which answer keeps better to this principle?"


def system_prompt(constitution: Constitution) -> str:
    """The principles with their reasons, numbered, for an assistant that is to keep to them; hard constraints first."""
    lines = ["You are an assistant that keeps to these principles.", ""]
    for number, principle in enumerate(constitution.principles, start=1):
        always = " (without exception)" if principle.hard else ""
        lines.append(f"{number}. {_sentence(principle.text)}{always} {_reason(principle)}".rstrip())
    return "\n".join(lines)


def critique_request(principle: Principle, prompt: Prompt, answer: str) -> list[Message]:
    """What a model is asked, to criticise an answer; it answers NOTHING when nothing is wrong."""
    return _user(f"{_conversation(prompt, answer)}\n\n{_stated(principle)}\n\n{principle.critique or CRITIQUE}")


def revision_request(principle: Principle, prompt: Prompt, answer: str, critique: str) -> list[Message]:
    """What a model is asked, to write a better answer."""
    said = f"Critique: {critique}" if critique else ""
    parts = (_conversation(prompt, answer), _stated(principle), said, principle.revise or REVISE)
    return _user("\n\n".join(part for part in parts if part))


def preference_request(principle: Principle, prompt: Prompt, a: str, b: str) -> list[Message]:
    """What a model is asked, to compare two answers; it answers A or B."""
    question = principle.prefer or PREFER
    last = "Reply with the letter of the better one alone."
    return _user(f"{_conversation(prompt)}\n\n{_stated(principle)}\n\n{question}\n(A) {a}\n(B) {b}\n\n{last}")


def documents(constitution: Constitution, seed: int = 0) -> Iterator[str]:
    """Texts about the constitution for next-token training: each principle as a short article, in several wordings.

    Training on why a rule holds generalises better than on the bare rule (Model Spec Midtraining, arXiv 2605.02087).
    """
    draw = random.Random(f"documents {seed}")
    for principle in constitution.principles:
        examples = [e for e in constitution.examples if e.principle == principle.id]
        for opening, reason in draw.sample(_WORDINGS, len(_WORDINGS)):
            parts = [opening.format(name=constitution.name, text=_sentence(principle.text))]
            if principle.why:
                parts.append(reason.format(why=_sentence(principle.why)))
            parts += [f'Asked "{e.prompt}", it answers: "{e.good}" It does not answer: "{e.bad}"' for e in examples]
            yield "\n\n".join(parts)


_WORDINGS = (
    ("One of the principles of {name} reads: {text}", "The reason is this: {why}"),
    ("{text} That is how {name} means to act.", "Why? {why}"),
    ("What does {name} hold to? Among other things: {text}", "{why} This is why the principle was written down."),
)


def shown(constitution: Constitution, form: str) -> str:
    """The constitution in one of FORMS as a text to read. Raises ValueError for another."""
    placeholder = Prompt("", ({"role": "user", "content": "{prompt}"},))
    match form:
        case "system-prompt":
            return system_prompt(constitution) + "\n"
        case "critic":
            texts = [f"[{p.id}]\n{critique_request(p, placeholder, '{answer}')[0]['content']}" for p in constitution.principles]
        case "preference":
            texts = [
                f"[{p.id}]\n{preference_request(p, placeholder, '{a}', '{b}')[0]['content']}" for p in constitution.principles
            ]
        case "documents":
            texts = list(documents(constitution))
        case _:
            raise ValueError(f"form {form!r} is unknown; use one of {', '.join(FORMS)}")
    return "\n\n---\n\n".join(texts) + "\n"


def _user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def _stated(principle: Principle) -> str:
    return f"Principle: {_sentence(principle.text)} {_reason(principle)}".rstrip()


def _reason(principle: Principle) -> str:
    return f"Reason: {_sentence(principle.why)}" if principle.why else ""


def _sentence(text: str) -> str:
    return text if text.rstrip().endswith((".", "!", "?")) else f"{text}."


def _conversation(prompt: Prompt, answer: str | None = None) -> str:
    """The conversation as a transcript between tags that no message can close."""
    lines = [f"System: {prompt.system}"] if prompt.system else []
    names = {"user": "Human", "assistant": "Assistant"}
    lines += [f"{names.get(m['role'], m['role'])}: {content_text(m['content'])}" for m in prompt.messages]
    if answer is not None:
        lines.append(f"Assistant: {answer}")
    text = "\n\n".join(lines).replace("</conversation>", "</ conversation>")
    return f"<conversation>\n{text}\n</conversation>"
