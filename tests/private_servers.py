"""Which tests take private servers even where a container engine answers, and why.

All others take what the environment names, else containers, else private servers: see
`sandbox/servers.py`.
"""

ALWAYS_PRIVATE = {
    "acceptance/test_passwords.py": "gives PostgreSQL a pg_hba.conf",
    "acceptance/test_rights.py": "makes users with rabbitmqctl",
    "acceptance/test_standby.py": "makes a standby of PostgreSQL's folder",
    "acceptance/test_tls.py": "gives both servers certificates",
    "attacks/test_dead_lettering.py": "breaks a broker on which no other test may run",
    "attacks/test_memory.py": "makes users with rabbitmqctl",
    "faults/campaign/": "kills and freezes single processes, on three broker nodes or one",
    "integration/test_sandbox.py": "is about private servers",
    "integration/test_sandbox_errors.py": "is about private servers",
}
"""Test modules and folders below tests/."""
