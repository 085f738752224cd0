"""Everything Keras: data readers, vision, pre-training, embeddings, the ranker and its metrics."""

import os

# TensorFlow 2.17's GPU wheel logs a dozen start-up lines (CUDA registration, TensorRT) that mean nothing on a CPU.
# Set TF_CPP_MIN_LOG_LEVEL=0 to see them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# By itself TensorFlow uses oneDNN on some Intel processors only. Its own kernels are compiled for AVX, those of oneDNN
# for what the processor has: on an AMD EPYC with AVX2 a step of the ranker takes 0.6 of the time.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
