"""Where the broker is: one URL, or several of which any will do.

A URL is amqp:// or amqps://. With amqps:// the broker's certificate and host name are verified. The
parameters for that have the names of RabbitMQ's URI query parameters
(https://www.rabbitmq.com/docs/uri-query-parameters): `cacertfile`, without which the system's
authorities are trusted, and `certfile` with `keyfile`, if the broker asks for a client certificate.
"""

import random
import re
import ssl
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from msgspec import Struct

from mirrorfeed.contract.secrets import mask_secrets

TLS_FILES = ("cacertfile", "certfile", "keyfile")
UNVERIFIED = ("ssl_options", "verify")
"""Parameters that turn verification off in other software."""
EXAMPLE = "amqp://user:password@host:5672/vhost"


class BrokerAddress(Struct, frozen=True):
    """One broker node: its URL without the TLS parameters, and the context made from these."""

    url: str
    tls: ssl.SSLContext | None


def broker_addresses(urls: str, *, seed: float | None = None) -> list[BrokerAddress]:
    """The addresses in a comma-separated list of URLs, in random order, so that many processes with
    the same list spread over the nodes. The order depends on the seed alone, if there is one.

    Raises ValueError if one cannot be used; it names the value, without a password, and the remedy.
    """
    # A comma within a URL, such as in a password, does not separate.
    each = re.split(r"\s*,\s*(?=amqps?://)", urls.strip())
    addresses = [
        _address(url, "the AMQP URL" if len(each) == 1 else f"AMQP URL {number} of {len(each)}")
        for number, url in enumerate(each, 1)
    ]
    random.Random(seed).shuffle(addresses)  # noqa: S311  no secret
    return addresses


def _address(url: str, which: str) -> BrokerAddress:
    parts = _parts(url, which)
    given = parse_qsl(parts.query, keep_blank_values=True)
    names = {name for name, _ in given}
    if refused := names.intersection(UNVERIFIED):
        raise ValueError(
            f"the AMQP URL {mask_secrets(url)} has {', '.join(sorted(refused))}: with amqps:// the"
            " broker is always verified; name its authority with cacertfile=/path/to/ca.pem"
        )
    files = {name: value for name, value in given if name in TLS_FILES}
    if files and parts.scheme != "amqps":
        raise ValueError(
            f"the AMQP URL {mask_secrets(url)} has {', '.join(sorted(files))}, which needs amqps://"
        )
    query = urlencode([(name, value) for name, value in given if name not in TLS_FILES])
    plain_url = parts._replace(query=query).geturl()
    return BrokerAddress(plain_url, _tls(files) if parts.scheme == "amqps" else None)


def _parts(url: str, which: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_fit = (
            parts.scheme in ("amqp", "amqps")
            and bool(parts.hostname)
            and "," not in parts.netloc.rpartition("@")[2]
            and parts.port != 0
            and (parts.username is None) == (parts.password is None)
        )
    except ValueError:  # the port is not a number
        is_fit = False
    if not is_fit:
        raise ValueError(
            f"{which} cannot be read (it is not shown: there may be a password in it); one looks"
            f" like {EXAMPLE}, several have commas between them, amqp://…,amqp://…"
        )
    return parts


def _tls(files: dict[str, str]) -> ssl.SSLContext:
    if ("certfile" in files) != ("keyfile" in files):
        raise ValueError("an AMQP URL must have both certfile and keyfile, or neither")
    try:
        context = ssl.create_default_context(cafile=files.get("cacertfile"))
        if "certfile" in files:
            context.load_cert_chain(files["certfile"], files["keyfile"])
    except OSError as error:  # includes ssl.SSLError, raised if a file is not PEM
        named = ", ".join(f"{name}={value}" for name, value in files.items())
        raise ValueError(
            f"the files of an AMQP URL cannot be used ({named}): {error}; each must exist, be"
            " readable by this user, and be PEM"
        ) from error
    return context
