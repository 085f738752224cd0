import json
import shutil

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from beam_pipelines.format.errors import ArtifactError, InputError
from export import publish
from export.gates.version_check import VersionError
from export.version.base_path import published_versions
from models.ranker.run import RANKER_FILE, RankerRun


def test_a_version_carries_warm_up_and_an_example_request(servable, toy_base_path, toy_run, rows):
    version = toy_base_path / "11"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record)
        for record in tf.data.TFRecordDataset(
            str(version / "assets.extra/tf_serving_warmup_requests")
        ).as_numpy_iterator()
    ]
    signatures = [log.predict_log.request.model_spec.signature_name for log in logs]
    assert set(signatures) == {"serving_default", "tf_example"}
    request = json.loads((version / "assets.extra/example_request.json").read_text())
    not_given = {"category": [], "title": [], "stat_price": [], "cluster_id": []}
    assert request == {"signature_name": "serving_default", "instances": [{**rows[0], **not_given}]}
    assert request["instances"][0].keys() == servable.signature("").inputs.keys()  # TensorFlow Serving's REST wants all
    assert {len(log.predict_log.request.inputs) for log in logs} == {1, len(request["instances"][0])}
    assert (version / "assets.extra/ranker.json").read_text() == (toy_run.path / "metadata.json").read_text()


def test_publish_raises_errors_about_arguments(toy_run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for arguments, kind, text in (
        ({"base_path": tmp_path / "file"}, InputError, "`base_path`: .* is not a directory"),
        ({"skew_pages": 0}, InputError, "`skew_pages` must be at least 1. Received: 0"),
        ({"version": 0}, InputError, "`version` must be between 1 and .* Received: 0"),
        ({"model": tmp_path}, ArtifactError, "`model`: .* has no metadata.json"),
        ({"report": tmp_path}, ArtifactError, "`report`: .* is no report"),
        ({"data": tmp_path}, ArtifactError, "`data`: "),
    ):
        with pytest.raises(kind, match=text):
            publish(**{"model": toy_run.path, "base_path": tmp_path / "serving", **arguments})
    assert not (tmp_path / "serving").exists()
    assert capsys.readouterr().out == ""


def test_a_version_that_fails_a_gate_is_not_published(toy_run, tmp_path):
    path = shutil.copytree(toy_run.path, tmp_path / "run")
    ranker = RankerRun(path).ranker()
    ranker.members[0].heads["ctr"].bias.assign([np.nan])
    ranker.save(path / RANKER_FILE)
    with pytest.raises(VersionError, match="it fails the gate `finite scores in process`"):
        publish(path, tmp_path / "serving")
    assert published_versions(tmp_path / "serving") == {}
