"""What a network connector lets a build and a MicroVM reach on real machines: what the operator's subnets and
security groups allow, from the build to the end of the connector. The office here is a namespace of the test's
own, with private addresses."""

import shutil

import pytest

from support.clients import REGION, Api, HOOKS_ALL, probe_application, wait_for
from support.daemon import Daemon
from support.names import NameServer
from support.outside import outside

GATEWAY, OFFICE, BESIDE = "10.91.7.1", "10.91.7.10", "10.91.7.200"
SERVER = (
    "import http.server, socket, threading;"
    "other = http.server.HTTPServer(('0.0.0.0', 81), http.server.SimpleHTTPRequestHandler);"
    "threading.Thread(target=other.serve_forever).start();"
    "http.server.HTTPServer(('0.0.0.0', 80), http.server.SimpleHTTPRequestHandler).serve_forever()"
)
SETTINGS = """
[network]
dns_upstreams = ["127.0.0.1:{port}"]

[[vpc.subnets]]
id = "subnet-office"
reach = ["10.91.7.0/25"]

[[vpc.subnets]]
id = "subnet-beside"
reach = ["10.91.7.128/25"]

[[vpc.security_groups]]
id = "sg-web"
egress = [{{ protocol = "tcp", ports = 80 }}]
"""
# A step of the image's build: it fails unless the build reaches the office's web server by name, and neither
# another port nor another address.
BUILD_STEP = f"""
COPY reach.py /app/reach.py
RUN python3 /app/reach.py office.test:80=yes {OFFICE}:81=no {BESIDE}:80=no
"""
REACH = """
import socket, sys

for wanted in sys.argv[1:]:
    place, _, answer = wanted.partition("=")
    host, _, port = place.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
        reached = "yes"
    except OSError as error:
        print(place, error)
        reached = "no"
    assert reached == answer, wanted
"""
ROLE = "arn:aws:iam::000000000000:role/operator"
INTERNET = f"arn:aws:lambda:{REGION}:aws:network-connector:aws-network-connector:INTERNET_EGRESS"


@pytest.fixture(scope="module")
def office():
    with outside("colibri-test-nc", "clbnc", GATEWAY, [OFFICE, BESIDE], 24, SERVER):
        yield


class Connectors:
    """The connectors' API of one daemon."""

    def __init__(self, api):
        self.client = api.session.client("lambda-core", endpoint_url=api.daemon.endpoint)

    def settled(self, name):
        def look():
            found = self.client.get_network_connector(Identifier=name)
            busy = found["State"] == "PENDING" or found.get("LastUpdateStatus") == "InProgress"
            return None if busy else found

        return wait_for(f"{name} settled", look)

    def configuration(self, subnet):
        return {"VpcEgressConfiguration": {"SubnetIds": [subnet], "SecurityGroupIds": ["sg-web"]}}

    def create(self, name, subnet):
        self.client.create_network_connector(
            Name=name, Configuration=self.configuration(subnet), OperatorRole=ROLE
        )
        return self.settled(name)

    def update(self, name, subnet):
        self.client.update_network_connector(Identifier=name, Configuration=self.configuration(subnet))
        return self.settled(name)


@pytest.fixture(scope="module")
def api(tmp_path_factory, office):
    names = NameServer(OFFICE)
    daemon = Daemon(tmp_path_factory.mktemp("connectors"), SETTINGS.format(port=names.port)).start()
    yield Api(daemon)
    Api(daemon).terminate_all()
    daemon.stop()


@pytest.fixture(scope="module")
def connectors(api):
    return Connectors(api)


@pytest.fixture(scope="module")
def image(api, connectors, tmp_path_factory):
    """An image of its own connector; that it is built proves what its build reaches."""
    arn = connectors.create("office", "subnet-office")["Arn"]
    application = tmp_path_factory.mktemp("application") / "probe"
    shutil.copytree(probe_application(), application)
    (application / "reach.py").write_text(REACH)
    dockerfile = application / "Dockerfile"
    dockerfile.write_text(dockerfile.read_text() + BUILD_STEP)
    return api.build("office", application, hooks=HOOKS_ALL, egressNetworkConnectors=[arn])


def reaches(microvm, host, port):
    outcome = microvm.get(f"/connect?host={host}&port={port}")
    return outcome["outcome"] == "connected" and outcome["received"].startswith("HTTP/1.0 200")


def test_a_microvm_reaches_what_its_connector_allows_until_that_is_deleted(api, connectors, image):
    microvm = api.run(image)
    assert reaches(microvm, "office.test", 80)
    assert not reaches(microvm, OFFICE, 81)
    assert not reaches(microvm, BESIDE, 80)
    for address in (GATEWAY, "172.16.0.1", "169.254.169.254"):
        assert not reaches(microvm, address, 80)

    # An update is for those who come, and who come back.
    assert connectors.update("office", "subnet-beside")["LatestVersion"] == 2
    assert reaches(microvm, OFFICE, 80)
    microvm.suspend()
    microvm.resume()
    assert reaches(microvm, BESIDE, 80)
    assert not reaches(microvm, OFFICE, 80)

    connectors.client.delete_network_connector(Identifier="office")
    assert not reaches(microvm, BESIDE, 80)
    assert microvm.get("/resolve?name=office.test")["outcome"] == "resolved"
    microvm.suspend()
    microvm.resume()
    assert not reaches(microvm, BESIDE, 80)
    microvm.terminate()
    with pytest.raises(api.microvms.exceptions.ResourceNotFoundException):
        api.microvms.run_microvm(imageIdentifier=image)


def test_a_launch_chooses_another_connector_than_its_image(api, connectors, image):
    beside = connectors.create("beside", "subnet-beside")["Arn"]
    microvm = api.run(image, egressNetworkConnectors=[beside])
    assert reaches(microvm, BESIDE, 80)
    assert not reaches(microvm, OFFICE, 80)
    api.daemon.crash()
    api.daemon.start()
    assert reaches(microvm, BESIDE, 80)
    microvm.terminate()
    # Whoever has the internet has nothing of what the operator declared.
    free = api.run(image, egressNetworkConnectors=[INTERNET])
    assert not reaches(free, BESIDE, 80)
    free.terminate()
