"""What `pip install` brings, from the files that would be published, beside other software."""

import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from zipfile import ZipFile

import pytest

from mirrorfeed.contract import environment

ROOT = Path(__file__).parents[2]
ROOMS = ("amqp", "consumer", "contract", "publisher", "puller")
TIMEOUT_SECONDS = 300

APPLICATION_PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "branch-puller"
version = "7"

[tool.hatch.build.targets.wheel]
only-include = ["branch_puller.py", "publisher.py", "consumer", "contract", "amqp", "puller"]
"""
APPLICATION = """
import amqp, consumer, contract, publisher, puller
print(*(module.OWNER for module in (amqp, consumer, contract, publisher, puller)))
"""
REPORTING_APPLICATION = (
    APPLICATION
    + """
from mirrorfeed import BranchStatusClient
from mirrorfeed.consumer import Branch
from mirrorfeed.consumer.worker.service import Worker
from mirrorfeed.publisher.authserver.server import Authserver
from mirrorfeed.puller.service import Puller
client = BranchStatusClient(forward=False)
client.start_mirroring(1)
"""
)
"""Uses each room of ours beside its own module of that name."""

# In each of the last three lines is something that our annotations do not allow.
WRONG_CLIENT = """
from datetime import datetime
from mirrorfeed import BranchStatusClient

client = BranchStatusClient()
client.record_success("gc", "vostok", datetime.now(), datetime.now())
client.start_mirroring("1")
client.mirror_failed(1, reason=None)
client.mirror_completed(1, "rev-1")
"""


@dataclass(frozen=True)
class Venv:
    """An environment without pip, so that only what a test installs is in it."""

    folder: Path

    def __post_init__(self) -> None:
        run(sys.executable, "-m", "venv", "--without-pip", str(self.folder))

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    @property
    def site_packages(self) -> Path:
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def script(self, name: str) -> str:
        return str(self.folder / "bin" / name)

    def pip(self, *arguments: str) -> None:
        pip("--python", self.python, *arguments)

    def install(self, *requirements: str, wheels: Path) -> None:
        self.pip(
            "install", "--no-compile", "--no-index", "--find-links", str(wheels), *requirements
        )

    def names(self) -> set[str]:
        return {path.name for path in self.site_packages.iterdir()}


@dataclass(frozen=True)
class Published:
    """The files that a package index would get."""

    wheel: Path
    sdist: Path
    wheel_from_sdist: Path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published")
    run(sys.executable, "-m", "hatchling", "build", "-d", str(folder), directory=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    rebuilt = folder / "from-sdist"
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(rebuilt), str(sdist))
    (wheel_from_sdist,) = rebuilt.glob("*.whl")
    return Published(wheel, sdist, wheel_from_sdist)


@pytest.fixture(scope="module")
def wheels(published: Published, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What mirrorfeed needs with every extra: the only thing here that asks a package index."""
    folder = tmp_path_factory.mktemp("wheels")
    constraints = str(ROOT / "constraints.txt")
    everything = f"mirrorfeed[authserver,consumer,web] @ {published.wheel.as_uri()}"
    pip("wheel", "--wheel-dir", str(folder), "--constraint", constraints, everything)
    (folder / published.wheel.name).unlink()
    return folder


@pytest.fixture(scope="module")
def puller_host(
    published: Published, wheels: Path, tmp_path_factory: pytest.TempPathFactory
) -> Venv:
    """Where `pip install mirrorfeed` was said, without an extra."""
    venv = Venv(tmp_path_factory.mktemp("puller-host") / "venv")
    venv.install(str(published.wheel), wheels=wheels)
    return venv


@pytest.fixture(scope="module")
def dependencies(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where everything that mirrorfeed needs is installed, for environments that lend it."""
    venv = Venv(tmp_path_factory.mktemp("dependencies") / "venv")
    venv.install(*map(str, wheels.glob("*.whl")), wheels=wheels)
    return venv.site_packages


def test_the_sdist_holds_files_where_the_repository_has_links(
    published: Published, tmp_path: Path
) -> None:
    """Each folder that mirrorfeed/ links to is a folder; the schema lies within."""
    with tarfile.open(published.sdist) as archive:
        links = [member.name for member in archive if not member.isfile()]
    # Python 3.11.2, which Debian 12 has, knows no filter; later ones complain if there is none.
    run("tar", "--extract", "--file", str(published.sdist), directory=tmp_path)
    (unpacked,) = tmp_path.iterdir()
    assert [Path(link).relative_to(unpacked.name) for link in links] == [
        Path("mirrorfeed/schema.sql")
    ]
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    assert held >= expected_files() | {"README.md", "CHANGELOG.md", "pyproject.toml", "PKG-INFO"}
    for name in expected_files():
        assert (unpacked / name).read_bytes() == (ROOT / name).read_bytes()


def test_the_wheel_holds_the_package_and_nothing_else(published: Published) -> None:
    """All code with its types, the schema, the page's templates, and no module of another name."""
    with ZipFile(published.wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    about = {name for name in held if name.split("/")[0].endswith(".dist-info")}
    assert set(held) - about == expected_files()
    assert {"mirrorfeed/schema.sql", "mirrorfeed/py.typed"} <= expected_files()
    for name in expected_files():
        assert held[name] == (ROOT / name).read_bytes()


def test_a_wheel_from_the_sdist_is_the_same_wheel(published: Published) -> None:
    """Byte by byte."""
    assert published.wheel_from_sdist.read_bytes() == published.wheel.read_bytes()


def expected_files() -> set[str]:
    package = ROOT / "mirrorfeed"
    modules = [path for room in ROOMS for path in (package / room).rglob("*.py")]
    page = package / "consumer" / "web"
    modules += [path for each in ("templates", "static") for path in (page / each).iterdir()]
    others = [package / "schema.sql", package / "py.typed", *package.glob("*.py")]
    return {str(path.relative_to(ROOT)) for path in (*modules, *others)}


def test_what_a_package_index_shows(puller_host: Venv) -> None:
    """No link in the description leads nowhere, and nobody has chosen a licence yet."""
    (about,) = metadata.distributions(name="mirrorfeed", path=[str(puller_host.site_packages)])
    assert about.metadata["Name"] == "mirrorfeed"
    assert about.metadata["Keywords"]
    assert "Typing :: Typed" in about.metadata.get_all("Classifier", [])
    assert not {"License", "License-Expression"} & set(about.metadata)
    description = about.metadata["Description"]
    assert "from mirrorfeed import BranchStatusClient" in description
    targets = re.findall(r"\]\(([^)]*)\)|<(?:a|img)\b[^>]*\"([^\"]*)\"", description)
    assert [link for link in map("".join, targets) if not link.startswith("https://")] == []


def test_a_puller_host_gets_no_database_library(puller_host: Venv) -> None:
    """Nor a web server: what it needs is small."""
    names = puller_host.names()
    assert {"mirrorfeed", "pika"} <= names
    assert not {"sqlalchemy", "psycopg2", "uvicorn", "defusedxml"} & names
    for command in ("mirror-publisher", "mirror-puller"):
        assert command in run(puller_host.script(command), "--help")


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        (("mirror-consumer", "status"), "consumer"),
        (("mirror-replay", "list"), "consumer"),
        (("mirror-publisher", "authserver"), "authserver"),
    ],
)
def test_a_command_says_which_extra_it_lacks(
    puller_host: Venv, command: tuple[str, ...], extra: str, tmp_path: Path
) -> None:
    """In one line, with exit code 2."""
    result = subprocess.run(
        [puller_host.script(command[0]), *command[1:]],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        env={environment.SPOOL: str(tmp_path / "spool.db")},
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert re.fullmatch(
        rf"{command[0]}: \w+ is not installed;"
        rf" install it with: pip install 'mirrorfeed\[{extra}\]'\n",
        result.stderr,
    )


def test_an_import_says_which_extra_it_lacks(puller_host: Venv) -> None:
    """For programs that read the tables."""
    result = subprocess.run(
        [puller_host.python, "-c", "from mirrorfeed.consumer import Branch"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(
        "sqlalchemy is not installed; install it with: pip install 'mirrorfeed[consumer]'"
    )


@pytest.mark.parametrize(
    "program", ["mirror-puller", "mirror-publisher", "mirror-consumer", "mirror-replay"]
)
def test_each_command_knows_its_version(program: str) -> None:
    """The one in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    script = Path(sys.executable).with_name(program)
    assert run(str(script), "--version") == f"{program} {project['version']}\n"


def test_a_type_checker_sees_our_types(puller_host: Venv, tmp_path: Path) -> None:
    """It finds three errors in a client script and none in the one that the index shows."""
    description = (ROOT / "packaging" / "package-index.md").read_text()
    right = re.findall(r"```python\n(.*?)```", description, re.DOTALL)
    (tmp_path / "right.py").write_text("\n".join(right))
    (tmp_path / "wrong.py").write_text(WRONG_CLIENT)
    command = [sys.executable, "-m", "mypy", "--strict", "--python-executable", puller_host.python]
    result = subprocess.run(
        [*command, "right.py", "wrong.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        cwd=tmp_path,
    )
    assert "BranchStatusClient" in "".join(right)
    found = re.findall(r"^(\w+\.py):(\d+): error: .*\[([\w-]+)\]$", result.stdout, re.MULTILINE)
    end = len(WRONG_CLIENT.splitlines())
    assert found == [
        ("wrong.py", str(end - 2), "arg-type"),
        ("wrong.py", str(end - 1), "arg-type"),
        ("wrong.py", str(end), "attr-defined"),
    ], result.stdout


@pytest.mark.parametrize("source", ["wheel", "wheel_from_sdist"])
def test_an_application_with_modules_of_our_rooms_names_stays_whole(
    published: Published, wheels: Path, dependencies: Path, source: str, tmp_path: Path
) -> None:
    """Installed beside ours or as files beside a script, before, with and after mirrorfeed."""
    project = tmp_path / "application"
    write_application(project)
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", directory=project)
    (application,) = project.glob("dist/*.whl")
    venv = Venv(tmp_path / "venv")
    venv.install("--no-deps", str(application), wheels=wheels)
    (venv.site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    files = contents(venv.site_packages)
    beside = tmp_path / "beside"
    write_application(beside)
    expected = " ".join(["the application"] * len(ROOMS)) + "\n"
    variables = {environment.SPOOL: str(tmp_path / "spool.db")}

    wheel: Path = getattr(published, source)
    venv.install("--no-deps", str(wheel), wheels=wheels)
    assert contents(venv.site_packages).items() >= files.items()
    (ours,) = metadata.distributions(name="mirrorfeed", path=[str(venv.site_packages)])
    installed = {file.parts[0] for file in ours.files or () if file.parts[0] != ".."}
    assert installed == {"mirrorfeed", f"mirrorfeed-{ours.version}.dist-info"}
    reporting = (venv.python, "-c", REPORTING_APPLICATION)
    assert run(*reporting, variables=variables) == expected
    (beside / "script.py").write_text(REPORTING_APPLICATION)
    assert run(venv.python, str(beside / "script.py"), variables=variables) == expected
    status = run(venv.script("mirror-publisher"), "status", directory=beside, variables=variables)
    assert re.search(r"^pending +2$", status, re.MULTILINE)

    venv.pip("uninstall", "--yes", "mirrorfeed")
    assert contents(venv.site_packages).items() >= files.items()
    assert not any(name.startswith("mirrorfeed") for name in venv.names())
    assert run(venv.python, "-c", APPLICATION) == expected


def write_application(folder: Path) -> None:
    """A puller with modules of its own that are named as our rooms are."""
    folder.mkdir()
    (folder / "pyproject.toml").write_text(APPLICATION_PROJECT)
    (folder / "branch_puller.py").write_text(APPLICATION)
    (folder / "publisher.py").write_text("OWNER = 'the application'\n")
    for package in set(ROOMS) - {"publisher"}:
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text("OWNER = 'the application'\n")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def pip(*arguments: str) -> None:
    run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)


def run(
    *command: str, directory: Path | None = None, variables: Mapping[str, str] | None = None
) -> str:
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
        cwd=directory or Path(command[0]).parent,
        env=None if variables is None else {**variables, "PATH": "/usr/bin:/bin"},
    )
    assert result.returncode == 0, f"{command}: {result.stdout}\n{result.stderr}"
    return result.stdout
