"""Connections to RabbitMQ, made the same way on both sides."""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import AMQPError, ChannelClosedByBroker, NoFreeChannels
from tenacity import RetryCallState
from tenacity.wait import WaitBaseT

from mirrorfeed.amqp.addresses import BrokerAddress, broker_addresses
from mirrorfeed.contract.environment import newest

CONNECT_TIMEOUT_SECONDS = 10
HEARTBEAT_SECONDS = 30
BLOCKED_SECONDS = 60
"""A broker that blocks publishers because it is short of memory does not check heartbeats."""
ACCESS_REFUSED = 403
NOT_FOUND = 404
PRECONDITION_FAILED = 406


class BrokerUnavailable(Exception):
    """The broker cannot be reached, or refuses a request."""


class TooFewChannels(ValueError):
    """The AMQP URL or the broker limits the channels of a connection to fewer than are needed."""

    def __init__(self, limit: int, needed: int) -> None:
        super().__init__(
            f"a connection to the broker may open only {limit} of the {needed} channels that are"
            " needed: raise channel_max in the AMQP URL or in the broker's configuration"
        )


def connection_parameters(amqp_urls: str, *, name: str = "mirrorfeed") -> list[pika.URLParameters]:
    """One for each URL in the list; the broker's management page shows `name`.

    Raises ValueError, without a password, for a URL that cannot be read.
    """
    return [_parameters(address, name) for address in broker_addresses(amqp_urls)]


class Addresses:
    """The addresses in a list of URLs, in turn and without end.

    If the list came from a file, that is read again for each, as are the files that a URL names: so
    a new password or certificate counts from the next connection on.
    """

    def __init__(self, amqp_urls: str, *, name: str) -> None:
        """Raises ValueError, without a password, for a URL that cannot be read."""
        self._urls = amqp_urls
        self._name = name
        self._seed = random.random()  # noqa: S311  no secret
        self._turn = 0
        self.count = len(self._read())

    def __next__(self) -> pika.URLParameters:
        """Raises BrokerUnavailable if the files cannot be read now."""
        try:
            parameters = self._read()
        except ValueError as error:
            raise BrokerUnavailable(str(error)) from error
        turn, self._turn = self._turn, self._turn + 1
        return parameters[turn % len(parameters)]

    def _read(self) -> list[pika.URLParameters]:
        addresses = broker_addresses(newest(self._urls), seed=self._seed)
        return [_parameters(address, self._name) for address in addresses]


def _parameters(address: BrokerAddress, name: str) -> pika.URLParameters:
    parameters = pika.URLParameters(address.url)
    if address.tls is not None:
        parameters.ssl_options = pika.SSLOptions(address.tls, parameters.host)
    parameters.connection_attempts = 1
    parameters.socket_timeout = parameters.stack_timeout = CONNECT_TIMEOUT_SECONDS
    if parameters.heartbeat is None:
        parameters.heartbeat = HEARTBEAT_SECONDS
    if parameters.blocked_connection_timeout is None:
        parameters.blocked_connection_timeout = BLOCKED_SECONDS
    parameters.client_properties = {"connection_name": name}
    return parameters


@contextmanager
def broker_channel(addresses: Sequence[pika.URLParameters]) -> Iterator[BlockingChannel]:
    """A channel on a new connection to the first address that answers.

    Raises BrokerUnavailable, or TooFewChannels if the block opens another one.
    """
    try:
        connection = _Connection(addresses)
        try:
            yield connection.channel()
        finally:
            if connection.is_open:
                connection.close()
    except NoFreeChannels as error:
        raise TooFewChannels(1, 2) from error
    except (AMQPError, AMQPConnectorException, OSError) as error:
        where = ", ".join(f"{each.host}:{each.port}" for each in addresses)
        raise BrokerUnavailable(
            f"the broker at {where} cannot be used: {every_reason(error)}"
        ) from error


class _Connection(pika.BlockingConnection):  # type: ignore[misc]  # pika has no types
    """If connecting fails, the error has what each address said, not just the last one."""

    @staticmethod
    def _reap_last_connection_workflow_error(error: BaseException) -> BaseException:
        return error


def why_unreachable(address: pika.URLParameters, error: BaseException) -> str:
    """Why a connection to the address could not be made, or did not last."""
    return f"{address.host}:{address.port}: {every_reason(error)}"


def every_reason(error: BaseException) -> str:
    """Why connecting failed, from pika's error.

    A host name may stand for several addresses, such as ::1 and 127.0.0.1, and the answer of any of
    them may be the one that matters; pika's own text has at most two.
    """
    attempts = error.args[0] if error.args and hasattr(error.args[0], "exceptions") else error
    return "; ".join(dict.fromkeys(map(repr, getattr(attempts, "exceptions", [error]))))


def broker_version(channel: BlockingChannel) -> tuple[int, ...]:
    """As the broker said it when the connection was opened, such as (4, 0, 5); empty if unknown."""
    opened = getattr(channel.connection, "_impl", None)
    properties = getattr(opened, "server_properties", None) or {}
    return tuple(map(int, re.findall(r"\d+", str(properties.get("version", "")))[:3]))


def message_count(channel: BlockingChannel, queue: str) -> int:
    """How many messages wait in the queue, not counting those that a worker holds."""
    count: int = channel.queue_declare(queue, passive=True).method.message_count
    return count


def consumer_count(channel: BlockingChannel, queue: str) -> int:
    """How many workers the broker serves from a queue: at most one of those subscribed."""
    count: int = channel.queue_declare(queue, passive=True).method.consumer_count
    return count


def ask_for_queues(
    addresses: Sequence[pika.URLParameters], queues: Iterable[str]
) -> dict[str, tuple[int, int]]:
    """For each of the queues that exists: how many messages wait in it, and how many workers the
    broker serves from it. Raises BrokerUnavailable."""
    with broker_channel(addresses) as channel:
        return count_queues(channel, queues)[0]


def count_queues(
    channel: BlockingChannel, queues: Iterable[str]
) -> tuple[dict[str, tuple[int, int]], BlockingChannel]:
    """The same through this channel, and the channel to go on with: the broker closes one that was
    asked for a queue which is not there. For within a block of `broker_channel`."""
    found: dict[str, tuple[int, int]] = {}
    for queue in queues:
        try:
            said = channel.queue_declare(queue, passive=True).method
        except ChannelClosedByBroker as error:
            if error.reply_code != NOT_FOUND:
                raise
            channel = channel.connection.channel()
        else:
            found[queue] = said.message_count, said.consumer_count
    return found, channel


def after_each_round(addresses: int, wait: WaitBaseT) -> Callable[[RetryCallState], float]:
    """Waits only after all addresses have been tried; until then the next one is tried at once. A
    wait that would grow with the attempts grows with the rounds."""

    def wait_after_round(state: RetryCallState) -> float:
        rounds, rest = divmod(state.attempt_number, addresses)
        if rest:
            return 0.0
        round_state = copy(state)
        round_state.attempt_number = rounds
        return wait(round_state)

    return wait_after_round
