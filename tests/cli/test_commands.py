"""The verbs by hand: the bundled model answers, facts are printed as asked, and a wrong start says what to type next."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import senryu
from senryu import cli, kernels
from senryu.errors import SenryuError


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs `senryu ARGUMENTS` with a home of its own, on little memory."""
    (tmp_path / "config.toml").write_text("kv_cache_gb = 0.2\n")
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path))
    monkeypatch.delenv("SENRYU_API_KEY", raising=False)

    def run(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(cli.app, arguments, input=typed)

    return run


def test_version(call) -> None:
    assert call("version").stdout == f"senryu {senryu.__version__}\n"
    assert json.loads(call("version", "--json").stdout)["senryu"] == senryu.__version__


def test_the_bundled_model_is_listed_and_described(call) -> None:
    listed = json.loads(call("models", "ls", "--json").stdout)
    assert [model["name"] for model in listed] == ["senryu-mini"]
    names = listed[0]["answers_to"]
    assert {"senryu-mini", "claude-3-5-haiku-20241022", "claude-3-5-haiku@20241022", "anthropic/claude-3.5-haiku"} <= set(names)
    assert len(names) == len(set(names))
    (line,) = call("models", "ls").stdout.splitlines()
    assert line.split("\t")[-1] == ",".join(names)
    facts = json.loads(call("models", "show", "mini", "--json").stdout)
    assert (facts["family"], facts["layers"], facts["vocab"]) == ("cohere2", 12, 8192)
    assert "cohere2" in call("models", "show", "mini").stdout


def test_doctor_names_what_a_start_depends_on(call, tmp_path: Path) -> None:
    facts = json.loads(call("doctor", "--json").stdout)
    assert facts["home"] == str(tmp_path)
    assert facts["kernels"] in kernels.PATHS
    assert facts["memory_free_gb"] > 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "config.toml").write_text(f"port = {taken.getsockname()[1]}\n")
        facts = json.loads(call("doctor", "--json").stdout)
    assert facts["tls"] == "plain HTTP"
    (tmp_path / "config.toml").write_text(f'tls_cert = "{tmp_path}/none"\ntls_key = "none"\n')
    assert "cannot read tls_cert" in json.loads(call("doctor", "--json").stdout)["tls"]
    assert any(key.startswith("port_") and "taken" in value for key, value in facts.items() if isinstance(value, str))


@pytest.mark.parametrize("weights", ["int8", "int4", "bf16"])
def test_a_number_format_is_chosen_and_kept(call, tmp_path: Path, weights: str) -> None:
    (tmp_path / "config.toml").write_text('kv_cache_gb = 0.2\nkernels = "numpy"\n')
    first = call("run", "mini", "Hello!", "--max-tokens", "4", "--weights", weights)
    assert first.stdout.strip()
    assert call("run", "mini", "Hello!", "--max-tokens", "4", "--weights", weights).stdout == first.stdout
    facts = json.loads(call("doctor", "--json", "--weights", weights).stdout)
    assert facts["weights"] == weights
    assert "(1 packed, " in facts["weight_cache"]
    kept = sum(file.stat().st_size for file in (tmp_path / "cache" / "weights").rglob("*") if file.is_file())
    assert f"weights {kept / 1e9:.3f} GB" in facts["cache_disk"]
    (file,) = (tmp_path / "cache" / "weights").glob("*/*")
    assert "(1 verified, 0 damaged)" in json.loads(call("doctor", "--verify", "--json").stdout)["weight_cache"]
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.unlink()
    file.write_bytes(content)
    damaged = call("doctor", "--verify", "--json")
    assert "(1 verified, 1 damaged)" in json.loads(damaged.stdout)["weight_cache"]
    assert str(file) in damaged.stderr
    assert not file.exists()


def test_development_certificates_are_told_to_a_shell(call, tmp_path: Path) -> None:
    made = call("certs", "dev", "--host", "box.lan")
    ca = tmp_path / "certs" / "ca.pem"
    assert ca.read_text().startswith("-----BEGIN CERTIFICATE-----")
    names = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
    assert made.stdout.splitlines() == [f"export {name}={ca}" for name in names]
    assert "localhost, 127.0.0.1, ::1, box.lan" in made.stderr
    assert f"senryu serve --tls-cert {tmp_path}/certs/cert.pem --tls-key {tmp_path}/certs/key.pem" in made.stderr


def test_run_prints_the_answer_and_nothing_else(call) -> None:
    first = call("run", "mini", "Hello!", "--max-tokens", "24")
    assert first.exit_code == 0
    assert first.stdout.strip()
    assert call(
        "run",
        "mini",
        typed="Hello!",
    ).stdout.startswith(first.stdout.strip()[:8])
    assert call("run", "mini", typed="").exit_code == 2


def test_chat_keeps_the_conversation_until_its_end(call) -> None:
    said = call("chat", "--temperature", "0", "--max-tokens", "16", typed="Hello!\n/history\n/clear\n/nothing\n/exit\nnever\n")
    assert said.exit_code == 0
    assert "user: Hello!" in said.stderr
    assert "assistant: " in said.stderr
    assert "forgotten" in said.stderr
    assert "/nothing is no command" in said.stderr
    assert "never" not in said.output


def test_a_bench_reports_its_machine(call) -> None:
    result = json.loads(call("bench", "--prompt", "16", "--tokens", "4", "--rounds", "1", "--json").stdout)
    assert result["machine"]["kernels"] in kernels.PATHS
    assert (result["model"], result["weights"], result["rounds"]) == ("mini", "int8", 1)
    measures = [(figure["measure"], figure["at"]) for figure in result["figures"]]
    assert measures == [("prefill", 16), ("decode", 16), ("ttft_cold", 16), ("ttft_warm", 16), ("ttft_cached", 16)]
    assert min(figure["median"] for figure in result["figures"]) > 0


def test_a_bench_measures_what_was_asked_for(call) -> None:
    printed = call("bench", "--shape", "tiny", "--suite", "depth,memory", "--depth", "0,65", "--tokens", "2", "--rounds", "1")
    rows = [line.split("\t") for line in printed.stdout.splitlines()]
    assert [(row[0], row[1]) for row in rows if row[0] == "depth"] == [("depth", "0"), ("depth", "65")]
    assert {row[0] for row in rows} == {"depth", "memory resident", "memory kv pool", "memory kv 1024 tokens"}


def test_a_bench_of_drafts_compares_with_none_of_them(call, tmp_path: Path, kept_kernels: Path) -> None:
    options = "--suite drafts --tokens 4 --rounds 1 --kv float32 --json"
    result = json.loads(call("bench", *options.split()).stdout)
    tasks = ("copy", "edit", "json", "free")
    measures = [figure["measure"] for figure in result["figures"]]
    assert measures == [f"{side}_{task}" for task in tasks for side in ("drafts", "plain")]
    assert {figure["subject"] for figure in result["figures"]} == {"senryu int8, float32 K/V"}
    assert list(result["ratios"]) == [f"drafts_{task}" for task in tasks]
    assert not (tmp_path / "cache" / "kv").exists()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("--peer llama.cpp", "--peer llama.cpp --peer-python PATH"),
        ("--peer ollama --shape tiny --peer-python x", "llama.cpp or openvino or ctranslate2"),
        ("--peer llama.cpp --shape tiny --peer-python x --quant q9", "q8_0, q4_0, q4_k_m"),
        ("--peer-python x", "--peer llama.cpp"),
        ("--suite speed", "prefill"),
        ("--suite start --shape tiny", "no tokenizer"),
        ("--prompt many", "whole numbers"),
        ("--prompt 0", "at least 1"),
        ("--depth 1,-2", "at least 0"),
        ("--plot p.png", "--suite depth"),
        ("--shape tiny --prompt 999999", "at most"),
    ],
)
def test_a_bench_that_cannot_be_says_what_to_type(call, arguments: str, hint: str) -> None:
    refused = call("bench", *arguments.split())
    assert refused.exit_code == 2
    assert hint in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("serve", "--host", "0.0.0.0"), "--api-key"),
        (("serve", "--model", "minii"), "mini"),
        (("run", "path:/nowhere", "Hello"), "/nowhere"),
        (("run", "mini", "Hello", "--weights", "int5"), "int8 or int4 or bf16"),
        (("serve", "--kv", "bf16"), "int8 or float32"),
        (("serve", "--profile", "strict"), "faithful or lenient"),
        (("serve", "--tls-cert", "cert.pem"), "--tls-key FILE"),
        (("certs", "dev", "--host", "two words"), "box.lan"),
        (("bench", "--kv", "int4"), "int8 or float32"),
    ],
)
def test_a_wrong_start_says_what_to_do(call, arguments: tuple[str, ...], hint: str) -> None:
    failure = call(*arguments)
    assert failure.exit_code == 1
    assert isinstance(failure.exception, SenryuError)
    assert hint in str(failure.exception)


def test_main_turns_a_refusal_into_one_line(call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["senryu", "models", "show", "nope"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("senryu: ")
    assert "nope" in printed.err
