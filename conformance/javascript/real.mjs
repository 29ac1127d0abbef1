// The main path on a real machine through the JavaScript SDK, and its endpoint through node's fetch.

import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";

import * as sdk from "@aws-sdk/client-lambda-microvms";

const ACCOUNT = "000000000000";
const IMAGE = `arn:aws:lambda:us-east-1:${ACCOUNT}:microvm-image:real-javascript`;
const SECONDS = 400;

const api = new sdk.LambdaMicrovmsClient();
const call = (operation, input) => api.send(new sdk[`${operation}Command`](input));
let microvm;
let token;

async function check(operation, attempt) {
  const line = { operation, client: "JavaScript", passed: true, detail: "" };
  try {
    await attempt();
  } catch (error) {
    Object.assign(line, { passed: false, detail: `${error.name}: ${error.message} ${error.cause ?? ""}` });
  }
  console.log(JSON.stringify(line));
}

/** Polls, the only way to follow the API. */
async function waitFor(what, condition) {
  const deadline = Date.now() + SECONDS * 1000;
  while (!(await condition())) {
    assert.ok(Date.now() < deadline, `not within ${SECONDS} s: ${what}`);
    await pause(100);
  }
}

function reached(state) {
  return waitFor(state, async () => {
    const found = await call("GetMicrovm", { microvmIdentifier: microvm.microvmId });
    assert.ok(state === "TERMINATED" || found.state !== "TERMINATED", found.stateReason);
    return found.state === state;
  });
}

/** NODE_EXTRA_CA_CERTS names the authority that the endpoint's certificate is of. */
async function visits() {
  const answer = await fetch(`https://${microvm.endpoint}/`, { headers: { "X-aws-proxy-auth": token } });
  assert.equal(answer.status, 200);
  return (await answer.json()).visits;
}

await check("CreateMicrovmImage", async () => {
  await call("CreateMicrovmImage", {
    name: "real-javascript",
    baseImageArn: "arn:aws:lambda:us-east-1:aws:microvm-image:al2023-1",
    buildRoleArn: `arn:aws:iam::${ACCOUNT}:role/conformance`,
    codeArtifact: { uri: process.env.COLIBRI_ARTIFACT },
    resources: [{ minimumMemoryInMiB: 512 }],
    hooks: { port: 8080, microvmImageHooks: { ready: "ENABLED", readyTimeoutInSeconds: 120 } },
  });
  await waitFor("the image", async () => {
    const { state } = await call("GetMicrovmImage", { imageIdentifier: IMAGE });
    assert.ok(["CREATING", "CREATED"].includes(state), state);
    return state === "CREATED";
  });
});

await check("RunMicrovm", async () => {
  const idlePolicy = { maxIdleDurationSeconds: 3600, suspendedDurationSeconds: 3600, autoResumeEnabled: true };
  microvm = await call("RunMicrovm", { imageIdentifier: IMAGE, idlePolicy });
  await reached("RUNNING");
});

await check("CreateMicrovmAuthToken", async () => {
  const made = await call("CreateMicrovmAuthToken", {
    microvmIdentifier: microvm.microvmId,
    expirationInMinutes: 30,
    allowedPorts: [{ port: 8080 }],
  });
  token = made.authToken["X-aws-proxy-auth"];
});

await check("a request", async () => assert.equal(await visits(), 1));

await check("SuspendMicrovm", async () => {
  await call("SuspendMicrovm", { microvmIdentifier: microvm.microvmId });
  await reached("SUSPENDED");
});

await check("a request that wakes it", async () => assert.equal(await visits(), 2));

await check("ResumeMicrovm", async () => {
  await call("SuspendMicrovm", { microvmIdentifier: microvm.microvmId });
  await reached("SUSPENDED");
  await call("ResumeMicrovm", { microvmIdentifier: microvm.microvmId });
  await reached("RUNNING");
  assert.equal(await visits(), 3);
});

await check("TerminateMicrovm", async () => {
  await call("TerminateMicrovm", { microvmIdentifier: microvm.microvmId });
  await reached("TERMINATED");
});
