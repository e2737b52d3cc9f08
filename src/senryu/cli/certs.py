"""`senryu certs`: certificates for `senryu serve --tls-cert --tls-key` on this machine."""

from __future__ import annotations

import shlex
from typing import Annotated

import typer

from senryu.cli.output import say

app = typer.Typer(help="Certificates for development.", no_args_is_help=True)
VARIABLES = ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


@app.command("dev")
def dev(
    host: Annotated[
        list[str] | None,
        typer.Option(help="One more name or address of this machine; may be repeated.", show_default=False),
    ] = None,
) -> None:
    """Write a local authority and a certificate for localhost, 127.0.0.1, ::1 and --host.

    stdout is lines for a shell that make Python, AWS and Node clients trust the authority.
    """
    from senryu.api.devcerts import write_dev_certificates
    from senryu.config import load_settings

    made = write_dev_certificates(load_settings().home / "certs", host or ())
    say(f"Certificate for {', '.join(made.hosts)}, good until {made.until:%Y-%m-%d}. Serve with it:")
    say(f"  senryu serve --tls-cert {shlex.quote(str(made.cert))} --tls-key {shlex.quote(str(made.key))}")
    say("Point your clients at its authority (Python and AWS then trust it alone, so set this only where they call Senryu):")
    for variable in VARIABLES:
        print(f"export {variable}={shlex.quote(str(made.ca))}")
