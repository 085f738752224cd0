"""Everything Keras: data readers, vision, pre-training, embeddings, the ranker and its metrics."""

import os

# TensorFlow 2.17's GPU wheel logs a dozen start-up lines (CUDA registration, TensorRT) that mean nothing on a CPU.
# Set TF_CPP_MIN_LOG_LEVEL=0 to see them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
