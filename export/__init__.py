"""From a trained ranker to a TensorFlow Serving endpoint."""
