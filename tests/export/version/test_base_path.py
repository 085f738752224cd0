from google.protobuf import text_format
from tensorflow_serving.config import model_server_config_pb2

from export.version.base_path import BATCHING_CONFIG, MODELS_CONFIG, published_versions, write_serving_config


def test_a_base_path_has_files_for_tensorflow_serving(toy_base_path, tmp_path):
    text = (toy_base_path / MODELS_CONFIG).read_text()
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config[0]
    assert (config.name, config.base_path, config.model_platform) == ("ranker", "/models/ranker", "tensorflow")
    assert "pad_variable_length_inputs: false" in (toy_base_path / BATCHING_CONFIG).read_text()
    (tmp_path / BATCHING_CONFIG).write_text("max_batch_size { value: 7 }\n")
    write_serving_config(tmp_path)
    assert (tmp_path / BATCHING_CONFIG).read_text() == "max_batch_size { value: 7 }\n"


def test_what_looks_like_a_version_is_one(tmp_path):
    for name in ("2", "00010", "x", "-3", "1.5", ".30.incomplete-1", str(2**63)):
        (tmp_path / name).mkdir()
    (tmp_path / "40").write_text("a file")
    assert published_versions(tmp_path) == {2: tmp_path / "2", 10: tmp_path / "00010"}
    assert published_versions(tmp_path / "none") == {}
