"""Lists of AMQP URLs."""

import ssl
from pathlib import Path

import pytest
from tenacity import RetryCallState, Retrying, wait_exponential

from mirrorfeed.amqp.addresses import broker_addresses
from mirrorfeed.amqp.connections import after_each_round


def test_a_list_has_every_address_in_any_order() -> None:
    """This spreads the processes of many hosts over the nodes."""
    listed = "amqp://one, amqp://jane:a,b@two:5673/v?heartbeat=2,amqps://three"
    orders = {
        tuple(address.url for address in broker_addresses(listed, seed=seed)) for seed in range(20)
    }
    assert len(orders) == 6
    assert all(
        sorted(order) == ["amqp://jane:a,b@two:5673/v?heartbeat=2", "amqp://one", "amqps://three"]
        for order in orders
    )


def test_amqps_verifies_certificate_and_host_name() -> None:
    """By default it trusts the system's authorities."""
    (address,) = broker_addresses("amqps://host")
    assert address.tls is not None
    assert address.tls.verify_mode == ssl.CERT_REQUIRED
    assert address.tls.check_hostname
    (plain,) = broker_addresses("amqp://host")
    assert plain.tls is None


@pytest.mark.parametrize(
    ("urls", "says"),
    [
        ("", "the AMQP URL cannot be read .* one looks like"),
        ("http://jane:s3cret@host", "the AMQP URL cannot be read"),
        ("jane:s3cret@host:5672", "the AMQP URL cannot be read"),
        ("amqp://jane:s3cret@host:x", "the AMQP URL cannot be read"),
        ("amqp://s3cret,two", "cannot be read .* several have commas between them"),
        ("amqp://one,", "cannot be read"),
        ("amqp://s3cret@host", "cannot be read"),
        ("amqp://one,amqp://jane:s3cret@two:0", "AMQP URL 2 of 2 cannot be read"),
        ("amqps://jane:s3cret@host?verify=verify_none", "always verified"),
        ("amqps://jane:s3cret@host?ssl_options={}", "always verified"),
        ("amqp://jane:s3cret@host?cacertfile=/ca.pem", "cacertfile, which needs amqps"),
        ("amqps://jane:s3cret@host?certfile=/c.pem", "certfile and keyfile, or neither"),
        ("amqps://jane:s3cret@host?cacertfile=/nowhere/ca.pem", r"cacertfile=/nowhere/ca\.pem"),
    ],
)
def test_what_cannot_be_used_is_named(urls: str, says: str) -> None:
    """The error has a remedy and no password."""
    with pytest.raises(ValueError, match=says) as error:
        broker_addresses(urls)
    assert "s3cret" not in str(error.value)


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    """The error comes at once, not with the first connection."""
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(ValueError, match=f"cacertfile={file}"):
        broker_addresses(f"amqps://host?cacertfile={file}")


def test_a_pause_comes_after_a_whole_round() -> None:
    """A dead address costs one attempt and lengthens no pause."""
    wait = after_each_round(3, wait_exponential(multiplier=5))
    pauses = []
    for attempt in range(1, 7):
        state = RetryCallState(Retrying(), None, (), {})
        state.attempt_number = attempt
        pauses.append(wait(state))
    assert pauses == [0, 0, 5, 0, 0, 10]
