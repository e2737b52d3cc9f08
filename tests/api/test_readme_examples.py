"""The README's Python runs as it stands, one example after the other, with the real SDK against a real server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, scripted_model, serving

README = Path(__file__).resolve().parents[2] / "README.md"
CALL, RESULT = SPECIALS.index("<|call|>"), SPECIALS.index("<|result|>")


def reply(request: TokenRequest) -> list[int]:
    """What a better model than mini would say."""
    prompt = TOKENIZER.decode(request.ids)
    if "get_weather" in prompt and RESULT not in request.ids:
        return [CALL, *TOKENIZER.encode('{"name": "get_weather", "arguments": {"city": "Paris"}}'), END]
    if "slow service" in prompt:
        return [*TOKENIZER.encode('{"mood": "good", "stars": 4}'), END]
    return [*TOKENIZER.encode("The harbour opened in 1899."), END]


def test_the_examples_run() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    assert len(blocks) >= 6
    shown: list[tuple[Any, ...]] = []
    names: dict[str, Any] = {"print": lambda *what: shown.append(what)}
    with serving(scripted_model(reply)) as url:
        for block in blocks:
            assert "localhost" not in block
            exec(compile(block.replace("http://127.0.0.1:8484", url), str(README), "exec"), names)
        names["client"].close()
    assert ("get_weather", {"city": "Paris"}) in shown
    assert ('{"mood": "good", "stars": 4}',) in shown
    (written, none, dear), (nothing, read, cheap) = (line for line in shown if len(line) == 3)
    assert written == read > 2048
    assert none == nothing == 0
    assert float(cheap) < float(dear) / 5
    assert ("The harbour opened in 1899.", ["The harbour opened in 1899."]) in shown
    assert [line[0] for line in shown if str(line[0]).startswith("guest-")] == ["guest-0", "guest-1", "guest-2"]
