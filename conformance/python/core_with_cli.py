"""The network connectors of `lambda-core` through the AWS CLI. Part of `with_cli.py`, against the same
server. Its model is older: it knows nothing of versions."""

import datetime

from report import ROLE, connector_arn, equal, vpc, wait_for


def drive(check, call, raises, run_microvm):
    """`call` and `raises` are the CLI's on `lambda-core`."""
    made = {}

    def settled(identifier):
        def there():
            found = call("get-network-connector", identifier=identifier)
            busy = found["State"] == "PENDING" or found.get("LastUpdateStatus") == "InProgress"
            return None if busy else found

        return wait_for(f"{identifier} settled", there)

    def create(name, subnet, **more):
        role = {"operator_role": ROLE, **more}
        return call("create-network-connector", name=name, configuration=vpc(subnet), **role)

    @check("CreateNetworkConnector")
    def _():
        answer = create("office", "subnet-1", tags={"team": "conformance"}, client_token="once")
        made["arn"] = answer["Arn"]
        equal("Arn", answer["Arn"], connector_arn(answer["Id"]))
        equal("state", answer["State"], "PENDING")
        again = create("office", "subnet-1", tags={"team": "conformance"}, client_token="once")
        equal("again", again["Id"], answer["Id"])
        equal("State", settled("office")["State"], "ACTIVE")
        create("failed", "subnet-none")
        equal("State", settled("failed")["StateReasonCode"], "InvalidSubnet")

    @check("GetNetworkConnector")
    def _():
        found = call("get-network-connector", identifier=made["arn"])
        equal("Name", found["Name"], "office")
        equal("Configuration", found["Configuration"]["VpcEgressConfiguration"]["SubnetIds"], ["subnet-1"])
        moment = datetime.datetime.fromisoformat(found["LastModified"])
        age = datetime.datetime.now(datetime.UTC) - moment
        assert abs(age.total_seconds()) < 600, age
        equal("of a version", call("get-network-connector", identifier=f"{made['arn']}:1")["Arn"], made["arn"])

    @check("UpdateNetworkConnector")
    def _():
        call("update-network-connector", identifier="office", configuration=vpc("subnet-2"))
        found = settled("office")
        equal("LastUpdateStatus", found["LastUpdateStatus"], "Successful")
        equal("Configuration", found["Configuration"]["VpcEgressConfiguration"]["SubnetIds"], ["subnet-2"])

    def names(**options):
        return [item["Name"] for item in call("list-network-connectors", **options)["NetworkConnectors"]]

    @check("ListNetworkConnectors")
    def _():
        equal("all", names(), ["office", "failed"])
        equal("failed", names(state="FAILED"), ["failed"])

    @check("paginator ListNetworkConnectors")
    def _():
        equal("all pages", names(page_size=1), ["office", "failed"])

    @check("RunMicrovm with a network connector")
    def _():
        answer = run_microvm(egress_network_connectors=[made["arn"]])
        equal("egressNetworkConnectors", answer["egressNetworkConnectors"], [made["arn"]])

    @check("lambda-core InvalidParameterValueException")
    def _():
        message = raises(
            "InvalidParameterValueException",
            "create-network-connector",
            name="other",
            configuration=vpc("subnet-1"),
        )
        assert "NetworkConnectorOperatorRole is required" in message, message

    @check("lambda-core ResourceConflictException")
    def _():
        raises(
            "ResourceConflictException",
            "create-network-connector",
            name="office",
            configuration=vpc("subnet-1"),
            operator_role=ROLE,
        )

    @check("lambda-core ResourceNotFoundException")
    def _():
        for operation in ("get-network-connector", "update-network-connector", "delete-network-connector"):
            raises("ResourceNotFoundException", operation, identifier="none")

    @check("lambda-core NetworkConnectorLimitExceededException")
    def _():
        for number in range(2):
            create(f"filler-{number}", "subnet-1")
        raises(
            "NetworkConnectorLimitExceededException",
            "create-network-connector",
            name="one-too-many",
            configuration=vpc("subnet-1"),
            operator_role=ROLE,
        )

    @check("DeleteNetworkConnector")
    def _():
        call("delete-network-connector", identifier=f"{made['arn']}:1")
        for _ in range(2):
            equal("state", call("delete-network-connector", identifier="office")["State"], "DELETING")
        raises("ResourceNotFoundException", "get-network-connector", identifier=made["arn"])
