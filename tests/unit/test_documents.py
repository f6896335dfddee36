"""What the documents say to type, to set and to open is there: commands, options, variables,
targets of make, units, files and links."""

import re
import shlex
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

from tests.apps import COMMANDS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("CONTRIBUTING.md", "README.md", "SECURITY.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "packaging" / "package-index.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
each_document = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)
BESIDE = [ROOT, *(ROOT / name for name in ("docs", "packaging", "tests"))]
"""Files are named from one of these on."""
OF_OTHERS = {
    *("--atomic", "--no-block"),  # git, systemctl
    *("--force-recreate", "--profile"),  # docker compose
    *("--cluster", "--events", "--faults", "--seed"),  # tests.faults.campaign
    *("--events-a-second", "--minutes", "--seconds-a-fault"),  # tests.faults.soak
}
"""Options that stand alone and are not our commands'."""
NOT_YET = {"tests/golden/host.seen.json"}
"""What CONTRIBUTING.md adds as an example."""

OPERATOR = re.compile(r"[|&;<>()]|\d?>")
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CALL = re.compile(rf"(?<![\w/.'-])({'|'.join(COMMANDS)})(?![\w*-])([^\n|;&()<>,:]*)")
QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
COMMENT = re.compile(r"\s#.*")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
VARIABLE = re.compile(r"\bMIRRORFEED_[A-Z_]*[A-Z]\b")
UNIT = re.compile(r"(?:-u|--unit|--now|start|stop|status|/system/?) ?(mirrorfeed-\w+)\b")
TARGET = re.compile(r"^make ([a-z][a-z-]*)")
MADE = {"build", "dist"}
"""What commands write into."""
FOLDERS = [
    path
    for path in ROOT.iterdir()
    if path.is_dir() and path.name[0] != "." and path.name not in MADE
]
FILE = re.compile(rf"(?<![\w/.-])(?:{'|'.join(path.name for path in FOLDERS)})/[\w./-]*\w")
TEST = re.compile(r"\b(?:test_\w+::)?(test_\w+)\b(?!\.py|/)")
TILDE = re.compile(r"(?<!\S)~\w")
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)")


def spans(text: str) -> list[str]:
    """What stands between backquotes."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", FENCED.sub("", text))]


def block_lines(text: str) -> list[str]:
    """The lines of blocks, each whole."""
    return "".join(FENCED.findall(text)).replace("\\\n", "").splitlines()


def code(text: str) -> list[str]:
    """Both of these."""
    return [*block_lines(text), *spans(text)]


def calls(text: str) -> list[tuple[str, str]]:
    """Each call of a command of ours: the command, and what follows it."""
    return [call for line in code(text) for call in CALL.findall(line)]


def wrong_in(program: str, arguments: str) -> str | None:
    """What a call names that is not there."""
    command: Any = COMMANDS[program]
    options = {"--help"}
    for word in QUOTED.sub("TEXT", COMMENT.sub("", arguments)).split():
        options |= {name for each in command.params for name in each.opts + each.secondary_opts}
        commands = getattr(command, "commands", {})
        if word == "--":
            break
        if option := OPTION.match(word):
            if option[0] not in options:
                return f"{command.name} has no option {option[0]}"
        elif commands and re.fullmatch(r"[a-z][a-z-]*", word):
            if word not in commands:
                return f"{command.name} has no command {word}"
            command = commands[word]
    return None


def typed(text: str) -> Iterator[tuple[str, list[str]]]:
    """Each call in a block as a shell takes it: the command, and its arguments."""
    for line in block_lines(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = list(lexer)
        except ValueError:  # a text that goes on in the next line, or an apostrophe
            continue
        for program in COMMANDS.keys() & words:
            following = words[words.index(program) + 1 :]
            yield program, list(takewhile(lambda word: not OPERATOR.match(word), following))


def refusal_of(program: str, arguments: list[str]) -> str | None:
    """What the command itself says of its arguments; None if it takes them."""
    command: Any = COMMANDS[program]
    context = None
    try:
        while True:
            context = command.make_context(command.name, arguments, parent=context)
            arguments = [*getattr(context, "_protected_args", []), *context.args]
            if not arguments or not hasattr(command, "commands"):
                return None
            _, command, arguments = command.resolve_command(context, arguments)
    except Exception as error:
        is_help = type(error).__name__ in ("Exit", "NoArgsIsHelpError")
        return None if is_help or "No such file" in str(error) else str(error)


def all_options(command: Any) -> Iterator[str]:
    """Those of a command and of all below it."""
    for each in command.params:
        yield from each.opts + each.secondary_opts
    for below in getattr(command, "commands", {}).values():
        yield from all_options(below)


@cache
def variables() -> set[str]:
    """Those that our code reads, the tests', or Compose."""
    modules = [path for folder in FOLDERS for path in folder.rglob("*.py")]
    texts = [
        path.read_text()
        for path in (*modules, ROOT / "Makefile", ROOT / "compose.yaml")
        if path != Path(__file__)
    ]
    return set(VARIABLE.findall("\n".join(texts)))


@cache
def known_tests() -> set[str]:
    """Their names, and those of their modules."""
    modules = list((ROOT / "tests").rglob("test_*.py"))
    functions = {
        name for path in modules for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    return functions | {path.stem for path in modules}


def anchors(document: Path) -> set[str]:
    """What a link to a heading of the document ends in."""
    headings = re.findall(r"^#+ (.*)$", FENCED.sub("", document.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading).strip() for heading in headings)
    return {heading.lower().replace(" ", "-") for heading in plain}


@each_document
def test_each_command_exists_with_its_options(document: Path) -> None:
    """In blocks and between backquotes."""
    found = [(call, wrong_in(*call)) for call in calls(document.read_text())]
    assert [(call, wrong) for call, wrong in found if wrong] == []


@each_document
def test_each_command_takes_its_arguments(document: Path) -> None:
    """Those of blocks: none is missing, too many or of a wrong kind. Files need not be there."""
    refused = [(*call, refusal_of(*call)) for call in typed(document.read_text())]
    assert [each for each in refused if each[2]] == []


@each_document
def test_an_option_that_stands_alone_exists(document: Path) -> None:
    """Some command has it."""
    known = {"--help"}.union(OF_OTHERS, *map(all_options, COMMANDS.values()))
    named = [span for span in spans(document.read_text()) if span.startswith("--")]
    assert {each for span in named for each in OPTION.findall(span)} - known == set()


@each_document
def test_each_variable_is_read(document: Path) -> None:
    """Each can also be that of a file."""
    named = VARIABLE.findall("\n".join(code(document.read_text())))
    assert {name for name in named if name.removesuffix("_FILE") not in variables()} == set()


@each_document
def test_each_target_of_make_exists(document: Path) -> None:
    """That stands at the beginning of a line."""
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = [target for line in code(document.read_text()) for target in TARGET.findall(line)]
    assert set(named) - set(targets) == set()


@each_document
def test_each_unit_exists(document: Path) -> None:
    """That systemctl or journalctl is told of."""
    units = {path.stem for path in (ROOT / "packaging").glob("*.service")}
    named = [unit for line in code(document.read_text()) for unit in UNIT.findall(line)]
    assert set(named) - units == set()


@each_document
def test_each_file_exists(document: Path) -> None:
    """Of modules, the name suffices."""
    named = {name for line in code(document.read_text()) for name in FILE.findall(line)}
    missing = {
        name
        for name in named - NOT_YET
        if not any((place / f"{name}{end}").exists() for place in BESIDE for end in ("", ".py"))
    }
    assert missing == set()


@each_document
def test_each_link_leads_somewhere(document: Path) -> None:
    """To a file, and in a document to a heading."""
    wrong = []
    for name, anchor in LINK.findall(FENCED.sub("", document.read_text())):
        target = document.parent / name if name else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append((name, anchor))
    assert wrong == []


@each_document
def test_each_test_exists(document: Path) -> None:
    """That is named as a proof."""
    named = {name for span in code(document.read_text()) for name in TEST.findall(span)}
    assert named - known_tests() == set()


@each_document
def test_no_shell_expands_a_name(document: Path) -> None:
    """If there is a user jane, `~jane/project` unquoted is a folder of hers."""
    typed = [arguments for _, arguments in calls(document.read_text())]
    assert [each for each in typed if TILDE.search(QUOTED.sub("TEXT", COMMENT.sub("", each)))] == []


def test_each_guarantee_has_a_number_of_its_own() -> None:
    """In order, as a list shows them whatever numbers its source has."""
    text = (ROOT / "docs" / "guarantees.md").read_text()
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize(
    "text",
    [
        "`mirror-consumer stauts`",
        "`mirror-consumer branches ad 1`",
        "`mirror-puller\nrun --job 3`",
        "```sh\ncd / && mirror-puller run \\\n    --job 3\n```\n",
        "```\nrunuser -u mirrorfeed -- mirror-publisher run --banch=1 -- true\n```\n",
    ],
)
def test_a_wrong_call_is_noticed(text: str) -> None:
    """Wherever it stands."""
    assert [wrong_in(*call) for call in calls(text)] != [None]


@pytest.mark.parametrize(
    ("line", "is_taken"),
    [
        ("cd / && mirror-publisher completed", False),
        ("mirror-publisher started one | cat", False),
        ("sudo -u x mirror-replay show 1 2 > file", False),
        ("mirror-consumer run --drain --idle", False),
        ("$ mirror-publisher started 1  # 2", True),
        ("mirror-publisher --help", True),
    ],
)
def test_what_a_command_would_refuse_is_noticed(line: str, is_taken: bool) -> None:
    """As a shell would pass it."""
    (call,) = typed(f"```sh\n{line}\n```\n")
    assert (refusal_of(*call) is None) == is_taken


@pytest.mark.parametrize(
    "text",
    [
        "`mirror-publisher run --branch 1 -- git fetch --all`",
        "`mirror-puller run … --hook '/bin/announce --quiet' --once`",
        "`ln -sf /opt/mirrorfeed/bin/mirror-* /usr/local/bin/`",
        "`mirror-replay list --group   # not --ungroup`",
        "`mirror-publisher status | grep --count x`",
    ],
)
def test_a_right_call_is_taken_for_one(text: str) -> None:
    """What is not ours is nobody's business."""
    assert {wrong_in(*call) for call in calls(text)} <= {None}
