// Every operation, paginator and error of the API through the JavaScript SDK, with nothing set but
// AWS_ENDPOINT_URL and the credentials' files. Prints one line of JSON for each thing that was tried.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";

import * as sdk from "@aws-sdk/client-lambda-microvms";
import { CreateBucketCommand, GetObjectCommand, PutObjectCommand, S3Client } from "@aws-sdk/client-s3";
import { GetCallerIdentityCommand, STSClient } from "@aws-sdk/client-sts";

const ACCOUNT = "000000000000";
const ROLE = `arn:aws:iam::${ACCOUNT}:role/conformance`;
const BASE_IMAGE = "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1";
const CONNECTOR = "arn:aws:lambda:us-east-1:aws:network-connector:aws-network-connector";
const FUNCTION = `arn:aws:lambda:us-east-1:${ACCOUNT}:function:none`;
const NO_MICROVM = "microvm-00000000-0000-4000-8000-000000000000";
const NOBODY = { accessKeyId: "AKIANOBODYKNOWSTHISK", secretAccessKey: "x" };
const SECONDS = 60;

const arn = (name) => `arn:aws:lambda:us-east-1:${ACCOUNT}:microvm-image:${name}`;
const [FIRST, SECOND, THIRD, NONE] = ["first", "second", "third", "none"].map(arn);
const TAGS = { team: "conformance", "a key:with/odd=+chars@._-": "välue" };
const MINIMAL = {
  baseImageArn: BASE_IMAGE,
  buildRoleArn: ROLE,
  codeArtifact: { uri: "s3://conformance-javascript/application.zip" },
};
const FULL = {
  ...MINIMAL,
  description: "Everything that can be said: ä, 漢, \"quoted\"",
  logging: { cloudWatch: { logGroup: "/conformance/javascript", logStream: "builds" } },
  egressNetworkConnectors: [`${CONNECTOR}:INTERNET_EGRESS`],
  resources: [{ minimumMemoryInMiB: 512 }],
  cpuConfigurations: [{ architecture: process.arch === "arm64" ? "ARM_64" : "X86_64" }],
  additionalOsCapabilities: ["ALL"],
  hooks: {
    port: 9000,
    microvmImageHooks: { ready: "ENABLED", readyTimeoutInSeconds: 60, validate: "DISABLED" },
    microvmHooks: { run: "ENABLED", runTimeoutInSeconds: 10, suspend: "ENABLED", suspendTimeoutInSeconds: 10 },
  },
  environmentVariables: { PLAIN: "value", EMPTY: "", UMLAUT: "ä=漢\n" },
};

const api = new sdk.LambdaMicrovmsClient();
const microvms = [];

/** Sends the command of that name. Every answer carries its request's id. */
async function call(operation, input = {}, client = api) {
  const output = await client.send(new sdk[`${operation}Command`](input));
  assert.ok(output.$metadata.requestId, `${operation}: no request id`);
  delete output.$metadata;
  return output;
}

async function check(operation, attempt) {
  const line = { operation, client: "JavaScript", passed: true, detail: "" };
  try {
    await attempt();
  } catch (error) {
    Object.assign(line, { passed: false, detail: `${error.name}: ${error.message}` });
  }
  console.log(JSON.stringify(line));
}

/** Polls, the only way to follow the API. */
async function waitFor(what, condition) {
  const deadline = Date.now() + SECONDS * 1000;
  for (;;) {
    const value = await condition();
    if (value) return value;
    assert.ok(Date.now() < deadline, `not within ${SECONDS} s: ${what}`);
    await pause(50);
  }
}

function settled(imageIdentifier, state) {
  return waitFor(`${imageIdentifier} ${state}`, async () => {
    const image = await call("GetMicrovmImage", { imageIdentifier });
    assert.ok(!image.state.endsWith("_FAILED"), image.state);
    return image.state === state && image;
  });
}

function reached(microvmIdentifier, state) {
  return waitFor(`${microvmIdentifier} ${state}`, async () => {
    const microvm = await call("GetMicrovm", { microvmIdentifier });
    return microvm.state === state && microvm;
  });
}

/** Members of `found` that `expected` names. */
function has(found, expected) {
  for (const [name, value] of Object.entries(expected)) assert.deepEqual(found[name], value, name);
}

function recent(moment) {
  assert.ok(moment instanceof Date, `${moment} is no time`);
  assert.ok(Math.abs(Date.now() - moment.getTime()) < 600_000, `${moment} is not recent`);
}

/** Items over all pages of one item each, and how many pages there were. */
async function pages(operation, input = {}) {
  const items = [];
  let count = 0;
  for await (const page of sdk[`paginate${operation}`]({ client: api, pageSize: 1 }, input)) {
    assert.ok(page.items.length <= 1, `a page of ${page.items.length} items`);
    items.push(...page.items);
    count += 1;
  }
  return { items, count };
}

/** The client's own class of the error, with its members. */
async function raises(name, operation, input, client = api) {
  try {
    await call(operation, input, client);
  } catch (error) {
    assert.equal(error.name, name, `${operation}: ${error.name}: ${error.message}`);
    assert.ok(error instanceof sdk[name], `${error.name} is no ${name}`);
    assert.ok(error.message, "no message");
    assert.ok(error.$metadata.requestId, "no request id");
    return error;
  }
  throw new Error(`${operation}: ${name} was not raised`);
}

/** Not in the model: the client raises its general class, with the name. */
async function refused(name, settings) {
  try {
    await call("ListMicrovms", {}, new sdk.LambdaMicrovmsClient(settings));
  } catch (error) {
    assert.equal(error.name, name, error.message);
    assert.ok(error instanceof sdk.LambdaMicrovmsServiceException);
    assert.equal(error.$metadata.httpStatusCode, 403);
    return;
  }
  throw new Error("answered");
}

await check("s3", async () => {
  const s3 = new S3Client();
  const object = { Bucket: "conformance-javascript", Key: "application.zip" };
  await s3.send(new CreateBucketCommand({ Bucket: object.Bucket }));
  await s3.send(new PutObjectCommand({ ...object, Body: "an application" }));
  const found = await s3.send(new GetObjectCommand(object));
  assert.equal(await found.Body.transformToString(), "an application");
});

await check("sts", async () => {
  const identity = await new STSClient().send(new GetCallerIdentityCommand());
  assert.equal(identity.Account, ACCOUNT);
  const nobody = new STSClient({ credentials: NOBODY });
  await assert.rejects(nobody.send(new GetCallerIdentityCommand()), { name: "InvalidClientTokenId" });
});

await check("ListManagedMicrovmImages", async () => {
  const { items } = await call("ListManagedMicrovmImages");
  assert.deepEqual(items.map((item) => item.imageArn), [BASE_IMAGE]);
});

await check("ListManagedMicrovmImageVersions", async () => {
  const { items } = await call("ListManagedMicrovmImageVersions", { imageIdentifier: BASE_IMAGE });
  has(items[0], { status: "AVAILABLE", imageVersion: "1" });
});

await check("paginator ListManagedMicrovmImages", async () => {
  assert.equal((await pages("ListManagedMicrovmImages")).items.length, 1);
});

await check("paginator ListManagedMicrovmImageVersions", async () => {
  const { items } = await pages("ListManagedMicrovmImageVersions", { imageIdentifier: BASE_IMAGE });
  assert.ok(items.length > 0);
});

await check("CreateMicrovmImage", async () => {
  const input = { ...FULL, name: "first", tags: TAGS, clientToken: randomUUID() };
  const image = await call("CreateMicrovmImage", input);
  has(image, { ...FULL, imageArn: FIRST, name: "first", state: "CREATING", imageVersion: "1.0", tags: TAGS });
  recent(image.createdAt);
  const again = await call("CreateMicrovmImage", input);
  assert.deepEqual(again.createdAt, image.createdAt);
});

await check("GetMicrovmImage", async () => {
  has(await settled(FIRST, "CREATED"), { latestActiveImageVersion: "1.0", tags: TAGS });
});

await check("UpdateMicrovmImage", async () => {
  const image = await call("UpdateMicrovmImage", { ...MINIMAL, imageIdentifier: FIRST });
  const expected = { state: "UPDATING", imageVersion: "2.0", resources: [{ minimumMemoryInMiB: 2048 }] };
  has(image, { ...expected, hooks: undefined, environmentVariables: undefined });
  recent(image.updatedAt);
  has(await settled(FIRST, "UPDATED"), { latestActiveImageVersion: "2.0" });
});

await check("ListMicrovmImages", async () => {
  for (const name of ["second", "third"]) {
    await call("CreateMicrovmImage", { ...MINIMAL, name });
    await settled(arn(name), "CREATED");
  }
  const { items } = await call("ListMicrovmImages", { nameFilter: "eco", maxResults: 50 });
  assert.deepEqual(items.map((item) => item.name), ["second"]);
  recent(items[0].createdAt);
});

await check("paginator ListMicrovmImages", async () => {
  const { items, count } = await pages("ListMicrovmImages");
  assert.deepEqual(items.map((item) => item.name).sort(), ["first", "second", "third"]);
  assert.ok(count >= 3, `${count} pages`);
  // Filters apply after paging: there are empty pages on the way.
  const filtered = await pages("ListMicrovmImages", { nameFilter: "third" });
  assert.deepEqual(filtered.items.map((item) => item.name), ["third"]);
});

await check("GetMicrovmImageVersion", async () => {
  const version = await call("GetMicrovmImageVersion", { imageIdentifier: FIRST, imageVersion: "1.0" });
  has(version, { ...FULL, state: "SUCCESSFUL", tags: TAGS, stateReason: undefined });
});

await check("ListMicrovmImageVersions", async () => {
  const { items } = await call("ListMicrovmImageVersions", { imageIdentifier: FIRST });
  assert.deepEqual(items.map((item) => item.imageVersion), ["2.0", "1.0"]);
});

await check("paginator ListMicrovmImageVersions", async () => {
  const { items, count } = await pages("ListMicrovmImageVersions", { imageIdentifier: FIRST });
  assert.deepEqual(items.map((item) => item.imageVersion), ["2.0", "1.0"]);
  assert.ok(count >= 2, `${count} pages`);
});

const VERSION = { imageIdentifier: FIRST, imageVersion: "1.0" };

await check("ListMicrovmImageBuilds", async () => {
  const { items } = await call("ListMicrovmImageBuilds", VERSION);
  assert.equal(items[0].buildState, "SUCCESSFUL");
  const { architecture, chipset, chipsetGeneration } = items[0];
  const same = await call("ListMicrovmImageBuilds", { ...VERSION, architecture, chipset, chipsetGeneration });
  assert.deepEqual(same.items, items);
});

await check("paginator ListMicrovmImageBuilds", async () => {
  assert.equal((await pages("ListMicrovmImageBuilds", VERSION)).items.length, 1);
});

await check("GetMicrovmImageBuild", async () => {
  const { items } = await call("ListMicrovmImageBuilds", VERSION);
  const { snapshotBuild, ...build } = await call("GetMicrovmImageBuild", { ...VERSION, buildId: items[0].buildId });
  assert.deepEqual(build, items[0]);
  assert.equal(Object.values(snapshotBuild).filter(Number.isInteger).length, 3);
});

await check("UpdateMicrovmImageVersion", async () => {
  for (const [status, active] of [["INACTIVE", "1.0"], ["ACTIVE", "2.0"]]) {
    const input = { imageIdentifier: FIRST, imageVersion: "2.0", status };
    has(await call("UpdateMicrovmImageVersion", input), { status });
    has(await call("GetMicrovmImage", { imageIdentifier: FIRST }), { latestActiveImageVersion: active });
  }
});

const tags = async () => (await call("ListTags", { Resource: FIRST })).Tags;

await check("ListTags", async () => assert.deepEqual(await tags(), TAGS));

await check("TagResource", async () => {
  await call("TagResource", { Resource: FIRST, Tags: { team: "other", extra: "" } });
  assert.deepEqual(await tags(), { ...TAGS, team: "other", extra: "" });
});

await check("UntagResource", async () => {
  await call("UntagResource", { Resource: FIRST, TagKeys: Object.keys(TAGS) });
  assert.deepEqual(await tags(), { extra: "" });
});

await check("RunMicrovm", async () => {
  const echoed = {
    imageVersion: "1.0",
    executionRoleArn: ROLE,
    idlePolicy: { maxIdleDurationSeconds: 600, suspendedDurationSeconds: 600, autoResumeEnabled: true },
    maximumDurationInSeconds: 3600,
    ingressNetworkConnectors: [`${CONNECTOR}:HTTP_INGRESS`, `${CONNECTOR}:SHELL_INGRESS`],
    egressNetworkConnectors: [`${CONNECTOR}:INTERNET_EGRESS`],
  };
  const input = { ...echoed, imageIdentifier: FIRST, logging: { disabled: {} }, runHookPayload: "{}" };
  const clientToken = randomUUID();
  const microvm = await call("RunMicrovm", { ...input, clientToken });
  has(microvm, { ...echoed, state: "PENDING", imageArn: FIRST });
  recent(microvm.startedAt);
  microvms.push(microvm.microvmId);
  assert.equal((await call("RunMicrovm", { ...input, clientToken })).microvmId, microvms[0]);
  for (const imageIdentifier of [SECOND, SECOND]) {
    microvms.push((await call("RunMicrovm", { imageIdentifier })).microvmId);
  }
});

await check("GetMicrovm", async () => {
  for (const id of microvms) {
    has(await reached(id, "RUNNING"), { stateReason: undefined, terminatedAt: undefined });
  }
});

await check("ListMicrovms", async () => {
  const { items } = await call("ListMicrovms", VERSION);
  assert.deepEqual(items.map((item) => item.microvmId), microvms.slice(0, 1));
});

await check("paginator ListMicrovms", async () => {
  const { items, count } = await pages("ListMicrovms");
  assert.deepEqual(items.map((item) => item.microvmId).sort(), [...microvms].sort());
  assert.ok(count >= 3, `${count} pages`);
});

await check("CreateMicrovmAuthToken", async () => {
  for (const allowedPorts of [[{ port: 8080 }, { range: { startPort: 9000, endPort: 9010 } }], [{ allPorts: {} }]]) {
    const input = { microvmIdentifier: microvms[0], expirationInMinutes: 60, allowedPorts };
    const { authToken } = await call("CreateMicrovmAuthToken", input);
    assert.deepEqual(Object.keys(authToken), ["X-aws-proxy-auth"]);
  }
});

await check("CreateMicrovmShellAuthToken", async () => {
  const input = { microvmIdentifier: microvms[0], expirationInMinutes: 1 };
  const { authToken } = await call("CreateMicrovmShellAuthToken", input);
  assert.deepEqual(Object.keys(authToken), ["X-aws-proxy-auth"]);
});

await check("SuspendMicrovm", async () => {
  await call("SuspendMicrovm", { microvmIdentifier: microvms[0] });
  await reached(microvms[0], "SUSPENDED");
});

await check("ResumeMicrovm", async () => {
  await call("ResumeMicrovm", { microvmIdentifier: microvms[0] });
  await reached(microvms[0], "RUNNING");
});

await check("TerminateMicrovm", async () => {
  await call("TerminateMicrovm", { microvmIdentifier: microvms[0] });
  recent((await reached(microvms[0], "TERMINATED")).terminatedAt);
  await call("TerminateMicrovm", { microvmIdentifier: microvms[0] });
});

await check("ValidationException", async () => {
  await raises("ValidationException", "GetMicrovmImage", { imageIdentifier: "first" });
  await raises("ValidationException", "CreateMicrovmImage", { ...MINIMAL, name: "no spaces" });
  await raises("ValidationException", "CreateMicrovmImage", { ...MINIMAL, name: "second" });
  await raises("ValidationException", "ListMicrovms", { maxResults: 51 });
  const allowedPorts = [{ port: 1 }];
  const tooLong = { microvmIdentifier: microvms[1], expirationInMinutes: 61, allowedPorts };
  const error = await raises("ValidationException", "CreateMicrovmAuthToken", tooLong);
  assert.equal(error.message, "ExpirationMinutes 61 exceeded max allowed of 60.");
});

await check("ResourceNotFoundException", async () => {
  const error = await raises("ResourceNotFoundException", "GetMicrovmImage", { imageIdentifier: NONE });
  has(error, { resourceId: NONE, resourceType: "MicroVMImage" });
  await raises("ResourceNotFoundException", "RunMicrovm", { imageIdentifier: NONE });
  await raises("ResourceNotFoundException", "GetMicrovm", { microvmIdentifier: NO_MICROVM });
  await raises("ResourceNotFoundException", "ListTags", { Resource: NONE });
});

await check("ConflictException", async () => {
  const ended = { microvmIdentifier: microvms[0] };
  has(await raises("ConflictException", "SuspendMicrovm", ended), { resourceId: microvms[0] });
  const clientToken = randomUUID();
  microvms.push((await call("RunMicrovm", { imageIdentifier: SECOND, clientToken })).microvmId);
  await raises("ConflictException", "RunMicrovm", { imageIdentifier: THIRD, clientToken });
});

await check("InvalidParameterValueException", async () => {
  const error = await raises("InvalidParameterValueException", "ListTags", { Resource: FUNCTION });
  has(error, { Type: "User" });
});

await check("ServiceQuotaExceededException", async () => {
  const error = await raisesWithin(10, "ServiceQuotaExceededException", "CreateMicrovmImage", (number) => ({
    ...MINIMAL,
    name: `filler-${number}`,
  }));
  has(error, { quotaCode: "L-942E56BE", serviceCode: "lambda" });
  assert.equal(error.$metadata.httpStatusCode, 402);
});

await check("InsufficientCapacityException", () =>
  raisesWithin(10, "InsufficientCapacityException", "RunMicrovm", () => ({ imageIdentifier: SECOND })),
);

/** Repeats a call until the bound that the server has for it. */
async function raisesWithin(times, name, operation, input) {
  for (let number = 0; number < times; number += 1) {
    try {
      await call(operation, input(number));
    } catch (error) {
      assert.ok(error instanceof sdk[name], `${error.name}: ${error.message}`);
      return error;
    }
  }
  throw new Error(`${name} was not raised`);
}

await check("UnrecognizedClientException", () =>
  refused("UnrecognizedClientException", { credentials: NOBODY }),
);

await check("InvalidSignatureException", async () => {
  const text = await readFile(process.env.AWS_SHARED_CREDENTIALS_FILE, "utf8");
  const accessKeyId = /aws_access_key_id\s*=\s*(\S+)/.exec(text)[1];
  await refused("InvalidSignatureException", { credentials: { accessKeyId, secretAccessKey: "x" } });
});

await check("MissingAuthenticationTokenException", () =>
  refused("MissingAuthenticationTokenException", {
    httpAuthSchemes: [
      {
        schemeId: "aws.auth#sigv4",
        identityProvider: () => async () => ({}),
        signer: { sign: async (request) => request },
      },
    ],
  }),
);

await check("DeleteMicrovmImageVersion", async () => {
  const input = { imageIdentifier: FIRST, imageVersion: "2.0" };
  has(await call("DeleteMicrovmImageVersion", input), { state: "DELETING", imageVersion: "2.0" });
  has(await settled(FIRST, "UPDATED"), { latestActiveImageVersion: "1.0" });
  await raises("ResourceNotFoundException", "GetMicrovmImageVersion", input);
});

await check("DeleteMicrovmImage", async () => {
  const input = { imageIdentifier: FIRST };
  has(await call("DeleteMicrovmImage", input), { state: "DELETING", imageIdentifier: FIRST });
  await waitFor("first gone", () =>
    call("GetMicrovmImage", input).then(
      () => false,
      (error) => error instanceof sdk.ResourceNotFoundException,
    ),
  );
  has(await call("DeleteMicrovmImage", input), { state: "DELETED" });
});
