"""`senryu serve`: load a model and answer on the Claude Messages API until told to stop."""

from __future__ import annotations

import gc
from typing import Annotated, Any

import typer

from senryu.cli.output import CompileProgress, Kv, Weights, say


def serve(
    model: Annotated[str, typer.Option("--model", "-m", help="mini, path:DIR or hf:ORG/REPO")] = "mini",
    host: Annotated[
        str | None,
        typer.Option(help="Address to listen on [127.0.0.1]. Any but loopback needs an API key.", show_default=False),
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one [8484].", show_default=False)
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of the engine; all cores by default.", show_default=False)
    ] = None,
    api_key: Annotated[str | None, typer.Option(help="Require this key (or set SENRYU_API_KEY).", show_default=False)] = None,
    tls_cert: Annotated[
        str | None, typer.Option(help="Serve HTTPS with this certificate (PEM) and --tls-key.", show_default=False)
    ] = None,
    tls_key: Annotated[str | None, typer.Option(help="The certificate's private key (PEM).", show_default=False)] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="faithful, or lenient for agents that send thinking, effort and betas [faithful].", show_default=False
        ),
    ] = None,
    weights: Weights = None,
    kv: Kv = None,
    drafts: Annotated[
        bool | None, typer.Option("--drafts/--no-drafts", help="Guess tokens ahead where that pays.", show_default=False)
    ] = None,
) -> None:
    """Serve a model on the Claude Messages API."""
    gc.disable()  # what a start makes stays: looking for garbage in it takes a tenth of its time
    try:
        from senryu.api.app import check_start, serve_model
        from senryu.config import load_settings
        from senryu.service.registry import Registry, load_model

        options: dict[str, Any] = {"threads": threads, "weights": weights, "kv": kv, "drafts": drafts}
        options |= {"host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key}
        settings = load_settings(api_key=api_key, profile=profile, **options)
        check_start(settings)
        say(f"Loading {model} ...")
        loaded = load_model(settings, model, progress=CompileProgress())
        serve_model(Registry([loaded]), settings, ready=_announce)
    finally:
        gc.enable()


def _announce(url: str) -> None:
    gc.freeze()  # nor is it looked at later: a collection of all would hold up every stream
    gc.enable()
    say(f"Ready. Point your app here: ANTHROPIC_BASE_URL={url}   (Ctrl-C stops)")
