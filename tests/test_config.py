"""Settings: where they come from, in which order, and how a mistake is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from senryu.config import Settings, load_settings
from senryu.errors import SenryuError


def write(home: Path, text: str) -> dict[str, str]:
    (home / "config.toml").write_text(text)
    return {"SENRYU_HOME": str(home)}


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings({"SENRYU_HOME": str(tmp_path)})
    assert settings == Settings(home=tmp_path, threads=settings.threads)
    assert settings.threads >= 1
    assert settings.weights == "int8"
    assert settings.weight_cache == tmp_path / "cache" / "weights"
    assert settings.kernel_cache == tmp_path / "cache" / "kernels"


def test_flags_win_over_environment_over_file(tmp_path: Path) -> None:
    environ = write(tmp_path, 'api_key = "file"\nport = 1\nkv_cache_gb = 2\ndrafts = false\n')
    assert load_settings(environ).drafts is False
    assert load_settings(environ).api_key == "file"
    environ["SENRYU_API_KEY"] = "environment"
    assert load_settings(environ, port=None).api_key == "environment"
    settings = load_settings(environ, api_key="flag", port=2)
    assert (settings.api_key, settings.port, settings.kv_cache_gb) == ("flag", 2, 2)


def test_keys_of_aws(tmp_path: Path) -> None:
    assert load_settings(write(tmp_path, '[aws_keys]\nAKIDEXAMPLE = "secret"\n')).aws_keys == {"AKIDEXAMPLE": "secret"}


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("prot = 1", "unknown setting `prot`. Did you mean `port`?"),
        ("zzz = 1", "Known settings: host, port,"),
        ('port = "1"', "`port` should be a whole number, got '1'"),
        ("port = true", "`port` should be a whole number"),
        ("drafts = 1", "`drafts` should be true or false, got 1"),
        ("max_requests = 0", "`max_requests` should be 1 or more"),
        ("requests_per_minute = -1", "`requests_per_minute` should be 0 or more, got -1"),
        ("input_tokens_per_minute = 1.5", "`input_tokens_per_minute` should be a whole number"),
        ("output_tokens_per_minute = true", "`output_tokens_per_minute` should be a whole number"),
        ("kv_cache_gb = nan", "`kv_cache_gb` should be 0 or more"),
        ('kernels = "cuda"', "`kernels` should be auto or amx or avx512 or avxvnni or avx2 or neon or numpy or fp32"),
        ('profile = "strict"', "`profile` should be faithful or lenient, got 'strict'"),
        ('weights = "int5"', "`weights` should be int8 or int4 or bf16, got 'int5'"),
        ("port = ", "cannot read"),
        ('aws_keys = "AKID:hush"', "`aws_keys` should be a table of access key ids and their secrets, got 'str'"),
        ('[aws_keys]\nAKID = ""', "`aws_keys.AKID` should be a secret in a string"),
        ('[aws_keys]\n"AK/ID" = "hush"', "`aws_keys.AK/ID` should be a secret in a string"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(SenryuError) as caught:
        load_settings(write(tmp_path, text))
    assert named in str(caught.value)
    assert "hush" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert caught.value.status == 0
