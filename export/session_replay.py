"""Runs requests through a SavedModel in a process that has nothing but TensorFlow.

`python -I session_replay.py SAVED_MODEL REQUESTS ANSWERS`: REQUESTS is a pickled list of `(signature, inputs)`, ANSWERS
becomes the list of their outputs. Nothing that made the model can be imported, so an answer shows that the files
are all that a server needs.
"""

import pickle
import sys

_FORBIDDEN = ("export", "models", "beam_pipelines", "keras", "tensorflow_recommenders")


def main(saved_model: str, requests_file: str, answers_file: str) -> None:
    """Replays the requests."""
    sys.modules.update(dict.fromkeys(_FORBIDDEN))  # an import of `None` fails
    import tensorflow as tf

    with open(requests_file, "rb") as file:
        requests = pickle.load(file)
    tf.get_logger().setLevel("ERROR")
    answers = []
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        signatures = tf.compat.v1.saved_model.load(session, [tf.saved_model.SERVING], saved_model).signature_def
        for name, inputs in requests:
            signature = signatures[name]
            feed = {signature.inputs[key].name: value for key, value in inputs.items()}
            answers.append(session.run({key: info.name for key, info in signature.outputs.items()}, feed))
    with open(answers_file, "wb") as file:
        pickle.dump(answers, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
