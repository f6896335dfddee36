"""No password leaves a puller host."""

import pytest

from mirrorfeed.contract.secrets import mask_secrets


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("fatal: https://jane:s3cret@host/x", "fatal: https://jane:***@host/x"),
        ("amqp://guest:gu@es@t@host:1/ is away", "amqp://guest:***@host:1/ is away"),
        ("https://jane:sl/ash@host/x", "https://jane:***@host/x"),
        ("https://ghp_token@host/x", "https://***@host/x"),
        ("'https://jane:s3cret@host/a@b'", "'https://jane:***@host/a@b'"),
        ("https://:s3cret@host", "https://:***@host"),
        (
            "postgresql://host/x?user=jane&password=s3cret",
            "postgresql://host/x?user=jane&password=***",
        ),
        ("a https://a:b@c and sftp://d:e@f", "a https://a:***@c and sftp://d:***@f"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, masked: str) -> None:
    """Whatever characters people put into passwords."""
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/path@v1",
        "https://host/path@v1",
        "ssh://git@host/x",
        "mail jane@example.org at 12:30",
        "no url: a:b@c",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    """A reader needs the rest to find the trouble."""
    assert mask_secrets(text) == text


@pytest.mark.parametrize(
    "text", ["x" * 65536, "a://b:" * 10_000, "http://a:" * 7_000, "a://" * 16_000, "://" * 20_000]
)
def test_no_text_takes_long_to_search(text: str) -> None:
    """A command's output may be hostile; a quadratic search would stall this for a minute."""
    assert mask_secrets(text) == text
