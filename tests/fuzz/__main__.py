"""Looks for input that breaks a property, guided by code coverage:
`python -m tests.fuzz NAME [SECONDS]`, with NAME one of decoding, applying, answering.

Exits with 0 if it finds none. `applying` fills the database in MIRRORFEED_DATABASE_URL.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["mirrorfeed"]):
    from mirrorfeed.consumer.database import open_engine
    from mirrorfeed.consumer.migrations import bring_forward
    from mirrorfeed.contract import environment
    from mirrorfeed.publisher import BranchStatusClient
    from tests.fuzz import properties


@contextmanager
def property_of(name: str, folder: Path) -> Iterator[properties.Property]:
    match name:
        case "decoding":
            yield properties.decoding
        case "answering":
            with closing(BranchStatusClient(folder / "spool.db", forward=False)) as client:
                yield properties.answering(client)
        case _:
            engine = open_engine(os.environ[environment.DATABASE_URL])
            bring_forward(engine)
            yield properties.applying(engine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=["decoding", "applying", "answering"])
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    options = parser.parse_args()
    with (
        TemporaryDirectory(prefix="mirrorfeed-fuzz-") as folder,
        property_of(options.name, Path(folder)) as holds,
    ):
        settings = {"max_total_time": options.seconds, "max_len": 4096, "len_control": 0}
        arguments = [f"-{name}={value}" for name, value in settings.items()]
        arguments.append(f"-artifact_prefix={folder}/")
        atheris.Setup([sys.argv[0], *arguments], holds.hypothesis.fuzz_one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
