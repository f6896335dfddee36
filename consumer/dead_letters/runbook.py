"""What an operator does about a letter, by its reason. `docs/operations.md` says the same."""

from msgspec import Struct

from mirrorfeed.contract.reasons import Reason


class Advice(Struct, frozen=True):
    """A row of the runbook. Commands in it are between backquotes."""

    meaning: str
    remedy: str


RUNBOOK: dict[Reason, Advice] = {
    Reason.UNKNOWN_BRANCH: Advice(
        "the branch is not registered",
        "`mirror-consumer branches add 404 NAME`, then `mirror-replay apply --branch "
        "404`. If it was removed on purpose: `mirror-replay discard --branch 404 --note "
        '"branch removed"`',
    ),
    Reason.FROM_THE_FUTURE: Advice(
        "one of its times is more than an hour ahead of the worker's clock",
        "correct the publisher's clock (and check the worker's). Wait until that time has"
        " come, then `apply`; or, if the time is right, `apply ID "
        "--future-tolerance-seconds 1e9`; or `edit ID` to correct it",
    ),
    Reason.REJECTED_BY_DATABASE: Advice(
        "a constraint or trigger in PostgreSQL refused it",
        "`detail` quotes the database. Fix the rule, then `mirror-replay apply --reason "
        "rejected-by-database`",
    ),
    Reason.DELIVERY_LIMIT: Advice(
        "four workers died of this message: the first with others in hand, the next as it tried all"
        " of those, the last two with nothing else in hand",
        "look at the workers' logs and `dmesg` (out of memory?), and at `show ID`. When "
        "that is fixed: `apply ID`",
    ),
    Reason.INVALID: Advice(
        "it breaks a rule of the contract, or was not published by a user that "
        "`--require-user` names",
        "`detail` names field, value and rule. Fix the publisher (`source` names the "
        "host); `EDITOR=vi mirror-replay edit ID` fixes one letter, then `apply ID`",
    ),
    Reason.UNKNOWN_TYPE: Advice(
        "the publisher is newer than this worker, or not ours",
        "update the worker, then `apply`; or `discard`",
    ),
    Reason.MALFORMED: Advice(
        "it is not a JSON object in UTF-8",
        "`headers` and `show ID` tell where it came from; `edit ID --body-file FILE` or `discard`",
    ),
    Reason.TOO_LARGE: Advice(
        "it is more than 64 KiB",
        "`headers` and `show ID` tell where it came from; `edit ID --body-file FILE` or `discard`",
    ),
}
