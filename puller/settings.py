"""How the puller mirrors: what its options say."""

from typing import Any

from msgspec import Struct

from mirrorfeed.puller.urls import DEFAULT_PROTOCOLS

GIB = 1024**3


class Settings(Struct, frozen=True, kw_only=True):
    """What `run` was told; it is kept beside the mirrors, so that `sync` does the same."""

    jobs: int = 8
    """How many branches are mirrored at once."""
    per_host: int = 2
    """How many of one host."""
    interval_seconds: float = 3600.0
    protocols: tuple[str, ...] = DEFAULT_PROTOCOLS
    stall_seconds: float = 600.0
    timeout_seconds: float = 6 * 3600.0
    stop_seconds: float = 30.0
    """How long a puller that is told to end waits for what runs."""
    max_mirror_bytes: int = 0
    """0 for any."""
    keep_free_bytes: int = GIB
    git_config: str = "/etc/mirrorfeed/puller.gitconfig"
    known_hosts: str = "/etc/mirrorfeed/known_hosts"
    ssh_key: str = "/etc/mirrorfeed/puller_key"
    """If it is there, the only key that is used."""
    hook: tuple[str, ...] = ()
    """A command and its arguments; empty for none."""
    hook_timeout_seconds: float = 60.0
    maintenance_seconds: float = 7 * 86_400.0
    """How often a mirror that changes is maintained; 0 for never."""

    def check(self) -> None:
        """Raises ValueError for what cannot be done."""
        for name in ("interval", "stall", "timeout", "hook_timeout"):
            if getattr(self, f"{name}_seconds") <= 0:
                raise ValueError(f"the {name.replace('_', ' ')} must be longer than 0s")

    def with_given(self, **given: Any) -> "Settings":
        """With those that are not None in place of these."""
        return Settings(
            **{
                name: getattr(self, name) if given.get(name) is None else given[name]
                for name in self.__struct_fields__
            }
        )
