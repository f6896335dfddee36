"""What operators do while everything runs. Each function returns once all is as it should be."""

from collections.abc import Callable

from sandbox import wait_until
from tests.faults.campaign.faults import (
    CALM_SECONDS,
    KEPT_SECONDS,
    FaultFailed,
    has_all_workers,
    hold,
)
from tests.faults.campaign.replica import Replica
from tests.faults.campaign.schedule import Fault, Kind
from tests.faults.campaign.stand import Stand


def move_partitions(stand: Stand, fault: Fault) -> None:
    """Changes their number to the fault's target."""
    must(stand, "mirror-consumer", "topology", "--partitions", str(fault.target))
    stand.partitions = fault.target
    wait_until(lambda: has_all_workers(stand), CALM_SECONDS, "a worker for every new partition")
    stand.ended.wait(KEPT_SECONDS)


def upgrade_services(stand: Stand, fault: Fault) -> None:
    """As an upgrade to the same version: the tables first, then each service, workers before
    pullers."""
    must(stand, "mirror-consumer", "init")
    for service in stand.services:
        if complaint := service.terminate():
            raise FaultFailed(complaint)
        service.start()
        if service in stand.workers:
            wait_until(lambda: has_all_workers(stand), CALM_SECONDS, f"{service.name} to subscribe")


def promote_standby(stand: Stand, fault: Fault) -> None:
    """The primary is lost as by a power cut, and later follows the one that took its place."""
    lost, standby = stand.database, stand.databases[1 - stand.primary]
    assert isinstance(lost, Replica)
    assert isinstance(standby, Replica)
    lost.kill()
    hold(stand, fault)
    standby.promote()
    stand.primary = 1 - stand.primary
    lost.follow(standby)


def must(stand: Stand, *arguments: str) -> None:
    """Runs one of the installed commands. Raises FaultFailed if it fails."""
    done = stand.run(*arguments)
    if done.returncode:
        raise FaultFailed(f"{' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}")


DOING: dict[Kind, Callable[[Stand, Fault], None]] = {
    Kind.PARTITIONS_MOVED: move_partitions,
    Kind.SERVICES_UPGRADED: upgrade_services,
    Kind.STANDBY_PROMOTED: promote_standby,
}
