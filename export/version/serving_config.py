"""Configuration files for TensorFlow Serving beside the versions of a model."""

from pathlib import Path

from beam_pipelines.format.outputs import whole_file

MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"

_MODELS_TEXT = """\
# For TensorFlow Serving with this directory mounted at /models/ranker:
#   tensorflow_model_server --model_config_file=/models/ranker/models.config
# The version before the newest stays loaded, so that requests and labels can go back to it at once.
model_config_list {
  config {
    name: "ranker"
    base_path: "/models/ranker"
    model_platform: "tensorflow"
    model_version_policy {
      latest {
        num_versions: 2
      }
    }
  }
}
"""

_BATCHING_TEXT = """\
# For TensorFlow Serving: --enable_batching --batching_parameters_file=/models/ranker/batching.config
# Requests are joined row by row. Those through `tf_example` always fit together. Those through `serving_default` do if
# clients pad candidates and histories to fixed lengths: the server would pad with the first value of each tensor, which
# repeats an item, so that pad_variable_length_inputs must stay false.
max_batch_size { value: 32 }
batch_timeout_micros { value: 1000 }
max_enqueued_batches { value: 100 }
num_batch_threads { value: 4 }
pad_variable_length_inputs: false
"""


def write_serving_config(base_path: Path) -> None:
    """Writes `models.config` (a `ModelServerConfig`) and `batching.config` (`BatchingParameters`), as text protos.

    Those that are there already stay as they are: whoever runs the server may have changed them.

    Args:
        base_path: the directory of the versions.
    """
    for name, text in ((MODELS_CONFIG, _MODELS_TEXT), (BATCHING_CONFIG, _BATCHING_TEXT)):
        if not (base_path / name).exists():
            with whole_file(base_path / name) as scratch:
                scratch.write_text(text)
