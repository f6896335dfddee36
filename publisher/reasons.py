"""Any text as the reason of a failure: fit to be stored, and without secrets."""

from contract.events import MAX_REASON_LENGTH
from contract.secrets import mask_secrets


def reason_from(text: str) -> str:
    """The text with passwords masked, without what no event can hold, and cut to its longest."""
    storable = text.replace("\0", "").encode(errors="replace").decode()
    return mask_secrets(storable)[:MAX_REASON_LENGTH]
