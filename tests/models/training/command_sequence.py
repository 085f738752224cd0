"""Runs several commands one after the other in this process, so that TensorFlow is imported once for all of them.

    python -m tests.models.training.command_sequence '[["models.pretrain", ["--data", ...]], ...]'

A line `== CODE` follows what all but the last print, on both streams; the last one ends the process as it would alone.
"""

import importlib
import json
import sys

import tensorflow as tf
from tensorflow.python.distribute.collective_all_reduce_strategy import CollectiveAllReduceExtended

from beam_pipelines.shell.command import run_command

if __name__ == "__main__":
    *first, last = json.loads(sys.argv[1])
    for module, arguments in first:
        try:
            run_command(importlib.import_module(module).main, arguments)
        except SystemExit as end:
            for stream in (sys.stdout, sys.stderr):
                print(f"== {end.code}", file=stream, flush=True)
        # The next command makes another strategy of the same workers: it shares their connection, and its collective
        # operations need keys of their own.
        CollectiveAllReduceExtended._std_server_started = True
        tf.distribute.MultiWorkerMirroredStrategy._collective_key_base += 100_000
    run_command(importlib.import_module(last[0]).main, last[1])
