"""No password and no token leaves a puller host."""

import subprocess
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirrorfeed.contract.events import shown
from mirrorfeed.contract.secrets import mask_secrets, masked_start

FRAGMENTS = st.sampled_from(
    [
        *("://", "%3A%2F%2F", "@", "%40", ":", "/", " ", "'", '"', "=", "?", "&", "a", "a+", "é"),
        *("http", "https://", "user:pw@", "password=", "token=", "?key=", "key", "-secret"),
        *("Bearer ", "Basic ", "Authorization: ", "--password ", "%26", "%2", "***", "s3cret"),
    ]
)
SHORT, LONG = 3_000, 48_000
QUADRATIC = (LONG / SHORT) ** 2


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("fatal: https://jane:s3cret@host/x", "fatal: https://***@host/x"),
        ("https://jane:sl/ash@host/x", "https://***@host/x"),
        ("https://s3cret@host/x", "https://***@host/x"),
        ("https://s3cret:x-oauth-basic@host", "https://***@host"),
        ("https://s3cret:@host", "https://***@host"),
        ("https://:s3cret@host", "https://***@host"),
        ("HTTPS://jane@corp.example:s3cret@host/x", "HTTPS://***@host/x"),
        (f"https://{'n' * 5000}:s3cret@host", "https://***@host"),
        ("'https://jane:s3cret@host/a@b'", "'https://***@host/a@b'"),
        ("to=https%3A%2F%2Fjane%3As3cret%40host%2Fx&a=1", "to=https%3A%2F%2F***%40host%2Fx&a=1"),
        ("amqp://guest:gu@es@t@host:1/ is away", "amqp://guest:***@host:1/ is away"),
        ("amqp://jane@corp.example:s3cret@host", "amqp://jane@corp.example:***@host"),
        ("a https://a:b@c and sftp://d:e@f", "a https://***@c and sftp://d:***@f"),
    ],
)
def test_what_proves_who_one_is_is_masked_in_urls(text: str, masked: str) -> None:
    """All of an HTTP URL's userinfo, where tokens stand in either half; else the password."""
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    "name",
    [
        *("token", "access_token", "private_token", "X-Amz-Security-Token", "api_key", "apikey"),
        *("key", "secret", "client_secret", "sig", "signature", "X-Amz-Signature", "password"),
        *("passwd", "pwd", "X-Amz-Credential"),
    ],
)
def test_what_a_parameters_name_calls_secret_is_masked(name: str) -> None:
    """In a query, in a path, and percent-encoded."""
    assert mask_secrets(f"https://host/x?a=1&{name}=s3cret&b=2") == (
        f"https://host/x?a=1&{name}=***&b=2"
    )
    assert "s3cret" not in mask_secrets(f"'https://host/x;{name}=s3cret/y'")
    assert "s3cret" not in mask_secrets(f"https%3A%2F%2Fhost%3Fb_{name}%3Ds3cret%26b")


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("host=db password='my s3cret' user=x", "host=db password=*** user=x"),
        ("password=s3cret", "password=***"),
        ('{"password": "s3cret", "a": 1}', '{"password": ***, "a": 1}'),
        ("mysql --password s3cret -u x", "mysql --password *** -u x"),
        ("Authorization: Basic czNjcmV0", "Authorization: Basic ***"),
        ("authorization: s3cret", "authorization: ***"),
        ("-H 'AUTHORIZATION: bearer s3cret'", "-H 'AUTHORIZATION: bearer ***'"),
        ("sent Bearer eyJhbGci.s3cret", "sent Bearer ***"),
        ("PRIVATE-TOKEN: s3cret", "PRIVATE-TOKEN: ***"),
    ],
)
def test_secrets_outside_of_urls_are_masked(text: str, masked: str) -> None:
    """As programs print them: libpq's keywords, JSON, arguments, headers."""
    assert mask_secrets(text) == masked


def test_a_command_line_in_an_exception_is_masked() -> None:
    """Python quotes the whole of it, and the exception's text becomes the reason."""
    error = subprocess.CalledProcessError(128, ["git", "clone", "https://s3cret@host/x"])
    assert mask_secrets(str(error)) == (
        "Command '['git', 'clone', 'https://***@host/x']' returned non-zero exit status 128."
    )
    error.cmd = ["login", "--password", "s3cret"]
    assert "s3cret" not in mask_secrets(str(error))


def test_a_token_in_real_gits_error_is_masked() -> None:
    """git quotes the URL that it could not use, query and all."""
    url = "http://jane:s3cret@127.0.0.1:1/x?access_token=s3cret"
    result = subprocess.run(["git", "ls-remote", url], capture_output=True, text=True, check=False)
    assert "access_token=s3cret" in result.stderr
    assert "s3cret" not in mask_secrets(result.stderr)


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/path@v1",
        "https://host/path@v1",
        "ssh://git@host/x",
        "mail jane@example.org at 12:30",
        "no url: a:b@c",
        "remote: HTTP Basic: Access denied",
        "Basic authentication failed, Bearer token expired",
        "password authentication failed for user jane",
        "the token is missing: monkey=banana, key=x",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    """A reader needs the rest to find the trouble."""
    assert mask_secrets(text) == text


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
def test_what_is_masked_stays_masked(text: str) -> None:
    """A reason may come by several hands, each of which masks."""
    once = mask_secrets(text)
    assert mask_secrets(once) == once


@settings(max_examples=50)
@given(st.lists(FRAGMENTS, min_size=1, max_size=6).map("".join))
def test_time_follows_length(pattern: str) -> None:
    """Whatever is repeated in it: sixteen times as long takes sixteen times as long, not 256."""
    short, long = (pattern * (size // len(pattern) + 1) for size in (SHORT, LONG))
    assert min(map(_seconds, [long] * 3)) < 0.2 * QUADRATIC * max(
        min(map(_seconds, [short] * 3)), 2e-4
    )


def _seconds(text: str) -> float:
    began = time.thread_time()
    mask_secrets(text)
    return time.thread_time() - began


@given(
    st.integers(0, 300),
    st.sampled_from(["https://jane:s3cret@host", "?token=s3cret", "Bearer s3cret", "a:s3cret"]),
    st.booleans(),
)
def test_a_cut_leaves_no_part_of_a_secret(length: int, secret: str, has_words: bool) -> None:
    """Of a word that is cut nothing is kept from where a secret in it may begin."""
    text = ("word " if has_words else "") + "x" * length + " " * has_words + secret + "y" * 1000
    for size in range(1, 200, 7):
        assert "s3c" not in masked_start(text, size)


def test_a_quoted_value_is_cut_before_it_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """So an error about a huge value costs no more than one about a small one."""
    searched: list[int] = []

    def noted(text: str, length: int) -> str:
        searched.append(len(text))
        return masked_start(text, length)

    monkeypatch.setattr("mirrorfeed.contract.events.masked_start", noted)
    assert shown("a+" * 500_000).endswith("… (1,000,000 characters)")
    assert shown(b"x" * 5_000).endswith("… (5,000 bytes)")
    assert max(searched) <= 1_010
