"""The directory that TensorFlow Serving watches: `<base path>/<version>/saved_model.pb`, and configuration files."""

import re
from pathlib import Path

from beam_pipelines.format.location import Location, is_remote, storage_errors
from beam_pipelines.format.outputs import whole_file

MAX_VERSION = 2**63 - 1
"""Versions are int64."""

RANKER_METADATA_FILE = "assets.extra/ranker.json"
"""In a version: the ranker's `metadata.json`, by which the version knows its ranker."""

MODELS_CONFIG = "models.config"
BATCHING_CONFIG = "batching.config"

_MODELS_TEXT = """\
# For TensorFlow Serving{where}:
#   tensorflow_model_server --model_config_file={base_path}/models.config
# The version before the newest stays loaded, so that requests and labels can go back to it at once.
model_config_list {{
  config {{
    name: "{model}"
    base_path: "{base_path}"
    model_platform: "tensorflow"
    model_version_policy {{
      latest {{
        num_versions: 2
      }}
    }}
  }}
}}
"""

_BATCHING_TEXT = """\
# For TensorFlow Serving: --enable_batching --batching_parameters_file={base_path}/batching.config
# Requests are joined row by row. Those through `tf_example` always fit together. Those through `serving_default` do if
# clients pad candidates and histories to fixed lengths: the server would pad with the first value of each tensor, which
# repeats an item, so that pad_variable_length_inputs must stay false.
max_batch_size {{ value: 32 }}
batch_timeout_micros {{ value: 1000 }}
max_enqueued_batches {{ value: 100 }}
num_batch_threads {{ value: 4 }}
pad_variable_length_inputs: false
"""


def published_versions(base_path: Path) -> dict[int, Path]:
    """Version to directory for everything under `base_path` that TensorFlow Serving would take for a version.

    Names that are not whole numbers are skipped, so unfinished exports (`.7.incomplete-...`) are never served.
    """
    if not base_path.is_dir():
        return {}
    versions = {}
    for path in sorted(base_path.iterdir()):
        if re.fullmatch("[0-9]+", path.name) and path.is_dir() and int(path.name) <= MAX_VERSION:
            versions[int(path.name)] = path
    return versions


def write_serving_config(base_path: Location, model: str = "ranker") -> None:
    """Writes `models.config` (a `ModelServerConfig`) and `batching.config` (`BatchingParameters`), as text protos.

    Those that are there already stay as they are: whoever runs the server may have changed them.

    Args:
        base_path: the directory of the versions.
        model: the model's name in requests.
    """
    names = {"where": f" with this directory mounted at /models/{model}", "base_path": f"/models/{model}"}
    if is_remote(base_path):
        names = {"where": "", "base_path": str(base_path)}
    for name, text in ((MODELS_CONFIG, _MODELS_TEXT), (BATCHING_CONFIG, _BATCHING_TEXT)):
        with storage_errors(base_path):
            exists = (base_path / name).exists()
        if not exists:
            with whole_file(base_path / name) as scratch:
                scratch.write_text(text.format(model=model, **names))
