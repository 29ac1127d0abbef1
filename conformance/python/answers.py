"""Holds an answer, as it came, against the service's published model: status, every member's name and
type, required members, enumerations, lengths, ranges. Clients forgive much of this; the next may not."""

import json
import re

ISO_TIME = re.compile(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def faults(operation, response):
    """What the model says against an answer of an operation, success or error; `response` is botocore's raw one."""
    found = []
    shape, expected = operation.output_shape, operation.http.get("responseCode", 200)
    if response.status_code >= 300:
        name = response.headers.get("x-amzn-errortype")
        shape = next((shape for shape in operation.error_shapes if shape.name == name), None)
        if shape is None:
            return [f"error {name}, which the operation does not declare"]
        expected = shape.metadata["error"]["httpStatusCode"]
    if response.status_code != expected:
        found.append(f"status {response.status_code} instead of {expected}")
    if "x-amzn-requestid" not in {name.lower() for name in response.headers}:
        found.append("no x-amzn-RequestId")
    body = response.content
    if shape is None or not shape.members:
        if body:
            found.append(f"a body, {body[:80]!r}, where the model has none")
        return found
    if response.headers.get("content-type") != "application/json":
        found.append(f"content type {response.headers.get('content-type')}")
    check(shape, json.loads(body), "", found)
    return found


def check(shape, value, path, found):
    """Compares one value with its shape, and what is in it with theirs."""
    checks = {"structure": structure, "list": sequence, "map": mapping, "string": text}
    if shape.type_name in checks:
        checks[shape.type_name](shape, value, path, found)
    elif shape.type_name in ("integer", "long"):
        if not isinstance(value, int) or isinstance(value, bool):
            found.append(f"{path} is {value!r}, no integer")
        else:
            bounds(shape, value, "value", path, found)
    elif shape.type_name == "timestamp" and shape.serialization.get("timestampFormat") == "iso8601":
        if not isinstance(value, str) or not ISO_TIME.fullmatch(value):
            found.append(f"{path} is {value!r}, no time as ISO 8601 writes it")
    elif shape.type_name == "timestamp":
        if not isinstance(value, (int, float)) or not 1.7e9 < value < 4e9:
            found.append(f"{path} is {value!r}, no epoch seconds of these years")
    elif shape.type_name == "boolean":
        if not isinstance(value, bool):
            found.append(f"{path} is {value!r}, no boolean")
    else:
        found.append(f"{path} is of a type that is not checked: {shape.type_name}")


def structure(shape, value, path, found):
    if not isinstance(value, dict):
        found.append(f"{path or 'the body'} is {value!r}, no object")
        return
    # Members that travel in headers (Retry-After) are not the body's.
    members = {name: member for name, member in shape.members.items() if "location" not in member.serialization}
    names = {member.serialization.get("name", name): member for name, member in members.items()}
    required = {shape.members[name].serialization.get("name", name) for name in shape.required_members}
    found += [f"{path}.{name} is missing" for name in sorted(required - value.keys())]
    if shape.is_tagged_union and len(value) != 1:
        found.append(f"{path} has {sorted(value)} where a union has one member")
    for name, inner in value.items():
        if name not in names:
            found.append(f"{path}.{name} is not in the model")
        elif inner is None:
            # The guide describes the end of a list so; the live service leaves the member out.
            found.append(f"{path}.{name} is null")
        else:
            check(names[name], inner, f"{path}.{name}", found)


def sequence(shape, value, path, found):
    if not isinstance(value, list):
        found.append(f"{path} is {value!r}, no list")
        return
    bounds(shape, len(value), "length", path, found)
    for index, inner in enumerate(value):
        check(shape.member, inner, f"{path}[{index}]", found)


def mapping(shape, value, path, found):
    if not isinstance(value, dict):
        found.append(f"{path} is {value!r}, no map")
        return
    bounds(shape, len(value), "length", path, found)
    for key, inner in value.items():
        check(shape.key, key, f"{path} key", found)
        check(shape.value, inner, f"{path}[{key}]", found)


def text(shape, value, path, found):
    if not isinstance(value, str):
        found.append(f"{path} is {value!r}, no string")
        return
    if shape.enum and value not in shape.enum:
        found.append(f"{path} is {value!r}, not one of {shape.enum}")
    bounds(shape, len(value), "length", path, found)
    pattern = shape.metadata.get("pattern")
    # Python's expressions have no Unicode classes; those of tags are left to the server's own tests.
    if pattern and "\\p{" not in pattern and not re.fullmatch(pattern, value):
        found.append(f"{path} is {value!r}, which does not match {pattern}")


def bounds(shape, size, what, path, found):
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if (low is not None and size < low) or (high is not None and size > high):
        found.append(f"{path}: {what} {size} is not within {low}..{high}")
