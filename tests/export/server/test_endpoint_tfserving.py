"""The same directory in TensorFlow Serving itself: see export/docker-compose.yml."""

import json
import os
import urllib.parse
import urllib.request

import pytest

from export import Page, RankerClient
from export.server.ports import host_port

pytestmark = [
    pytest.mark.tfserving,
    pytest.mark.skipif("TFSERVING_URL" not in os.environ, reason="set TFSERVING_URL to TensorFlow Serving's REST URL"),
]

ROW = {"user_id": "nobody", "item_id": ["no such item", "nor this"], "timestamp": 1_700_000_000_000, "query": "ring"}


def get(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(os.environ["TFSERVING_URL"] + path, data=data, timeout=60) as response:
        return response.read()


@pytest.fixture
def ranker_client():
    host = urllib.parse.urlsplit(os.environ["TFSERVING_URL"]).hostname
    address = os.environ.get("TFSERVING_GRPC", host_port(host, 8500))
    with RankerClient(address, timeout=60) as ranker_client:
        yield ranker_client


def test_a_version_is_available():
    states = json.loads(get("/v1/models/ranker"))["model_version_status"]
    assert "AVAILABLE" in {state["state"] for state in states}


def test_both_protocols_give_the_same_scores(ranker_client):
    numbers = {name: [-1, -1] for name in ranker_client.inputs if name.endswith(("_7d", "_30d"))}
    over_grpc = ranker_client.rank(Page.from_row({**ROW, **numbers}))
    # JSON has every input: REST of TensorFlow Serving asks for all of them in each row.
    row = {**{name: [] for name in ranker_client.inputs}, **ROW, **numbers}
    prediction = json.loads(get("/v1/models/ranker:predict", {"instances": [row]}))["predictions"][0]
    scores = prediction["ctr"] if isinstance(prediction, dict) else prediction
    assert [over_grpc[item] for item in ROW["item_id"]] == pytest.approx(scores, abs=1e-6)


def test_metrics_are_there():
    assert b":tensorflow:serving:request_count" in get("/monitoring/prometheus/metrics")
