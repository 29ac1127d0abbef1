"""What a guest finds at 169.254.169.254: itself, and what it may ask for itself."""

import json
from urllib.parse import urlencode


def ask(microvm, method, path, body="", token="yes"):
    query = {"method": method, "path": path, "body": body, "token": token}
    return microvm.get(f"/metadata?{urlencode(query)}")


def test_a_guest_learns_who_it_is_with_a_token_only(microvm, probe_image):
    assert ask(microvm, "GET", "/colibri/v1/identity", token="no")["status"] == 401
    found = ask(microvm, "GET", "/colibri/v1/identity")
    about = json.loads(found["body"])
    assert (found["status"], about["microvmId"], about["imageArn"]) == (200, microvm.id, probe_image)
    assert ask(microvm, "GET", "/latest/meta-data/placement/region")["body"] == "us-east-1"
    assert ask(microvm, "GET", "/latest/meta-data/iam/security-credentials/")["status"] == 404


def test_a_guest_has_itself_suspended_and_the_next_request_wakes_it(api, microvm):
    with microvm.client() as client:
        # The suspension may cut this request's own answer.
        client.get("/metadata?method=POST&path=/colibri/v1/suspend")
    api.wait_for_state(microvm.id, "SUSPENDED")
    assert microvm.get("/metadata-said")["status"] == 202
    visit = microvm.get("/")
    assert visit["hooks"]["suspend"] == 1 and visit["hooks"]["resume"] == 1
    assert ask(microvm, "GET", "/colibri/v1/identity")["status"] == 200, "after a wake too"
