"""The network connectors of `lambda-core` through boto3: every operation, paginator and error that can be
brought about. Part of `with_boto3.py`, against the same server."""

import datetime
import uuid

import boto3
from answers import faults
from report import ROLE, connector_arn, equal, vpc, wait_for

api = boto3.client("lambda-core")
answers_against_model = []
OTHER_ROLE = ROLE + "-other"
TAGS = {"team": "conformance", "a key:with/odd=+chars@._-": "välue"}
FULL = {
    "Name": "office",
    "Configuration": {
        "VpcEgressConfiguration": {
            "SubnetIds": ["subnet-1"],
            "SecurityGroupIds": ["sg-1"],
            "NetworkProtocol": "DualStack",
            "AssociatedComputeResourceTypes": ["MicroVm"],
            "ElasticIpConfiguration": {"Type": "None"},
        }
    },
    "OperatorRole": ROLE,
    "Tags": TAGS,
}


def hold_against_model(http_response, model, **_):
    if http_response.status_code < 300:
        answers_against_model.append(model.name)
    found = faults(model, http_response)
    assert not found, f"{model.name}: {'; '.join(found)}"


api.meta.events.register("after-call.lambda-core", hold_against_model)


def settled(identifier, state="ACTIVE"):
    def there():
        found = api.get_network_connector(Identifier=identifier)
        busy = found["State"] == "PENDING" or found.get("LastUpdateStatus") == "InProgress"
        return None if busy else found

    found = wait_for(f"{identifier} settled", there)
    equal("State", found["State"], state)
    return found


def drive(check, raises, run_microvm, list_tags):
    """`run_microvm` and `list_tags` are `lambda-microvms`'s."""
    made = {}

    @check("CreateNetworkConnector")
    def _():
        token = str(uuid.uuid4())
        answer = api.create_network_connector(**FULL, ClientToken=token)
        made["arn"], made["id"] = answer["Arn"], answer["Id"]
        equal("status", answer["ResponseMetadata"]["HTTPStatusCode"], 202)
        equal("Arn", answer["Arn"], connector_arn(answer["Id"]))
        equal("VersionArn", answer["VersionArn"], f"{made['arn']}:1")
        equal("Configuration", answer["Configuration"], FULL["Configuration"])
        echoed = [answer[name] for name in ("Name", "Version", "OperatorRole", "State")]
        equal("answer", echoed, ["office", 1, ROLE, "PENDING"])
        equal("again", api.create_network_connector(**FULL, ClientToken=token)["Id"], made["id"])
        least = api.create_network_connector(Name="least", Configuration=vpc("subnet-2"), OperatorRole=ROLE)
        defaults = least["Configuration"]["VpcEgressConfiguration"]
        equal("NetworkProtocol", defaults["NetworkProtocol"], "IPv4")
        settled("office")
        settled("least")

    @check("GetNetworkConnector")
    def _():
        found = settled("office")
        for identifier in (made["id"], made["arn"]):
            again = api.get_network_connector(Identifier=identifier)
            del again["ResponseMetadata"], found["ResponseMetadata"]
            equal(identifier, again, found)
            found = settled("office")
        equal("LatestVersion", found["LatestVersion"], 1)
        equal("LatestVersionArn", found["LatestVersionArn"], f"{made['arn']}:1")
        assert "VersionArn" not in found and "LastUpdateStatus" not in found, found
        age = datetime.datetime.now(datetime.UTC) - found["LastModified"]
        assert abs(age.total_seconds()) < 600, age
        version = api.get_network_connector(Identifier=f"{made['arn']}:1")
        equal("VersionArn", version["VersionArn"], f"{made['arn']}:1")
        assert "LatestVersion" not in version, version
        equal("tags", list_tags(Resource=made["arn"])["Tags"], TAGS)
        failed = api.create_network_connector(
            Name="failed", Configuration=vpc("subnet-none"), OperatorRole=ROLE
        )
        failed = settled(failed["Arn"], "FAILED")
        equal("StateReasonCode", failed["StateReasonCode"], "InvalidSubnet")
        assert "subnet-none" in failed["StateReason"], failed["StateReason"]

    @check("UpdateNetworkConnector")
    def _():
        token = str(uuid.uuid4())
        change = {"Identifier": "office", "Configuration": vpc("subnet-2"), "ClientToken": token}
        answer = api.update_network_connector(**change)
        equal("status", answer["ResponseMetadata"]["HTTPStatusCode"], 202)
        equal("Version", answer["Version"], 2)
        equal("VersionArn", answer["VersionArn"], f"{made['arn']}:2")
        equal("LastUpdateStatus", answer["LastUpdateStatus"], "InProgress")
        found = settled("office")
        equal("LatestVersion", found["LatestVersion"], 2)
        equal("LastUpdateStatus", found["LastUpdateStatus"], "Successful")
        equal("again", api.update_network_connector(**change)["Version"], 2)
        equal("nothing new", api.update_network_connector(Identifier="office")["Version"], 2)
        api.update_network_connector(Identifier="office", OperatorRole=OTHER_ROLE)
        equal("OperatorRole", settled("office")["OperatorRole"], OTHER_ROLE)
        api.update_network_connector(Identifier="office", Configuration=vpc("subnet-none"))
        found = settled("office")
        equal("LatestVersion", found["LatestVersion"], 3)
        equal("LastUpdateStatus", found["LastUpdateStatus"], "Failed")
        equal("LastUpdateStatusReasonCode", found["LastUpdateStatusReasonCode"], "InvalidSubnet")

    @check("ListNetworkConnectors")
    def _():
        items = api.list_network_connectors()["NetworkConnectors"]
        equal("names", [item["Name"] for item in items], ["office", "least", "failed"])
        equal("Type", {item["Type"] for item in items}, {"VPC_EGRESS"})
        failed = api.list_network_connectors(State="FAILED", MaxItems=1)
        equal("failed", [item["Name"] for item in failed["NetworkConnectors"]], ["failed"])
        assert "NextMarker" not in failed, failed

    @check("ListNetworkConnectorVersions")
    def _():
        items = api.list_network_connector_versions(Identifier="office")["NetworkConnectorVersions"]
        equal("versions", [item["Version"] for item in items], [4, 3, 2, 1])
        equal("State", [item["State"] for item in items], ["FAILED", "ACTIVE", "ACTIVE", "ACTIVE"])
        equal("StateReasonCode", items[0]["StateReasonCode"], "InvalidSubnet")

    @check("paginator ListNetworkConnectors")
    def _():
        pages = api.get_paginator("list_network_connectors").paginate(
            State="ACTIVE", PaginationConfig={"PageSize": 1}
        )
        names = [[item["Name"] for item in page["NetworkConnectors"]] for page in pages]
        equal("pages", names, [["office"], ["least"]])

    @check("paginator ListNetworkConnectorVersions")
    def _():
        pages = api.get_paginator("list_network_connector_versions").paginate(
            Identifier=made["id"], PaginationConfig={"PageSize": 1}
        )
        versions = [[item["Version"] for item in page["NetworkConnectorVersions"]] for page in pages]
        equal("pages", versions, [[4], [3], [2], [1]])

    @check("RunMicrovm with a network connector")
    def _():
        answer = run_microvm(egressNetworkConnectors=[made["arn"]])
        equal("egressNetworkConnectors", answer["egressNetworkConnectors"], [made["arn"]])

    errors = api.exceptions

    @check("lambda-core InvalidParameterValueException")
    def _():
        refused = errors.InvalidParameterValueException
        long = raises(refused, api.create_network_connector, **{**FULL, "Name": "x" * 65})
        assert "failed to satisfy constraint" in str(long), long
        equal("Type", long.response["Type"], "User")
        without = {name: value for name, value in FULL.items() if name != "OperatorRole"}
        role = raises(refused, api.create_network_connector, **{**without, "Name": "other"})
        assert "NetworkConnectorOperatorRole is required for VPC_EGRESS connector type" in str(role), role
        raises(refused, api.list_network_connectors, MaxItems=101)
        raises(refused, api.list_network_connectors, Marker="made-up")
        raises(refused, api.get_network_connector, Identifier="arn:aws:s3:::bucket")

    @check("lambda-core ResourceConflictException")
    def _():
        conflict = errors.ResourceConflictException
        equal("Type", raises(conflict, api.create_network_connector, **FULL).response["Type"], "User")
        token = str(uuid.uuid4())
        one = {"Identifier": "least", "OperatorRole": OTHER_ROLE, "ClientToken": token}
        api.update_network_connector(**one)
        settled("least")
        raises(conflict, api.update_network_connector, **{**one, "OperatorRole": ROLE})
        raises(conflict, api.update_network_connector, Identifier="failed", OperatorRole=OTHER_ROLE)
        raises(conflict, api.delete_network_connector, Identifier=f"{made['arn']}:3")

    @check("lambda-core ResourceNotFoundException")
    def _():
        missing = errors.ResourceNotFoundException
        for call in (
            api.get_network_connector,
            api.update_network_connector,
            api.delete_network_connector,
            api.list_network_connector_versions,
        ):
            error = raises(missing, call, Identifier="none")
            assert error.response["Message"], error.response
        raises(missing, api.get_network_connector, Identifier=f"{made['arn']}:99")

    @check("lambda-core NetworkConnectorLimitExceededException")
    def _():
        limit = errors.NetworkConnectorLimitExceededException

        def fill():
            for number in range(10):
                api.create_network_connector(**{**FULL, "Name": f"filler-{number}"})

        raises(limit, fill)

        def change():
            for subnet in ("subnet-1", "subnet-2") * 5:
                api.update_network_connector(Identifier="office", Configuration=vpc(subnet))
                settled("office")

        raises(limit, change)

    @check("DeleteNetworkConnector")
    def _():
        answer = api.delete_network_connector(Identifier=f"{made['arn']}:1")
        equal("status", answer["ResponseMetadata"]["HTTPStatusCode"], 202)
        equal("version", [answer["Version"], answer["State"]], [1, "DELETING"])
        for identifier in ("office", "office", made["arn"]):
            answer = api.delete_network_connector(Identifier=identifier)
            equal("connector", [answer["Arn"], answer["State"]], [made["arn"], "DELETING"])
        raises(errors.ResourceNotFoundException, api.get_network_connector, Identifier="office")
        for connector in api.list_network_connectors()["NetworkConnectors"]:
            api.delete_network_connector(Identifier=connector["Id"])

    served = {name for name in api.meta.service_model.operation_names if "NetworkConnector" in name}
    return served - set(answers_against_model)
