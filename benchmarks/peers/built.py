"""Consumers of batches in other languages, made in a temporary folder where the machine can."""

import json
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.load import QUEUES
from benchmarks.peers.contestants import BATCH_BACKLOG, BATCH_LACKS, PIKA, Contestant

SOURCES = Path(__file__).parent / "batch"
INSTALL = ("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts")
LIBRARIES = ("-lrabbitmq", "-ljansson", "-lpq", "-I/usr/include/postgresql")


class Missing(Exception):
    """What keeps a contestant from being made."""


class Made(NamedTuple):
    """How it is started, and of which versions it is made."""

    command: Sequence[str]
    versions: str


def _make_node(folder: Path) -> Made:
    node = shutil.which("node")
    if node is None or shutil.which("npm") is None:
        raise Missing("needs node and npm")
    _output(INSTALL, folder, "npm cannot install amqplib and pg")
    version = _output((node, "--version"), folder, "node does not run").strip()
    packages = json.loads((SOURCES / "package.json").read_text())["dependencies"]
    names = ", ".join(f"{name} {number}" for name, number in packages.items())
    return Made((node, str(folder / "consume.mjs"), *QUEUES), f"Node.js {version}, {names}")


def _make_c(folder: Path) -> Made:
    needs = "needs gcc, librabbitmq-dev, libjansson-dev and libpq-dev"
    if shutil.which("gcc") is None:
        raise Missing(needs)
    _output(("gcc", "-O2", "-o", "consume", "consume.c", *LIBRARIES), folder, needs)
    version = _output(("gcc", "-dumpfullversion"), folder, needs).strip()
    return Made((str(folder / "consume"), str(folder), *QUEUES), f"gcc {version}")


MAKERS: Mapping[str, Callable[[Path], Made]] = {
    "librabbitmq and libpq (C), batches": _make_c,
    "amqplib and pg (Node.js), batches": _make_node,
}


def make(name: str, folder: Path) -> tuple[Contestant, str]:
    """The contestant, and its versions. Raises Missing."""
    shutil.copytree(SOURCES, folder)
    command, versions = MAKERS[name](folder)
    return Contestant(name, command, BATCH_BACKLOG, PIKA, lacks=BATCH_LACKS), versions


def _output(command: Sequence[str], folder: Path, problem: str) -> str:
    """Raises Missing with the problem, if the command fails."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Missing(problem)
    return result.stdout
