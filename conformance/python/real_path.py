"""What the Python programs on real machines share: the rows, in order, and how an endpoint is asked."""

import os

SECONDS = 400
HOOKS = {"port": 8080, "microvmImageHooks": {"ready": "ENABLED", "readyTimeoutInSeconds": 120}}
RESOURCES = [{"minimumMemoryInMiB": 512}]
POLICY = {"maxIdleDurationSeconds": 3600, "suspendedDurationSeconds": 3600, "autoResumeEnabled": True}
CA = os.environ["COLIBRI_CA"]
ARTIFACT = os.environ["COLIBRI_ARTIFACT"]
