"""The list of branches, read as a whole or not at all."""

import time
from pathlib import Path

import pytest

from mirrorfeed.contract.branch_columns import OF_PULLERS
from mirrorfeed.puller.branch_list import Branch, Vcs, file_state, read_branch_list
from mirrorfeed.puller.errors import BadBranchList


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "branches.csv"


def test_a_list_is_that_of_branches_import(path: Path) -> None:
    """Lines without a URL are not mirrored; what only the register needs is passed over."""
    path.write_text(
        "id,unique_name,url,last_mirrored_id,mirror_failures\n"
        "1,~jane/project/main,https://example.org/a,rev-1,0\n"
        "2,~jane/project/hosted,,,\n"
    )
    found = read_branch_list(path)
    assert found.branches == {1: Branch(1, "~jane/project/main", "https://example.org/a")}
    assert found.without_url == 1


def test_a_line_may_say_how_its_branch_is_mirrored(path: Path) -> None:
    """In columns that other branches leave empty."""
    path.write_text(
        "id,unique_name,url,vcs,interval,refs\n"
        "1,a,https://example.org/a,,,\n"
        "2,b,https://example.org/b,git,6h,all\n"
        "3,c,https://example.org/c,bzr,,\n"
        "4,d,bzr+ssh://example.org/d,,,\n"
    )
    a, b, c, d = read_branch_list(path).branches.values()
    assert (a.vcs, a.interval_seconds, a.has_all_refs) == (Vcs.GIT, None, False)
    assert (b.vcs, b.interval_seconds, b.has_all_refs) == (Vcs.GIT, 6 * 3600, True)
    assert (c.vcs, d.vcs) == (Vcs.BZR, Vcs.BZR)
    assert {"vcs", "interval", "refs"} == OF_PULLERS


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "must begin with a heading"),
        ("id,url\n1,x\n", "must begin with a heading"),
        ("id,unique_name,url,colour\n1,a,u,red\n", "must begin with a heading"),
        ("id,unique_name,url,url\n1,a,u,u\n", "each once"),
        ("id,unique_name,url\n1,a\n", "line 2: expected 3 fields, got 2"),
        ("id,unique_name,url\n1,a,u\n\nx,b,u\n", "line 4: id 'x' is not a number"),
        ("id,unique_name,url\n0,a,u\n", "line 2: branch_id must be"),
        ("id,unique_name,url\n9223372036854775808,a,u\n", "line 2: branch_id must be"),
        ("id,unique_name,url\n1,,u\n", "line 2: unique_name must not be empty"),
        ("id,unique_name,url\n1,a,u\n1,b,u\n", "line 3: id 1 is there twice"),
        ("id,unique_name,url\n1,a,u\n2,a,u\n", "line 3: the name 'a' is there twice"),
        ("id,unique_name,url,vcs\n1,a,u,svn\n", "vcs 'svn' is neither git nor bzr"),
        ("id,unique_name,url,refs\n1,a,u,some\n", "refs 'some' is not known"),
        ("id,unique_name,url,interval\n1,a,u,soon\n", "the duration 'soon' cannot be read"),
        ("id,unique_name,url,interval\n1,a,u,0s\n", "the interval '0s' is nothing"),
        ('id,unique_name,url\n1,"a,u\n', "cannot be read"),
    ],
)
def test_a_wrong_line_spoils_the_whole_list(path: Path, text: str, complaint: str) -> None:
    """The error names the file, the line, and what is wrong with it."""
    path.write_text(text)
    with pytest.raises(BadBranchList, match=r"branches\.csv") as error:
        read_branch_list(path)
    assert complaint in str(error.value)


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"id,unique_name,url\n1,a\0b,u\n"])
def test_junk_is_no_list(path: Path, body: bytes) -> None:
    """It is refused as any other mistake is."""
    path.write_bytes(body)
    with pytest.raises(BadBranchList):
        read_branch_list(path)


def test_a_changed_file_is_noticed(path: Path) -> None:
    """Also one of the same size, and one that replaced it."""
    path.write_text("id,unique_name,url\n")
    before = file_state(path)
    assert read_branch_list(path).file == before
    path.with_suffix(".new").write_text("id,unique_name,url\n")
    path.with_suffix(".new").replace(path)
    assert file_state(path) != before
    path.unlink()
    assert file_state(path) is None


def test_ten_thousand_lines_are_read_at_once(path: Path) -> None:
    """In a fraction of a second."""
    lines = (f"{number},~jane/p{number},https://h{number % 99}.example.org/{number}\n"
             for number in range(1, 10_001))  # fmt: skip
    path.write_text("id,unique_name,url\n" + "".join(lines))
    began = time.process_time()
    assert len(read_branch_list(path).branches) == 10_000
    assert time.process_time() - began < 0.5
