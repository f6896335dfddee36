"""The console scripts of the consumer's side: they say so if its extra is not installed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mirrorfeed.extras import ExtraMissing, needs_extra

EXIT_USAGE = 2


@contextmanager
def loading(program: str) -> Iterator[None]:
    try:
        with needs_extra("consumer"):
            yield
    except ExtraMissing as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(EXIT_USAGE)


def mirror_consumer() -> None:
    with loading("mirror-consumer"):
        from mirrorfeed.consumer.commands.main import main
    main()


def mirror_replay() -> None:
    with loading("mirror-replay"):
        from mirrorfeed.consumer.commands.replay import main
    main()
