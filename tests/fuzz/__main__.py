"""Looks for input that breaks a property, guided by what code it reaches:
`python -m tests.fuzz NAME [SECONDS]`, with NAME one of decoding, applying, answering.

Ends with 0 where it found none. `applying` needs MIRRORFEED_DATABASE_URL, a database to fill.
"""

import argparse
import os
import sys
from tempfile import TemporaryDirectory

import atheris

with atheris.instrument_imports(include=["contract", "consumer", "publisher"]):
    from consumer.database import apply_schema, open_engine
    from contract import environment
    from tests.fuzz import properties


def property_of(name: str) -> properties.Property:
    if name == "applying":
        engine = open_engine(os.environ[environment.DATABASE_URL])
        apply_schema(engine)
        return properties.applying(engine)
    return properties.decoding


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("name", choices=["decoding", "applying"])
    parser.add_argument("seconds", nargs="?", type=int, default=60)
    options = parser.parse_args()
    holds = property_of(options.name).hypothesis.fuzz_one_input
    with TemporaryDirectory(prefix="mirrorfeed-fuzz-") as found:
        arguments = [sys.argv[0], f"-max_total_time={options.seconds}", "-max_len=4096",
                     "-len_control=0",
                     f"-artifact_prefix={found}/"]  # fmt: skip
        atheris.Setup(arguments, holds)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
