"""A peer is a process that answers lines of JSON; whatever goes wrong with it is said in one line."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from senryu.errors import SenryuError
from senryu.evals.peers import start_peers
from senryu.service.shapes import shape_spec

STUB = """#!{python}
import json, sys
options = json.loads(sys.argv[2])
print("{{}}", flush=True)
for line in sys.stdin:
    work = json.loads(line)
    if work.get("length") == 13:
        sys.exit(3)
    print(json.dumps({{"s": 2.0 if work.get("kv") == "q8_0" or options["quant"] == "q4_k_m" else 0.5}}), flush=True)
"""


@pytest.fixture
def stub(tmp_path: Path) -> str:
    """Stands for a Python of the peer's: it takes half a second for any work, two with some formats."""
    path = tmp_path / "python"
    path.write_text(STUB.format(python=sys.executable))
    path.chmod(0o755)
    return str(path)


def test_seconds_become_rates(stub: str, tmp_path: Path) -> None:
    peers = start_peers("llama.cpp", stub, shape_spec("tiny"), ("q4_0", "q4_k_m"), 2, tmp_path / "cache")
    try:
        assert [peer.name for peer in peers] == ["llama.cpp q4_0", "llama.cpp q4_k_m"]
        assert [peer.prefill(100) for peer in peers] == [200.0, 50.0]
        assert peers[0].decode(512, 64) == 128.0
        assert peers[0].batch(8, 10) == 160.0
        deep = peers[0].deep()
        assert [(d.name, d.decode(0, 64)) for d in deep] == [
            ("llama.cpp q4_0, f16 K/V", 128.0),
            ("llama.cpp q4_0, q8_0 K/V", 32.0),
        ]
    finally:
        for peer in peers:
            peer.close()
    assert peers[0].process.process.returncode == 0


def test_a_peer_that_cannot_be_measured_says_why(stub: str, tmp_path: Path) -> None:
    spec = shape_spec("tiny")
    with pytest.raises(SenryuError, match=r"/nowhere/python: No such file.*pip install llama-cpp-python gguf"):
        start_peers("llama.cpp", "/nowhere/python", spec, ("q8_0",), 2, tmp_path)
    with pytest.raises(SenryuError, match=r"exit code 1.*pip install openvino-genai"):
        start_peers("openvino", sys.executable, spec, ("int8",), 2, tmp_path)  # our Python has no such package
    (peer,) = start_peers("llama.cpp", stub, spec, ("q8_0",), 2, tmp_path)
    with pytest.raises(SenryuError, match="exit code 3"):
        peer.prefill(13)
    peer.close()
