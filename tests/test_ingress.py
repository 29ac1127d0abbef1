"""Endpoints, as real clients see them: TLS, HTTP/1.1 and HTTP/2, WebSocket, tokens, ports."""

import asyncio
import hashlib
import json
import os
import subprocess

import pytest
import websockets

from support.clients import AUTO_RESUME, _tls


@pytest.fixture(scope="module")
def served(api, probe_image):
    microvm = api.run(probe_image, idlePolicy=AUTO_RESUME)
    yield microvm
    microvm.terminate()


def curl(served, *arguments):
    """curl by the endpoint's own name, which it resolves itself."""
    command = ["curl", "--silent", "--show-error", "--cacert", served.api.daemon.ca, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_curl_reaches_the_endpoint_by_its_name(served):
    for protocol in ("--http1.1", "--http2"):
        answer = curl(
            served, protocol, "-H", f"X-aws-proxy-auth: {served.token}", f"https://{served.endpoint}/headers"
        )
        assert answer.returncode == 0, answer.stderr
        seen = json.loads(answer.stdout)
        names = [name.lower() for name, _ in seen["headers"]]
        assert not [name for name in names if name.startswith("x-aws-proxy")]
        assert "x-amzn-requestid" in names and "x-forwarded-for" not in names
        assert ["host", served.endpoint] in [[n.lower(), v] for n, v in seen["headers"]]
        assert seen["peer"] == "127.0.0.1"


def test_both_http_versions_and_large_bodies(served):
    body = os.urandom(3 * 1024 * 1024)
    for http2 in (False, True):
        with served.client(http2=http2) as client:
            response = client.post("/echo", content=body)
            assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
            assert response.json() == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}


def test_refusals_name_their_cause(served):
    cases = [
        ({"X-aws-proxy-auth": ""}, 403, "Request missing authentication", "UNAUTHORIZED"),
        ({"X-aws-proxy-auth": "a.b.c.d.e"}, 403, "Request missing authentication", "UNAUTHORIZED"),
        ({"X-aws-proxy-port": "0"}, 400, None, None),
        ({"X-aws-proxy-port": "http"}, 400, None, None),
        ({"X-aws-proxy-port": "9"}, 502, None, "APP_CONNECT_FAILED"),
    ]
    for headers, status, body, error in cases:
        refused = served.get("/", expect=status, headers=headers)
        if body:
            assert refused.text == body
        if error:
            assert refused.headers["x-aws-proxy-error"] == error
        assert refused.headers["x-amzn-requestid"]


def test_a_token_opens_only_its_ports_and_its_microvm(served, api, probe_image):
    narrow = served.mint(ports=[{"range": {"startPort": 8080, "endPort": 8080}}])
    assert served.get("/", headers={"X-aws-proxy-auth": narrow})["visits"]
    refused = served.get("/", expect=403, headers={"X-aws-proxy-auth": narrow, "X-aws-proxy-port": "8081"})
    assert refused.text == "Access to port denied"
    other = api.run(probe_image)
    served.get("/", expect=403, headers={"X-aws-proxy-auth": other.token})
    # By address instead of by name, the token alone says which MicroVM is meant.
    host = f"127.0.0.1:{api.daemon.ingress_port}"
    assert other.get("/", headers={"Host": host})["visits"] == 1
    other.terminate()


def test_a_listener_on_the_guests_loopback_is_reached(served):
    assert served.get("/headers", headers={"X-aws-proxy-port": "8081"})["peer"] == "127.0.0.1"


def test_a_stream_arrives_while_it_is_written(served):
    with served.client() as client, client.stream("GET", "/stream?count=3&pause=0.3") as response:
        assert [line for line in response.iter_lines() if line] == ["data: 0", "data: 1", "data: 2"]


def test_websockets_with_subprotocols_and_with_headers(served):
    port = served.api.daemon.ingress_port
    browser = ["lambda-microvms", f"lambda-microvms.authentication.{served.token}", "lambda-microvms.port.8080"]

    async def echo(subprotocols, headers):
        async with websockets.connect(
            f"wss://{served.endpoint}/websocket",
            host="127.0.0.1",
            port=port,
            ssl=_tls(served.api.daemon.ca),
            subprotocols=subprotocols,
            additional_headers=headers,
        ) as socket:
            await socket.send("hello")
            text = await socket.recv()
            await socket.send(bytes(range(256)) * 16)
            return text, await socket.recv(), socket.subprotocol

    payload = bytes(range(256)) * 16
    assert asyncio.run(echo(browser, {})) == ("hello", payload, "lambda-microvms")
    assert asyncio.run(echo([*browser, "chat"], {})) == ("hello", payload, "chat")
    assert asyncio.run(echo(None, {"X-aws-proxy-auth": served.token})) == ("hello", payload, None)

    with pytest.raises(websockets.InvalidStatus) as refused:
        asyncio.run(echo(["lambda-microvms"], {}))
    assert refused.value.response.status_code == 403
