"""From a trained ranker to a TensorFlow Serving endpoint."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as in models: start-up lines that mean nothing on a CPU
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as in models
