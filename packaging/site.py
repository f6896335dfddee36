"""What the site has beside the documents: README as its first page, references from the code."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File

from mirrorfeed.consumer.commands import main as consumer
from mirrorfeed.consumer.commands import replay
from mirrorfeed.contract import exit_codes
from mirrorfeed.contract.program import complete_help
from mirrorfeed.publisher import cli as publisher
from mirrorfeed.puller import cli as puller

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "mirror-puller": puller.app,
    "mirror-publisher": publisher.app,
    "mirror-consumer": consumer.app,
    "mirror-replay": replay.app,
}
STYLE = ".md-grid { max-width: 76rem } .md-typeset pre > code { font-size: .68rem }"
"""So that 100 columns of code fit."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages that are made here."""
    made = {
        "index.md": (ROOT / "README.md").read_text(),
        "reference/commands.md": "\n".join(commands()),
        "reference/variables.md": "\n".join(variables()),
        "reference/exit-codes.md": "\n".join(codes()),
        "reference/tables.md": quoted("Tables", "schema.sql", "sql"),
        "site.css": STYLE,
        "reference/events.md": quoted("Events", "docs/asyncapi.yaml", "yaml"),
    }
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    config.nav[-1]["Explanation"].append(
        {"Decisions": [f"decisions/{path.name}" for path in decisions]}
    )
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave the documents have no place on the site: their text stays."""
    where = Path("docs", page.file.src_uri).parent
    if page.file.src_uri == "index.md":
        where = Path()

    def replaced(match: re.Match[str]) -> str:
        picture, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        found = Path(*normal(where / path))
        if found.parts[:1] != ("docs",) or found.suffix in ("", ".yaml"):
            return f"{text} (`{found}`)" if text != f"`{found}`" else text
        up = "../" * (len(Path(page.file.src_uri).parts) - 1)
        inner = up + found.relative_to("docs").as_posix()
        return f"{picture}[{text}]({inner}{'#' + anchor if anchor else ''})"

    return LINK.sub(replaced, markdown)


def normal(path: Path) -> Iterator[str]:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        elif part != ".":
            parts.append(part)
    return iter(parts)


def commands() -> Iterator[str]:
    """Each command's help, as it prints it."""
    yield "# Commands\n"
    for program, app in PROGRAMS.items():
        command = typer.main.get_command(app)
        complete_help(command)
        yield f"## {program}\n\n{inspect.cleandoc(command.help or '')}\n"
        for name, each in each_command(program, command):
            with each.make_context(name, [], resilient_parsing=True, terminal_width=80) as context:
                yield f"### {name}\n\n```text\n{each.get_help(context)}\n```\n"


def variables() -> Iterator[str]:
    """Every variable that an option reads, and the commands that have the option."""
    read: dict[str, tuple[str, list[str]]] = {}
    for program, app in PROGRAMS.items():
        for name, command in each_command(program, typer.main.get_command(app)):
            for option in command.params:
                for variable in filter(None, [option.envvar]):
                    _, users = read.setdefault(variable, (option.help, []))
                    users.append(name)
    yield "# Environment variables\n\nAn option that is given wins.\n"
    yield "| variable | what it sets | of |\n| --- | --- | --- |"
    for variable, (said, users) in sorted(read.items()):
        told = said.replace("|", "\\|")
        of = ", ".join(f"`{user}`" for user in dict.fromkeys(users))
        yield f"| `{variable}` | {told} | {of} |"


def codes() -> Iterator[str]:
    """The exit codes that every command's help has."""
    yield "# Exit codes\n\n```text"
    yield inspect.cleandoc(exit_codes.HELP.removeprefix("\b\n"))
    yield "```\n\n`mirror-publisher run` and `run-script` exit with the code of the command that"
    yield "they run: see [commands that are wrapped](../operations.md#commands-that-are-wrapped)."


def quoted(title: str, name: str, language: str) -> str:
    """A file of the repository, whole."""
    return f"# {title}\n\nThis is `{name}`.\n\n```{language}\n{(ROOT / name).read_text()}```\n"


def each_command(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    """All that can be typed, without groups."""
    inner = getattr(command, "commands", {})
    if not inner or getattr(command, "invoke_without_command", False):
        yield name, command
    for word, each in sorted(inner.items()):
        yield from each_command(f"{name} {word}", each)
