"""What a service answers at `/live`, `/ready` and `/metrics`."""

import logging
from collections.abc import Iterable
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from mirrorfeed.contract.supervision import Service, one_line

PLAIN = "text/plain; charset=utf-8"

logger = logging.getLogger(__name__)


class Answer(NamedTuple):
    """To one request."""

    status: HTTPStatus
    body: bytes
    content_type: str = PLAIN


class Probes:
    """A service and its metrics, for machines that look now and then. All of it is in memory: no
    server is asked."""

    def __init__(self, service: Service, collectors: Iterable[Collector] = ()) -> None:
        self._service = service
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector(registry=None), *collectors):
            self._registry.register(collector)

    def answer(self, path: str) -> Answer:
        """What a GET of the path gets. Raises nothing."""
        try:
            match path.partition("?")[0]:
                case "/live":
                    return _verdict("live", self._service.why_not_live())
                case "/ready":
                    return _verdict("ready", self._service.why_not_ready())
                case "/metrics":
                    metrics = generate_latest(self._registry)
                    return Answer(HTTPStatus.OK, metrics, CONTENT_TYPE_LATEST)
        except Exception:  # a bug, of which the service itself knows nothing
            logger.exception("a probe failed")
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"an error of ours: see the log\n")
        return Answer(HTTPStatus.NOT_FOUND, b"there are /live, /ready and /metrics\n")


def _verdict(what: str, why_not: str | None) -> Answer:
    if why_not is None:
        return Answer(HTTPStatus.OK, f"{what}\n".encode())
    line = one_line(f"not {what}: {why_not}")
    return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{line}\n".encode())
