"""Beam jobs that turn logs into page datasets. Nothing here imports TensorFlow."""
