"""What a guest reaches: nothing of the host, of other guests, of private networks; names resolve and the
internet answers through NAT. The internet here is a namespace of the test's own."""

import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.clients import Api, HOOKS_ALL, probe_application, wait_for
from support.daemon import Daemon
from support.names import NameServer
from support.outside import outside

# Addresses for documentation (RFC 5737), which no real host has.
INTERNET, GATEWAY = "198.51.100.10", "198.51.100.9"
# Port 81 takes connections and never says a word.
SERVER = (
    "import http.server, socket;"
    f"silent = socket.create_server(('{INTERNET}', 81));"
    f"http.server.HTTPServer(('{INTERNET}', 80), http.server.SimpleHTTPRequestHandler).serve_forever()"
)
# More than the other tests need.
ENDPOINT_LIMITS = "[quotas.endpoints]\n512 = { connections = 2, requests_per_second = 25 }\n"


@pytest.fixture(scope="module")
def internet():
    with outside("colibri-test-net", "clbtest", GATEWAY, [INTERNET], 30, SERVER):
        yield


@pytest.fixture(scope="module")
def guests(tmp_path_factory, internet):
    names = NameServer(INTERNET)
    settings = f'[network]\ndns_upstreams = ["127.0.0.1:{names.port}"]\n{ENDPOINT_LIMITS}'
    daemon = Daemon(tmp_path_factory.mktemp("network"), settings).start()
    api = Api(daemon)
    image = api.build("probe", probe_application(), hooks=HOOKS_ALL)
    yield api.run(image), api.run(image)
    api.terminate_all()
    daemon.stop()


def reach(microvm, host, port):
    return microvm.get(f"/connect?host={host}&port={port}")


def test_the_internet_and_its_names_are_reached(guests):
    one, _ = guests
    assert one.get("/resolve?name=www.example.com") == {"outcome": "resolved", "addresses": [INTERNET]}
    assert reach(one, "www.example.com", 80)["received"].startswith("HTTP/1.0 200")


def test_the_host_and_private_networks_are_not(guests):
    one, _ = guests
    api_port = one.api.daemon.api_port
    with socket.socket() as everywhere:
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        open_port = everywhere.getsockname()[1]
        own = subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()
        addresses = [a for a in own if ":" not in a] + ["172.16.0.1", "169.254.100.1", GATEWAY]
        for address in addresses:
            for port in (open_port, api_port, 22):
                outcome = reach(one, address, port)
                assert outcome["outcome"] == "failed", (address, port, outcome)
    for address in ("10.0.0.1", "192.168.0.1", "169.254.169.253", "100.64.0.1"):
        assert reach(one, address, 80)["outcome"] == "failed"


def test_one_guest_does_not_reach_another(guests):
    one, two = guests
    # Both have the same address in their own worlds; what the host calls them is the slots' links.
    links = subprocess.run(["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True).stdout
    slots = [line.split()[3].split("/")[0] for line in links.splitlines() if line.split()[3].startswith("100.")]
    assert len(slots) >= 2
    for address in slots:
        octets = address.split(".")
        peer = ".".join([*octets[:3], str(int(octets[3]) + 1)])
        for target in (address, peer):
            assert reach(one, target, 8080)["outcome"] == "failed"
            assert reach(two, target, 8080)["outcome"] == "failed"


def test_a_resume_ends_connections_to_the_outside_at_once_and_no_others(guests):
    one, _ = guests
    assert one.get(f"/hold?host={INTERNET}&port=81") == {"outside": "waiting"}
    assert one.get("/held") == {"outside": "waiting", "loopback": "still here"}
    one.suspend()
    one.resume()
    # The application waits in `recv`; without the reset it would do so for good.
    ended = wait_for("the connection ended", lambda: (held := one.get("/held"))["outside"] != "waiting" and held, 5)
    assert ended == {"outside": "ECONNABORTED", "loopback": "still here"}
    assert reach(one, INTERNET, 80)["received"].startswith("HTTP/1.0 200")


def refused(response, reason):
    """Whether it was, and then as it should be."""
    if response.status_code == 200:
        return False
    assert (response.status_code, response.text) == (429, f"Too many {reason} the MicroVM")
    assert response.headers["retry-after"] == "1"
    return True


def served(microvm):
    with microvm.client() as client:
        return client.get("/headers").status_code == 200


def test_an_endpoint_has_as_many_connections_as_its_size_allows(guests):
    one, other = guests
    with one.client() as first, one.client() as second, one.client() as third:
        assert not refused(first.get("/headers"), "connections are open to")
        assert not refused(second.get("/headers"), "connections are open to")
        assert refused(third.get("/headers"), "connections are open to")
        # Each MicroVM has its own.
        assert served(other)
    wait_for("a place that was left", lambda: served(one), 10)


def test_an_endpoint_has_as_many_requests_a_second_as_its_size_allows(guests):
    one, other = guests
    with one.client(http2=True) as client, ThreadPoolExecutor(20) as callers:
        answers = callers.map(lambda _: client.get("/headers"), range(500))
        assert any(refused(answer, "requests a second for") for answer in answers)
        assert served(other)
    wait_for("the next second", lambda: served(one), 10)
