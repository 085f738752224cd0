"""Beam jobs that turn logs into page datasets. Nothing here imports TensorFlow."""

import logging

# Beam warns at import that Google Cloud's clients are absent. They are optional, and nothing here uses them.
logging.getLogger().addFilter(lambda record: not record.getMessage().startswith("apitools not found"))
