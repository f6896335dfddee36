"""`docker compose up`, as Compose itself understands the file."""

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mirrorfeed.consumer.web.passwords import Users
from mirrorfeed.contract import environment
from mirrorfeed.contract.probe_server import serving
from mirrorfeed.contract.probes import Probes
from mirrorfeed.contract.wire import MAX_READABLE_BYTES
from mirrorfeed.puller.commands.options import DEFAULT_INTO
from mirrorfeed.puller.process import KILL_AFTER_SECONDS
from mirrorfeed.puller.settings import Settings
from sandbox.containers import POSTGRESQL_IMAGE, RABBITMQ_IMAGE
from sandbox.ports import LOOPBACK
from tests.commands import Shell
from tests.stub_service import Stub

ROOT = Path(__file__).parents[2]
ENDS_SECONDS = 10.0
"""How long a worker may take to end (guarantee 13)."""
VOLUMES = {"postgres": "/var/lib/postgresql/data", "rabbitmq": "/var/lib/rabbitmq"}
"""What images declare, by repository: Docker makes an anonymous volume for what is not mounted."""
ONCE = ("setup", "roles")
OURS = ("setup", "consumer", "web", "operator", "publisher", "puller")
IMAGES = {"setup": "mirrorfeed", "puller": "mirrorfeed-puller"}
"""Who builds which."""
SECRETS = ROOT / "packaging" / "compose" / "secrets.yaml"


def compose(variables: Mapping[str, str] = {}, *files: Path, root: Path = ROOT) -> Any:
    """The files as Compose reads them, which refuses what it does not know; all profiles."""
    result = subprocess.run(
        [
            Path(sys.executable).with_name("docker-compose"),
            *("--env-file", "/dev/null", "--profile", "*", "--project-directory", root),
            *(word for file in (ROOT / "compose.yaml", *files) for word in ("--file", file)),
            *("config", "--format", "json"),
        ],
        env=variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout)


def seconds(duration: str) -> float:
    """Of one that Compose has normalised, such as 1m30s."""
    minutes, rest = re.fullmatch(r"(?:(\d+)m)?(?:(\d+)s)?", duration).groups("0")  # type: ignore[union-attr]
    return 60 * int(minutes) + int(rest)


def url_of(service: dict[str, Any], variable: str) -> tuple[str | None, str | None]:
    """User and password of the URL in a variable."""
    url = urlsplit(service["environment"][variable])
    return url.username, url.password


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services with nothing set in the environment."""
    found = compose()["services"]
    assert isinstance(found, dict)
    return found


def test_ports_are_of_this_host_only(services: dict[str, Any]) -> None:
    """Docker publishes to every interface unless told otherwise."""
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}
    usual = {str(urlsplit(environment.DEFAULT_AMQP_URL).port), "5432"}
    assert usual <= {port["published"] for port in published}


def test_each_port_can_be_another_one() -> None:
    """Something else may have it."""
    others = {
        "POSTGRES_PORT": "1",
        "RABBITMQ_PORT": "2",
        "RABBITMQ_MANAGEMENT_PORT": "3",
        "WEB_PORT": "4",
    }
    services = compose(others)["services"].values()
    published = [port["published"] for service in services for port in service.get("ports", [])]
    assert sorted(published) == ["1", "2", "3", "4"]


def test_postgresql_is_asked_for_the_database_it_makes(services: dict[str, Any]) -> None:
    """The user and the database of the health check are those that exist."""
    check = services["postgres"]["healthcheck"]["test"]
    made = services["postgres"]["environment"]
    assert check[check.index("-U") + 1] == made["POSTGRES_USER"]
    assert check[check.index("-d") + 1] == made["POSTGRES_DB"]


def test_the_worker_begins_when_all_it_needs_is_there(services: dict[str, Any]) -> None:
    """Servers answer before they are set up, and everything is set up before it runs."""
    needed, found = ["consumer"], set()
    while needed:
        for name, each in services[needed.pop()].get("depends_on", {}).items():
            is_server = "healthcheck" in services[name]
            expected = "service_healthy" if is_server else "service_completed_successfully"
            assert each["condition"] == expected, name
            found.add(name)
            needed.append(name)
    assert found == {"postgres", "rabbitmq", *ONCE}


@pytest.mark.parametrize("service", ["setup", "consumer", "publisher", "puller"])
def test_a_service_runs_a_command_of_ours(services: dict[str, Any], service: str) -> None:
    """One that exists and takes these arguments."""
    Shell({}).run(*services[service]["command"], "--help")


@pytest.mark.parametrize("variable", ["WEB_PASSWORD", "WEB_PASSWORD_FILE"])
def test_the_page_asks_for_the_password_that_was_set(
    services: dict[str, Any], variable: str, tmp_path: Path
) -> None:
    """From the environment or from a file; other hosts' containers can reach it."""
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    shell, option, script = services["web"]["command"]
    script = script.replace("$$", "$").replace("/tmp/", f"{tmp_path}/").replace("exec ", "echo ")
    printed = subprocess.run(
        [shell, option, script],
        env={
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "WEB_PASSWORD": "correct horse",
            **({variable: str(file)} if variable.endswith("_FILE") else {}),
        },
        capture_output=True,
        encoding="utf-8",
        check=True,
    ).stdout
    words = printed.split()
    assert words[:2] == ["mirror-consumer", "web"]
    Shell({}).run(*words, "--help")
    assert Users(Path(words[-1])).are("operator", "correct horse")


@pytest.mark.parametrize("service", ONCE)
def test_what_cannot_be_set_up_ends(services: dict[str, Any], service: str) -> None:
    """Else `up` would wait for it for ever."""
    assert re.fullmatch(r"on-failure:\d", services[service]["restart"])


def test_the_worker_has_time_to_settle_its_batch(services: dict[str, Any]) -> None:
    """Docker waits longer than a worker takes, and starts one that died again."""
    assert seconds(services["consumer"]["stop_grace_period"]) > ENDS_SECONDS
    assert services["consumer"]["restart"] == "unless-stopped"


def test_data_outlives_the_containers(services: dict[str, Any]) -> None:
    """RabbitMQ finds its data again only under the host name it had; so does a spool its source."""
    for service in ("postgres", "rabbitmq", "publisher", "puller"):
        assert services[service]["volumes"][0]["type"] == "volume"
    assert services["rabbitmq"]["hostname"] == "rabbitmq"
    for service in ("publisher", "puller"):
        spool = services[service]["environment"][environment.SPOOL]
        assert str(Path(spool).parent) == services[service]["volumes"][0]["target"]
        assert services[service]["hostname"] == service
    mirrors = services["puller"]["volumes"][1]
    assert (mirrors["type"], mirrors["target"]) == ("volume", str(DEFAULT_INTO))


def test_no_container_has_an_anonymous_volume(services: dict[str, Any]) -> None:
    """Each `up` and `down` would leave one behind."""
    repositories = {name: each["image"].partition(":")[0] for name, each in services.items()}
    assert set(repositories.values()) == {*VOLUMES, *IMAGES.values()}
    for name, repository in repositories.items():
        if repository in VOLUMES:
            service = services[name]
            mounted = [volume["target"] for volume in service["volumes"]] + service.get("tmpfs", [])
            assert VOLUMES[repository] in mounted, name


def test_images_are_pinned_to_the_patch(services: dict[str, Any]) -> None:
    """An upgrade is a commit, and the tests run with what it brings."""
    images = {service["image"] for name, service in services.items() if name not in OURS}
    assert images == {POSTGRESQL_IMAGE, RABBITMQ_IMAGE}
    for image in images:
        assert re.search(r":\d+(\.\d+)+-", image)


def test_each_image_that_is_ours_is_built_once(services: dict[str, Any]) -> None:
    """`up` renews it for commands, too; if each built its own, the last one would win."""
    assert {services[name]["image"] for name in OURS} == set(IMAGES.values())
    assert {name: services[name]["image"] for name in OURS if "build" in services[name]} == IMAGES
    for name in IMAGES:
        assert services[name]["pull_policy"] == "build"


def test_the_puller_is_built_with_git_and_has_time_to_end(services: dict[str, Any]) -> None:
    """Docker waits longer than it waits for what it has started."""
    assert services["puller"]["build"]["target"] == "puller"
    ends = Settings().stop_seconds + KILL_AFTER_SECONDS
    assert seconds(services["puller"]["stop_grace_period"]) > ends


def test_every_container_has_limits(services: dict[str, Any]) -> None:
    """Of memory, processes and logs."""
    for service in services.values():
        assert int(service["mem_limit"]) <= 1024**3
        assert service["pids_limit"] <= 256
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}


def test_every_container_has_few_rights(services: dict[str, Any]) -> None:
    """None can gain more, and what is ours has none and cannot change its files."""
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
    for name in OURS:
        assert services[name]["read_only"] is True
        assert "cap_add" not in services[name]


def test_health_checks_are_rare_and_end_by_themselves(services: dict[str, Any]) -> None:
    """Docker counts one that takes too long as failed, but a limit of its own says why."""
    checks = [service["healthcheck"] for service in services.values() if "healthcheck" in service]
    assert len(checks) == 5
    for check in checks:
        limit = next(int(word) for word in check["test"] if word.isdigit())
        assert limit < seconds(check["timeout"])
        assert seconds(check["interval"]) >= 30
        # The first one comes soon all the same.
        assert seconds(check["start_interval"]) < 5 < seconds(check["start_period"])


@pytest.mark.parametrize("service", ["consumer", "publisher", "puller"])
def test_a_container_is_healthy_if_its_own_process_is_live(
    services: dict[str, Any], service: str
) -> None:
    """Not if it is ready, nor if others are; and what is wrong is shown."""
    asked = services[service]["environment"][environment.HTTP]
    _, *check = services[service]["healthcheck"]["test"]
    stub = Stub()
    with serving(f"{LOOPBACK}:0", Probes(stub)) as port:
        host, _, inside = asked.partition(":")
        assert (host, f"/dev/tcp/{host}/{inside}\n" in check[-1]) == (LOOPBACK, True)
        # `config` prints what Compose would read again.
        check[-1] = check[-1].replace(inside, str(port)).replace("$$", "$")

        def checked() -> tuple[int, str]:
            result = subprocess.run(check, capture_output=True, text=True, check=False)
            return result.returncode, result.stdout

        stub.waits = "the broker is away"
        assert checked() == (0, "live\n")
        stub.hangs = "it hangs"
        assert checked() == (1, "not live: it hangs\n")
    assert checked()[0] == 1


def test_commands_do_not_set_everything_up_again(services: dict[str, Any]) -> None:
    """`docker compose run` first starts what a service depends on."""
    assert "depends_on" not in services["operator"]


@pytest.mark.parametrize(
    ("variables", "database_password", "broker_password"),
    [
        ({}, "mirrorfeed", "mirrorfeed"),
        ({"POSTGRES_PASSWORD": "pg0", "RABBITMQ_PASSWORD": "mq0"}, "pg0", "mq0"),
    ],
)
def test_everybody_has_a_user_that_the_server_has(
    variables: dict[str, str], database_password: str, broker_password: str
) -> None:
    """The worker's user owns nothing, and passwords come from the environment."""
    read = compose({**variables, environment.PARTITIONS: "8"})
    services, configs = read["services"], read["configs"]
    users = json.loads(configs["rabbitmq-users"]["content"])["users"]
    assert {user["name"] for user in users} == {"puller", "worker", "setup"}
    assert {user["password"] for user in users} == {"@PASSWORD@"}
    assert "//@PASSWORD@/$${RABBITMQ_PASSWORD-}" in services["rabbitmq"]["entrypoint"][2]
    assert services["rabbitmq"]["environment"]["RABBITMQ_PASSWORD"] == broker_password
    assert services["postgres"]["environment"]["POSTGRES_PASSWORD"] == database_password
    assert services["roles"]["environment"]["NEW_PASSWORD"] == database_password
    for role in ("mirrorfeed", "worker", "operator", "reader"):
        assert f"ALTER ROLE {role} PASSWORD :'password';" in configs["passwords"]["content"]
    for service, database_user in (
        ("consumer", "worker"),
        ("web", "reader"),
        ("operator", "operator"),
    ):
        user = (database_user, database_password)
        assert url_of(services[service], environment.DATABASE_URL) == user
    for service, broker_user in (
        ("setup", "setup"),
        ("consumer", "worker"),
        ("web", "worker"),
        ("operator", "setup"),  # docs/security.md: for mirror-consumer topology --partitions
        ("publisher", "puller"),
        ("puller", "puller"),
    ):
        assert url_of(services[service], environment.AMQP_URL) == (broker_user, broker_password)
    for service in ("setup", "consumer"):
        assert services[service]["environment"][environment.PARTITIONS] == "8"


def test_the_owner_needs_no_password_to_get_a_new_one(services: dict[str, Any]) -> None:
    """It comes through PostgreSQL's socket, so a new POSTGRES_PASSWORD is not refused."""
    sockets = {
        name: volume["target"]
        for name, service in services.items()
        for volume in service.get("volumes", [])
        if volume["source"] == "postgres-socket"
    }
    assert sockets == dict.fromkeys(("postgres", *ONCE), "/var/run/postgresql")
    assert (
        urlsplit(services["setup"]["environment"][environment.DATABASE_URL]).netloc == "mirrorfeed@"
    )
    assert services["roles"]["environment"]["PGHOST"] == "/var/run/postgresql"


@pytest.mark.parametrize("variable", ["POSTGRES_PASSWORD", "RABBITMQ_PASSWORD"])
def test_a_new_password_replaces_every_container_that_has_it(variable: str) -> None:
    """Compose compares what a service says, not its inline configs: none of these may have one."""
    before, after = compose(), compose({variable: "new"})
    server = "postgres" if variable.startswith("POSTGRES") else "rabbitmq"
    changed = {
        name for name, service in after["services"].items() if service != before["services"][name]
    }
    assert {server, "consumer", "operator"} <= changed
    assert after["configs"] == before["configs"]


def test_the_servers_are_given_the_files_that_define_the_rights(services: dict[str, Any]) -> None:
    """Permissions are loaded after the users they belong to."""
    configs = compose()["configs"]
    assert configs["roles"]["file"] == str(ROOT / "roles.sql")
    definitions = ROOT / "packaging" / "rabbitmq" / "definitions.json"
    assert configs["rabbitmq-permissions"]["file"] == str(definitions)
    targets = {each["source"]: each["target"] for each in services["rabbitmq"]["configs"]}
    assert targets["rabbitmq-users"] < targets["rabbitmq-permissions"]
    read = f"for file in {Path(targets['rabbitmq-users']).parent}/*.json; do"
    assert read in services["rabbitmq"]["entrypoint"][2]
    folder = re.search(r"^load_definitions = (.*)$", configs["rabbitmq-conf"]["content"], re.M)
    assert folder
    assert f'> "{folder[1]}/' in services["rabbitmq"]["entrypoint"][2]
    permissions = json.loads(definitions.read_text())["permissions"]
    assert {each["user"] for each in permissions} == {"puller", "worker", "setup"}
    for each in permissions:
        for right in ("configure", "write", "read"):
            assert re.fullmatch(r"\^.*\$", each[right])  # anchored: else mirror.eventsX would fit


def test_the_broker_takes_no_message_that_a_worker_would_not_read() -> None:
    """By default it takes much larger ones."""
    lines = compose()["configs"]["rabbitmq-conf"]["content"].splitlines()
    assert f"max_message_size = {MAX_READABLE_BYTES}" in lines


def test_passwords_can_be_in_files(tmp_path: Path) -> None:
    """Each user has one of its own, both sides have the same, and the environment has none."""
    scripts = tmp_path / "packaging" / "compose"
    scripts.mkdir(parents=True)
    script = scripts / "make-secrets.sh"
    script.write_bytes(SECRETS.with_name("make-secrets.sh").read_bytes())
    subprocess.run(["sh", "-c", 'umask 077; exec sh "$0"', script], check=True)
    folder = tmp_path / "secrets"
    assert folder.stat().st_mode & 0o777 == 0o700
    texts = {path: path.read_text() for path in folder.iterdir()}
    assert {path.stat().st_mode & 0o777 for path in texts} == {0o644}
    read = compose({}, SECRETS, root=tmp_path)
    named = {name: Path(each["file"]) for name, each in read["secrets"].items()}
    named |= {name: Path(read["configs"][name]["file"]) for name in ("rabbitmq-users", "passwords")}
    assert set(named.values()) == set(texts)

    in_environment = json.dumps(
        [each["environment"] for each in read["services"].values() if "environment" in each]
    )
    assert not re.search(r"_PASSWORD\"|://\w+:", in_environment)
    known = {}
    for service in read["services"].values():
        given = {each["target"] for each in service.get("secrets", [])}
        for variable, path in service.get("environment", {}).items():
            if variable.endswith("_FILE"):
                assert path in {f"/run/secrets/{Path(each).name}" for each in given}
                url = urlsplit(texts[named[Path(path).name]])
                known[url.scheme, url.username] = url.password
    users = json.loads(texts[named["rabbitmq-users"]])["users"]
    for user in users:
        assert known["amqp", user["name"]] == user["password"]
    altered = dict(re.findall(r"ALTER ROLE (\w+) PASSWORD '(\w+)';", texts[named["passwords"]]))
    for role in ("worker", "operator", "reader"):
        assert known["postgresql", role] == altered[role]
    assert texts[named["owner-password"]] == altered["mirrorfeed"]
    passwords = [*altered.values(), *(user["password"] for user in users)]
    assert len(set(passwords)) == 7

    again = subprocess.run(["sh", script], capture_output=True, check=False)
    assert again.returncode != 0
    assert {path: path.read_text() for path in folder.iterdir()} == texts


@pytest.mark.parametrize("path", [".env", "secrets/owner-password"])
def test_passwords_never_get_into_git(path: str) -> None:
    """Nor, as .dockerignore lets through only what is named, into an image."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    subprocess.run(["git", "-C", ROOT, "check-ignore", "--quiet", path], check=True)
