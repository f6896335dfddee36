"""`kubectl apply -k packaging/kubernetes`, as far as can be told without a cluster."""

import json
import re
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml

from mirrorfeed.consumer.web.access import OPEN_PATHS
from mirrorfeed.contract import environment, routing
from mirrorfeed.contract.probes import Probes
from mirrorfeed.contract.wire import MAX_READABLE_BYTES
from mirrorfeed.puller.branch_list import read_branch_list
from mirrorfeed.puller.process import KILL_AFTER_SECONDS
from mirrorfeed.puller.settings import Settings
from sandbox.containers import POSTGRESQL_IMAGE, RABBITMQ_IMAGE
from tests.commands import Shell
from tests.stub_service import Stub

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "packaging" / "kubernetes"
KUSTOMIZATION = "kustomization.yaml"
APPLIED_ALONE = {"monitoring", "scaling"}
"""What needs operators that not everybody has."""
IN_COMPOSE = {
    "init": "setup",
    "users": "setup",
    "roles": "setup",
    "worker": "consumer",
    "web": "web",
    "operator": "operator",
    "collector": "setup",
    "forwarder": "publisher",
    "puller": "puller",
}
"""Which service of compose.yaml has the limit that each container should have."""
ENDS_SECONDS = 10.0
"""How long a worker may take to end (guarantee 13)."""
OF_CLOUDNATIVEPG = {"database-app": {"dbname", "host", "password", "uri", "username"}}
"""A Secret that is made by another, with some of its keys."""
WITHOUT_SCHEMA = {
    "Cluster",
    "PodMonitor",
    "RabbitmqCluster",
    "ScaledObject",
    "TriggerAuthentication",
}
"""Kinds of operators, which Kubernetes itself does not know."""


class Container(NamedTuple):
    """With the pod that it is in."""

    pod: dict[str, Any]
    spec: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def variables(self) -> dict[str, str]:
        return {each["name"]: each.get("value", "") for each in self.spec.get("env", [])}

    @property
    def ports(self) -> dict[str, int]:
        return {each["name"]: each["containerPort"] for each in self.spec.get("ports", [])}

    @property
    def mounts(self) -> dict[str, dict[str, Any]]:
        """The volume at each path, of a pod or of a StatefulSet."""
        volumes = {each["name"]: each for each in self.pod["volumes"]}
        return {
            each["mountPath"]: volumes.get(each["name"], {"name": each["name"]})
            for each in self.spec["volumeMounts"]
        }


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


KUSTOMIZATIONS = {path.parent: documents(path)[0] for path in FOLDER.rglob(KUSTOMIZATION)}
RESOURCES = [
    resource
    for path in sorted(FOLDER.rglob("*.yaml"))
    if path.name != KUSTOMIZATION
    for resource in documents(path)
]
OWN_SCRIPT = FOLDER / "make-secrets.sh"


def of_kind(kind: str) -> Iterator[dict[str, Any]]:
    return (each for each in RESOURCES if each["kind"] == kind)


def named(kind: str, name: str) -> dict[str, Any]:
    (found,) = (each for each in of_kind(kind) if each["metadata"]["name"] == name)
    return found


def pods() -> list[dict[str, Any]]:
    """The templates of all pods that are ours."""
    return [each["spec"]["template"] for each in RESOURCES if "template" in each.get("spec", {})]


CONTAINERS = [
    Container(pod["spec"], container)
    for pod in pods()
    for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]
]
OURS = [each for each in CONTAINERS if each.spec["image"].startswith("mirrorfeed")]
each_of_ours = pytest.mark.parametrize("container", OURS, ids=lambda each: each.name)


@pytest.fixture(scope="module")
def secrets() -> dict[str, dict[str, str]]:
    """What the script prints, by name."""
    printed = subprocess.run(["sh", OWN_SCRIPT], check=True, capture_output=True, text=True).stdout
    return {each["metadata"]["name"]: each["stringData"] for each in yaml.safe_load_all(printed)}


@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_each_file_is_listed_and_each_listed_file_is_there(folder: Path) -> None:
    """Kustomize itself sees only the first of these."""
    kustomization = KUSTOMIZATIONS[folder]
    generated = kustomization.get("configMapGenerator", [])
    files = [file for each in generated for file in each["files"]]
    listed = sorted([*kustomization["resources"], *files, KUSTOMIZATION])
    others = APPLIED_ALONE | {OWN_SCRIPT.name} if folder == FOLDER else set()
    assert listed == sorted({path.name for path in folder.iterdir()} - others)
    for name in kustomization["resources"]:
        assert (folder / name).is_file() or (folder / name / KUSTOMIZATION).is_file()


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("base/roles.sql", "roles.sql"),
        ("servers/permissions.json", "packaging/rabbitmq/definitions.json"),
    ],
)
def test_a_copy_is_as_its_original(copy: str, original: str) -> None:
    """Kustomize reads nothing outside its folder, not even through a link."""
    assert (FOLDER / copy).read_bytes() == (ROOT / original).read_bytes()


def test_no_two_resources_have_one_name() -> None:
    """Of one kind, in one namespace."""
    names = [(each["kind"], each["metadata"]["name"]) for each in RESOURCES]
    assert len(names) == len(set(names))
    assert {each["namespace"] for each in KUSTOMIZATIONS.values()} == {"mirrorfeed"}


def test_images_are_those_of_this_version() -> None:
    """Ours by the kustomization, and the servers' are those that the tests run with."""
    ours = {each.spec["image"] for each in OURS}
    assert ours == {"mirrorfeed", "mirrorfeed-puller"}
    for kustomization in KUSTOMIZATIONS.values():
        for image in kustomization.get("images", []):
            assert image["name"] in ours
            assert image["newTag"] == version("mirrorfeed")
    assert {each["name"] for each in KUSTOMIZATIONS[FOLDER]["images"]} == ours
    assert {each.spec["image"] for each in CONTAINERS} - ours == {POSTGRESQL_IMAGE}
    assert named("RabbitmqCluster", "broker")["spec"]["image"] == RABBITMQ_IMAGE


@each_of_ours
def test_a_container_runs_a_command_of_ours(container: Container) -> None:
    """One that exists and takes these arguments."""
    command = container.spec["command"]
    if container.name == "users":
        calls = re.findall(r"^mirror-[^<]*", command[-1], re.MULTILINE)
        assert [each.split()[:2] for each in calls] == [["mirror-consumer", "web-user"]]
    elif container.name == "operator":
        assert command == ["sleep", "infinity"]
    else:
        Shell({}).run(*command, "--help")


@each_of_ours
def test_a_container_has_what_its_variables_name(
    container: Container, secrets: dict[str, dict[str, str]]
) -> None:
    """Each is one that we read, and files are in what is mounted."""
    known = {value for name, value in vars(environment).items() if name.isupper()}
    for name, value in container.variables.items():
        assert name.removesuffix("_FILE") in known
        if name.endswith("_FILE"):
            volume = container.mounts[str(Path(value).parent)]
            assert Path(value).name in keys_of(volume, secrets)
    if environment.SPOOL in container.variables:
        spool = Path(container.variables[environment.SPOOL])
        assert container.mounts[str(spool.parent)]["name"] == "spool"


def keys_of(volume: dict[str, Any], secrets: dict[str, dict[str, str]]) -> set[str]:
    """The files in a volume of Secrets."""
    if "secret" in volume:
        return set(secrets[volume["secret"]["secretName"]])
    found: set[str] = set()
    for source in volume["projected"]["sources"]:
        secret = source["secret"]
        held = OF_CLOUDNATIVEPG.get(secret["name"]) or set(secrets[secret["name"]])
        items = secret.get("items")
        assert {each["key"] for each in items or []} <= held
        found |= {each["path"] for each in items} if items else held
    return found


@each_of_ours
def test_probes_ask_what_a_container_answers(container: Container) -> None:
    """On the port that it was told, at paths that are there; only those who answer are asked."""
    probes = [value for name, value in container.spec.items() if name.endswith("Probe")]
    command = container.spec["command"]
    if container.name == "web":
        port, answered = int(command[command.index("--port") + 1]), OPEN_PATHS
    elif environment.HTTP in container.variables:
        host, _, told = container.variables[environment.HTTP].partition(":")
        assert host == "0.0.0.0"
        paths = ("/live", "/ready", "/metrics")
        found = Probes(Stub())
        port = int(told)
        answered = frozenset(p for p in paths if found.answer(p).status != HTTPStatus.NOT_FOUND)
    else:
        assert probes == []
        assert container.ports == {}
        return
    assert list(container.ports.values()) == [port]
    assert {each["httpGet"]["path"] for each in probes} <= answered
    assert {each["httpGet"]["port"] for each in probes} == set(container.ports)
    assert container.spec["livenessProbe"]["httpGet"]["path"] == "/live"
    assert "readinessProbe" in container.spec


def test_containers_of_one_pod_have_ports_of_their_own() -> None:
    """They share one network."""
    for pod in pods():
        inside = [each for each in CONTAINERS if each.pod is pod["spec"]]
        ports = [port for each in inside for port in each.ports.values()]
        assert len(ports) == len(set(ports))


@pytest.mark.parametrize("container", CONTAINERS, ids=lambda each: each.name)
def test_a_container_has_few_rights_and_a_limit(container: Container) -> None:
    """None is root or can become it or change its files; memory is limited as in compose.yaml."""
    context = container.spec["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    pod = container.pod["securityContext"]
    user = re.search(r"^USER (\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user
    assert pod["runAsUser"] == pod["fsGroup"] == int(user[1])
    assert pod["runAsNonRoot"] is True
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container.pod["automountServiceAccountToken"] is False
    assert container.pod["enableServiceLinks"] is False
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    limit = services[IN_COMPOSE[container.name]]["mem_limit"]
    resources = container.spec["resources"]
    assert resources["limits"]["memory"] == f"{limit[:-1]}{limit[-1].upper()}i"
    assert set(resources["requests"]) == {"cpu", "memory"}


def test_everything_has_time_to_end() -> None:
    """Kubernetes waits longer than a worker or a puller takes."""
    worker = named("Deployment", "worker")["spec"]["template"]["spec"]
    assert worker["terminationGracePeriodSeconds"] > ENDS_SECONDS
    puller = named("StatefulSet", "puller")["spec"]["template"]["spec"]
    ends = Settings().stop_seconds + KILL_AFTER_SECONDS
    assert puller["terminationGracePeriodSeconds"] > ends


def test_the_forwarder_outlives_the_puller() -> None:
    """It is a sidecar with the same spool, and the only one that sends it."""
    spec = named("StatefulSet", "puller")["spec"]
    (forwarder,) = spec["template"]["spec"]["initContainers"]
    (puller,) = spec["template"]["spec"]["containers"]
    assert forwarder["restartPolicy"] == "Always"
    assert "--no-forward" in puller["command"]
    claims = {each["metadata"]["name"] for each in spec["volumeClaimTemplates"]}
    assert {each["name"] for each in forwarder["volumeMounts"]} & claims == {"spool"}
    into = puller["command"][puller["command"].index("--into") + 1]
    mounted = {each["mountPath"]: each["name"] for each in puller["volumeMounts"]}
    assert mounted[into] == "mirrors"
    assert claims == {"spool", "mirrors"}
    assert named("Service", spec["serviceName"])["spec"]["clusterIP"] == "None"


def test_the_list_is_one_that_the_puller_takes() -> None:
    """And it is where the puller looks."""
    assert read_branch_list(FOLDER / "puller" / "branches.csv").branches
    (puller,) = (each for each in OURS if each.name == "puller")
    path = Path(puller.spec["command"][2])
    assert puller.mounts[str(path.parent)]["configMap"]["name"] == "branches"
    assert path.name in KUSTOMIZATIONS[FOLDER / "puller"]["configMapGenerator"][0]["files"]


def test_everybody_has_a_user_that_the_server_has(secrets: dict[str, dict[str, str]]) -> None:
    """With one password on both sides, at servers that are there; no two users have the same."""
    definitions = json.loads(secrets["broker-users"]["users.json"])
    on_broker = {each["name"]: each["password"] for each in definitions["users"]}
    permissions = json.loads((FOLDER / "servers" / "permissions.json").read_text())["permissions"]
    given = [each["user"] for each in permissions + definitions["permissions"]]
    assert sorted(given) == sorted(on_broker)
    seen = set()
    for name, secret in secrets.items():
        for key, value in secret.items():
            url = urlsplit(value)
            if key == "amqp-url":
                assert url.hostname == "broker"
                assert on_broker[str(url.username)] == url.password
                seen.add(("amqp", name, url.username))
            elif key == "database-url":
                assert url.hostname == "database-rw"
                assert secrets["roles"][str(url.username)] == url.password
                assert (
                    url.path[1:]
                    == named("Cluster", "database")["spec"]["bootstrap"]["initdb"]["database"]
                )
                seen.add(("postgresql", name, url.username))
    assert seen == {
        ("amqp", "setup", "setup"),
        ("amqp", "worker", "worker"),
        ("amqp", "operator", "setup"),
        ("amqp", "reader", "worker"),
        ("amqp", "puller", "puller"),
        ("postgresql", "worker", "worker"),
        ("postgresql", "operator", "operator"),
        ("postgresql", "reader", "reader"),
    }
    scaler = urlsplit(secrets["scaler"]["host"])
    assert on_broker[str(scaler.username)] == scaler.password
    passwords = [*on_broker.values(), *secrets["roles"].values(), secrets["reader"]["web-password"]]
    assert len(set(passwords)) == len(passwords) == 8


def test_the_setup_gives_each_user_its_password(secrets: dict[str, dict[str, str]]) -> None:
    """The Job passes on what the script for psql reads."""
    (roles,) = (each for each in CONTAINERS if each.name == "roles")
    script = (FOLDER / "base" / "users.sql").read_text()
    given = {}
    for each in roles.spec["env"]:
        reference = each["valueFrom"]["secretKeyRef"]
        assert reference["key"] in OF_CLOUDNATIVEPG.get(
            reference["name"], set(secrets.get(reference["name"], {}))
        )
        given[each["name"]] = reference["key"]
    for user in secrets["roles"]:
        (variable,) = re.findall(rf"^\\getenv {user} (\w+)$", script, re.MULTILINE)
        assert given[variable] == user
        assert f"ALTER ROLE {user} PASSWORD :'{user}';" in script
        assert re.search(rf"^GRANT mirrorfeed_\w+ TO {user};$", script, re.MULTILINE)
    files = [word.partition("=")[2] for word in roles.spec["command"] if "--file" in word]
    generated = KUSTOMIZATIONS[FOLDER / "base"]["configMapGenerator"][0]
    assert roles.mounts[str(Path(files[0]).parent)]["configMap"]["name"] == generated["name"]
    assert [Path(file).name for file in files] == generated["files"]


def test_the_broker_has_users_permissions_and_a_limit(secrets: dict[str, dict[str, str]]) -> None:
    """Permissions are loaded after the users they belong to."""
    spec = named("RabbitmqCluster", "broker")["spec"]
    lines = spec["rabbitmq"]["additionalConfig"].splitlines()
    assert f"max_message_size = {MAX_READABLE_BYTES}" in lines
    (folder,) = re.findall(r"^load_definitions = (.*)$", "\n".join(lines), re.MULTILINE)
    override = spec["override"]["statefulSet"]["spec"]["template"]["spec"]
    (container,) = override["containers"]
    mounts = sorted(container["volumeMounts"], key=lambda each: str(each["mountPath"]))
    assert [each["name"] for each in mounts] == ["users", "permissions"]
    assert {str(Path(each["mountPath"]).parent) for each in mounts} == {folder}
    users, permissions = override["volumes"]
    assert mounts[0]["subPath"] in secrets[users["secret"]["secretName"]]
    (generated,) = KUSTOMIZATIONS[FOLDER / "servers"]["configMapGenerator"]
    assert permissions["configMap"]["name"] == generated["name"]
    assert mounts[1]["subPath"] in generated["files"]


def test_there_are_never_more_workers_than_partitions() -> None:
    """And what is counted is what waits for them."""
    spec = named("ScaledObject", "worker")["spec"]
    assert spec["maxReplicaCount"] == routing.DEFAULT_PARTITIONS
    worker = named("Deployment", spec["scaleTargetRef"]["name"])
    assert spec["minReplicaCount"] == worker["spec"]["replicas"]
    (trigger,) = spec["triggers"]
    queues = re.compile(trigger["metadata"]["queueName"])
    partitions = routing.DEFAULT_PARTITIONS
    names = routing.partition_queues(partitions) + routing.interim_queues(partitions)
    assert all(map(queues.search, names))
    assert not queues.search("mirror.dead")
    authentication = named("TriggerAuthentication", trigger["authenticationRef"]["name"])
    (reference,) = authentication["spec"]["secretTargetRef"]
    assert (reference["name"], reference["key"]) == ("scaler", "host")


def test_services_and_policies_select_pods_that_are_there() -> None:
    """By their labels, and by ports that these have."""
    labels = {each["metadata"]["labels"]["app.kubernetes.io/name"] for each in pods()}
    ports = {name for each in CONTAINERS for name in each.ports}
    for service in of_kind("Service"):
        selected = service["spec"]["selector"]["app.kubernetes.io/name"]
        (pod,) = (
            each
            for each in pods()
            if each["metadata"]["labels"]["app.kubernetes.io/name"] == selected
        )
        held = {
            n: p for each in CONTAINERS if each.pod is pod["spec"] for n, p in each.ports.items()
        }
        for port in service["spec"]["ports"]:
            assert held[port["targetPort"]] == port["port"]
    (budget,) = of_kind("PodDisruptionBudget")
    assert budget["spec"]["selector"]["matchLabels"]["app.kubernetes.io/name"] in labels
    for policy in of_kind("NetworkPolicy"):
        selector = policy["spec"]["podSelector"]
        chosen = selector.get("matchLabels", {}).get("app.kubernetes.io/name", "broker")
        assert chosen in labels | {"broker"}
        for expression in selector.get("matchExpressions", []):
            assert set(expression["values"]) == labels - {"puller"}
        allowed = policy["spec"].get("ingress", []) + policy["spec"].get("egress", [])
        names = {each["port"] for rule in allowed for each in rule.get("ports", [])}
        assert {each for each in names if isinstance(each, str)} <= ports


def test_prometheus_asks_everybody_who_has_metrics() -> None:
    """And gives them the names that the alerts expect."""
    (monitor,) = of_kind("PodMonitor")
    asked = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    with_metrics = [each for each in OURS if environment.HTTP in each.variables]
    assert asked == {name for each in with_metrics for name in each.ports}
    rules = (ROOT / "packaging" / "prometheus" / "rules.yml").read_text()
    expected = set(re.findall(r"\bmirrorfeed-(worker|forwarder|collector|puller)\b", rules))
    assert expected <= {each.name for each in with_metrics}


@pytest.mark.parametrize("kubernetes", ["1.29", "1.37"])
def test_kubernetes_knows_every_field(kubernetes: str) -> None:
    """From the version on that has sidecars, to the newest whose schemas are here."""
    validator = pytest.importorskip("kubernetes_validate")
    unknown = set()
    for resource in RESOURCES:
        try:
            validator.validate(resource, kubernetes, strict=True)
        except validator.utils.SchemaNotFoundError:
            unknown.add(resource["kind"])
    assert unknown == WITHOUT_SCHEMA
