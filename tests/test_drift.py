"""The API's tables against the model that the clients of this environment were generated from."""

import gzip
import os
import shutil
import subprocess
from pathlib import Path

import botocore

from support.daemon import REPOSITORY


def published_model(service, directory):
    """The model as botocore ships it, unpacked."""
    [version] = sorted((Path(botocore.__file__).parent / "data" / service).iterdir())[-1:]
    packed, plain = version / "service-2.json.gz", version / "service-2.json"
    model = directory / f"{service}.json"
    with gzip.open(packed) if packed.exists() else plain.open("rb") as source, model.open("wb") as target:
        shutil.copyfileobj(source, target)
    return model


def test_the_tables_say_what_the_published_models_say(tmp_path):
    models = {
        "COLIBRI_LAMBDA_MICROVMS_MODEL": published_model("lambda-microvms", tmp_path),
        "COLIBRI_LAMBDA_CORE_MODEL": published_model("lambda-core", tmp_path),
    }
    run = subprocess.run(
        ["cargo", "test", "--release", "--package", "colibri-wire", "--test", "model_drift", "--", "--ignored"],
        cwd=REPOSITORY,
        env={**os.environ, **{name: str(path) for name, path in models.items()}},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr}"
    assert "2 passed" in run.stdout
