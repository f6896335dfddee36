"""How a service waits to be told to end."""

import os
import signal
import subprocess
import sys

import pytest

from tests.servers import PATIENCE_SECONDS

SERVICE = """
import signal, threading
from mirrorfeed.contract.ending import ended_by
told = ended_by((signal.SIGTERM, signal.SIGINT))
busy = threading.Thread(target=threading.Event().wait, daemon=True)
busy.start()
print("ready", flush=True)
while not told.wait(3600):
    pass
print("told", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_wakes_a_service_that_does_not_look(number: signal.Signals) -> None:
    """It would look in an hour. Being frozen and continued is no reason to end."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "ready\n"
            for each in (signal.SIGSTOP, signal.SIGCONT):
                os.kill(service.pid, each)
            assert service.poll() is None
            service.send_signal(number)
            output, errors = service.communicate(timeout=PATIENCE_SECONDS)
        finally:
            service.kill()
    assert (service.returncode, output, errors) == (0, "told\n", "")
