"""Many small repositories behind one server, and broken ones of ten kinds among them."""

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.upstreams import Upstream, WebServer, silent_server, web_server

KINDS = 10
EACH = 2
MAX_MIRROR_BYTES = 2_000_000
CLOSED_PORT = 1


class ManyUpstreams:
    """URLs by the number of their branch, and what becomes of each."""

    def __init__(self, web: WebServer) -> None:
        self.web = web
        self.urls: dict[int, str] = {}
        self.expected: dict[int, str] = {}
        """The class of the failure of each that is broken."""


@contextmanager
def many_upstreams(folder: Path, count: int) -> Iterator[ManyUpstreams]:
    """So many in all, 20 of them broken."""
    root = folder / "many"
    root.mkdir()
    template = Upstream(root / "template.git")
    template.commit()
    shutil.rmtree(template.path / "hooks", ignore_errors=True)
    for each in range(EACH):
        Upstream(root / f"large{each}.git").commit(size=2 * MAX_MIRROR_BYTES)
    with ExitStack() as running:
        found = ManyUpstreams(running.enter_context(web_server(root)))
        # A host that says 429 is left alone: each has one of its own.
        limited = [running.enter_context(web_server(root, f"127.0.0.{n}")) for n in (2, 3)]
        silent = running.enter_context(silent_server())
        broken = list(_broken(found.web.url, limited, silent))
        assert len(broken) == KINDS * EACH
        step = count // len(broken)
        for branch_id in range(1, count + 1):
            if branch_id % step == 0 and broken:
                found.urls[branch_id], found.expected[branch_id] = broken.pop()
            else:
                path = root / f"r{branch_id}.git"
                shutil.copytree(template.path, path)
                found.urls[branch_id] = f"{found.web.url}/git/{path.name}"
        assert not broken
        yield found


def _broken(url: str, limited: list[WebServer], silent: int) -> Iterator[tuple[str, str]]:
    port = url.rpartition(":")[2]
    for each in range(EACH):
        yield f"{url}/status/404/{each}", "not-found"
        yield f"{url}/secret/{each}", "auth-or-missing"
        yield f"{limited[each].url}/status/429/{each}", "rate-limited"
        yield f"{url}/status/500/{each}", "network"
        yield f"http://127.0.0.1:{CLOSED_PORT}/{each}", "network"
        yield f"{url}/login/{each}", "not-a-repository"
        yield f"ext::sh -c {each}", "refused-url"
        yield f"http://127.0.0.1:{silent}/{each}", "timeout"
        yield f"https://127.0.0.1:{port}/git/{each}", "tls"
        yield f"{url}/git/large{each}.git", "too-large"
