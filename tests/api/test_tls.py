"""HTTPS over real sockets: answers, streams, stops and stalled callers as without it, and files that cannot be used."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest
from cryptography import x509

from senryu.api.devcerts import DevCertificates, write_dev_certificates
from senryu.api.server import check_bind
from senryu.config import Settings
from senryu.errors import SenryuError
from serving import TOKENIZER, idle, says, scripted_model, serving

VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> DevCertificates:
    return write_dev_certificates(tmp_path_factory.mktemp("home") / "certs", ["box.lan", "10.0.0.1"])


@pytest.fixture(scope="module")
def tls(certificates: DevCertificates) -> dict[str, str]:
    """The settings."""
    return {"tls_cert": str(certificates.cert), "tls_key": str(certificates.key)}


@pytest.fixture(scope="module")
def trusting(certificates: DevCertificates) -> ssl.SSLContext:
    """Clients that trust the authority, and it alone."""
    return ssl.create_default_context(cafile=str(certificates.ca))


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "senryu-mini", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}], **fields}


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.002)


@contextlib.contextmanager
def sending(url: str, context: ssl.SSLContext, fields: dict[str, Any], withhold: int = 0) -> Iterator[ssl.SSLSocket]:
    """A request, but for its last `withhold` bytes, on a socket with a small buffer; its answer is not read."""
    address = httpx.URL(url)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.settimeout(60)
    raw.connect((address.host, address.port))
    with context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as sock:
        content = json.dumps(fields).encode()
        head = (
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-length: {len(content)}\r\n\r\n"
        )
        sock.sendall(head.encode() + content[: len(content) - withhold])
        yield sock


def read_all(sock: socket.socket) -> bytes:
    """All that still comes, whether the server says goodbye or not."""
    answer = bytearray()
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            answer += piece
    return bytes(answer)


def test_answers_and_streams(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    text = "\x01" * 9000  # 48 KB as JSON: several records
    with serving(scripted_model(says(text), drafts=False), **tls) as url, httpx.Client(verify=trusting, timeout=60) as http:
        assert url.startswith("https://127.0.0.1:")
        for port_url in (url, url.replace("127.0.0.1", "localhost")):
            assert http.get(port_url + "/health").json()["status"] == "ok"
        cut = body(max_tokens=8192)
        whole = http.post(url + "/v1/messages", json=cut, headers=VERSION).json()["content"][0]["text"]
        assert whole == text[:8192]
        streamed = http.post(url + "/v1/messages", json={**cut, "stream": True}, headers=VERSION).text
        datas = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
        assert "".join(data["delta"]["text"] for data in datas if data["type"] == "content_block_delta") == whole
        large = body(messages=[{"role": "user", "content": "x" * 150_000}], max_tokens=1)
        assert http.post(url + "/v1/messages", json=large, headers=VERSION).json()["usage"]["input_tokens"] == 150_004
        with anthropic.Anthropic(base_url=url, api_key="any", http_client=anthropic.DefaultHttpxClient(verify=trusting)) as sdk:
            assert sdk.messages.create(**body()).content[0].text == text[:64]


def test_who_does_not_trust_or_speak_tls_is_turned_away(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    with serving(scripted_model(says("Hello")), stall_timeout_s=0.3, **tls) as url:
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(url + "/health", verify=ssl.create_default_context())
        plain = httpx.post(url.replace("https", "http") + "/v1/messages", json=body(), headers=VERSION)
        assert plain.status_code == 400
        assert "Write https:// in place of http://" in plain.json()["error"]["message"]
        address = httpx.URL(url)
        with socket.create_connection((address.host, address.port), timeout=60) as noise:
            noise.sendall(b"\x00" * 100)
            assert b"HTTP" not in read_all(noise)
        with socket.create_connection((address.host, address.port), timeout=60) as silent:
            assert silent.recv(1) == b""  # no handshake within the time
        assert httpx.get(url + "/health", verify=trusting).status_code == 200


def test_a_caller_who_hangs_up_is_not_computed_for(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    model = scripted_model(seconds_per_step=0.005)
    with serving(model, **tls) as url:
        with sending(url, trusting, body(max_tokens=8000)):
            wait_until(lambda: model.engine.stats().running > 0)
        wait_until(lambda: idle(model))
        assert model.engine.stats().output_tokens < 8000


def test_a_reader_who_stalls_is_dropped(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    model = scripted_model(lambda request: TOKENIZER.encode("x") * 4000, seconds_per_step=0.001, drafts=False)
    with (
        serving(model, send_buffer=4096, stall_timeout_s=0.3, **tls) as url,
        sending(url, trusting, body(stream=True, max_tokens=4000)),
    ):
        wait_until(lambda: model.engine.stats().running > 0)
        wait_until(lambda: idle(model))
        assert model.engine.stats().output_tokens < 4000


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_answer_that_nobody_takes_is_dropped(tls: dict[str, str], trusting: ssl.SSLContext, stream: bool) -> None:
    """The 48,000 bytes that nobody takes are seen, and hold up neither the connection nor the stop."""
    text = "\x01" * 8000
    model = scripted_model(says(text))
    with contextlib.ExitStack() as stack:
        with serving(model, send_buffer=4096, stall_timeout_s=0.3, **tls) as url:
            asked = body(stream=stream, max_tokens=8192, stop_sequences=[text + "!"])
            sock = stack.enter_context(sending(url, trusting, asked))
            wait_until(lambda: model.engine.stats().output_tokens == 8001 and idle(model))
        answer = read_all(sock)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith((b"}", b"0\r\n\r\n"))


def test_a_slow_reader_of_a_last_answer_gets_all_of_it(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    """The server stops while the answer lies in its buffer: it waits as long as something is taken."""
    text = "\x01" * 8000
    model = scripted_model(says(text))
    with contextlib.ExitStack() as stack, serving(model, send_buffer=4096, stall_timeout_s=5.0, **tls) as url:
        sock = stack.enter_context(sending(url, trusting, body(max_tokens=8192)))
        wait_until(lambda: model.engine.stats().output_tokens == 8001 and idle(model))
        answer = bytearray(sock.recv(1024))
        while not answer.endswith(b"}"):
            answer += sock.recv(1024)
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["content"][0]["text"] == text


def test_idle_connections_do_not_hold_up_a_stop(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    """Their owners never read, so no goodbye comes back: the stop would take its drain timeout, and then fail the fixture."""
    with httpx.Client(verify=trusting) as idle_one, serving(scripted_model(says("Hello")), **tls) as url:
        assert idle_one.get(url + "/health").status_code == 200


def test_a_body_that_stops_coming_is_refused(tls: dict[str, str], trusting: ssl.SSLContext) -> None:
    with (
        serving(scripted_model(), stall_timeout_s=0.2, **tls) as url,
        sending(url, trusting, body(), withhold=1) as sock,
    ):
        answer = b"".join(iter(lambda: sock.recv(4096), b""))  # the server says goodbye: no error at the end
        assert answer.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("cert", "key", "named"),
    [
        ("cert", "", "tls_cert is set without tls_key. Add --tls-key FILE"),
        ("", "key", "tls_key is set without tls_cert. Add --tls-cert FILE"),
        ("nowhere", "key", "cannot read tls_cert"),
        ("cert", "nowhere", "cannot read tls_key"),
        ("cert", "other", "the key belongs to another certificate"),
        ("key", "cert", "one of the two is not in PEM"),
        ("empty", "key", "one of the two is not in PEM"),
        ("cert", "locked", "the key is encrypted with a password"),
    ],
)
def test_files_that_cannot_be_used(certificates: DevCertificates, tmp_path: Path, cert: str, key: str, named: str) -> None:
    from cryptography.hazmat.primitives import serialization

    other = write_dev_certificates(tmp_path / "other")
    private = serialization.load_pem_private_key(other.key.read_bytes(), None)
    secret = serialization.BestAvailableEncryption(b"word")
    locked = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, secret)
    (tmp_path / "locked").write_bytes(locked)
    (tmp_path / "empty").touch()
    files = {"": "", "cert": certificates.cert, "key": certificates.key, "other": other.key}
    paths = [str(files.get(name, tmp_path / name)) for name in (cert, key)]
    with pytest.raises(SenryuError) as caught:
        check_bind(Settings(home=tmp_path, port=0, tls_cert=paths[0], tls_key=paths[1]))
    assert named in str(caught.value)
    assert caught.value.status == 0


def test_development_certificates(certificates: DevCertificates) -> None:
    folder = certificates.ca.parent
    assert sorted(path.name for path in folder.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]  # the authority's key is nowhere
    if os.name == "posix":
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(certificates.key.stat().st_mode) == 0o600
    cert = x509.load_pem_x509_certificate(certificates.cert.read_bytes())
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "box.lan"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "10.0.0.1"]
    before = certificates.key.read_bytes()
    again = write_dev_certificates(folder.parent / "again")
    first = again.key.read_bytes()
    assert write_dev_certificates(folder.parent / "again").key.read_bytes() != first != before


@pytest.mark.parametrize("host", ["", "two words", "-x", "x" * 64, "日本", "a..b"])
def test_names_that_no_certificate_holds(tmp_path: Path, host: str) -> None:
    with pytest.raises(SenryuError, match="a certificate can hold no such name"):
        write_dev_certificates(tmp_path, [host])
    assert not list(tmp_path.iterdir())
