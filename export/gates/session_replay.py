"""Runs requests through a SavedModel in a process that has nothing but TensorFlow.

`python -I session_replay.py SAVED_MODEL REQUESTS ANSWERS`: REQUESTS is a pickled list of `(signature, inputs)`; inputs
that are left out take their default. ANSWERS becomes a pickled dictionary:

- `importable`: which packages that made the model the process can import, although it should not.
- `load_error`: why the SavedModel does not load, or `None`.
- `answers`: per request its outputs, or a text that says why there are none.
- `seconds`: per request.

Nothing that made the model can be imported, so an answer shows that the files are all that a server needs.
"""

import gc
import importlib
import pickle
import sys
import time
from typing import Any

MADE_BY = ("export", "models", "beam_pipelines", "keras", "tensorflow_recommenders")
"""Packages that the process must do without."""


def main(saved_model: str, requests_file: str, answers_file: str) -> None:
    """Replays the requests."""
    gc.disable()  # the process is short, and looking for garbage takes a fifth of the time of its import of TensorFlow
    sys.modules.update(dict.fromkeys(MADE_BY))  # type: ignore[arg-type]  # an import of `None` fails
    import tensorflow as tf

    with open(requests_file, "rb") as file:
        requests = pickle.load(file)
    tf.get_logger().setLevel("ERROR")
    result: dict[str, Any] = {"importable": [name for name in MADE_BY if _is_importable(name)], "load_error": None}
    result |= {"answers": [], "seconds": []}
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        try:
            signatures = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], saved_model).signature_def
        except Exception as error:  # what TensorFlow raises depends on which file is damaged
            result["load_error"] = _first_line(error)
            requests = []
        for name, inputs in requests:
            start = time.perf_counter()
            try:
                signature = signatures[name]
                left_out = {
                    key: tf.make_ndarray(value) for key, value in signature.defaults.items() if key not in inputs
                }
                feed = {signature.inputs[key].name: value for key, value in {**left_out, **inputs}.items()}
                answer = session.run({key: info.name for key, info in signature.outputs.items()}, feed)
            except Exception as error:
                answer = _first_line(error)
            result["answers"].append(answer)
            result["seconds"].append(time.perf_counter() - start)
    with open(answers_file, "wb") as file:
        pickle.dump(result, file)


def _is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _first_line(error: Exception) -> str:
    # TensorFlow raises an operation's error anew, with remarks on where the operation was created.
    text = getattr(error.__context__, "message", None) or str(error)
    return text.strip().partition("\n")[0] or type(error).__name__


if __name__ == "__main__":
    main(*sys.argv[1:])
