"""Steps of propagation and BPR on Amazon Sports against the same in PyTorch.

    make bench-env
    nice -n -5 .venv/bin/python -m benchmarks.retrieval.speed [--source DIR] [--quick]

LightGCN with two layers, embeddings of 64 numbers, 2,048 triples per step: forward, backward and Adam over all nodes,
in float32 on two cores, on the 218,409 training interactions of the public split. The peer is an equal script in eager
PyTorch (`peers/torch_light_gcn.py`) in a process of its own, with a sparse matrix in each of its layouts: COO, which
MMRec uses, and CSR. All sides start from the same weights and take the same triples; that the first losses are equal is
checked. They step in turns, so that other work on the machine hits all, and a ratio is the median over the pairs of
steps. Memory is the largest resident size in training less that just before the first step, when graph, weights and
triples are there.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

from benchmarks.base import benchmark_parser, peak_memory_mb, peer_python, run_benchmark, status_mb, use_two_cores
from benchmarks.encoder.sides import Peer, Step, compare
from models.retrieval.interaction_file import read_interactions
from models.retrieval.losses import bpr_loss, squared_penalty
from models.retrieval.propagation import mean_of_layers, normalized_bipartite
from models.retrieval.recommender import Recommender, RecommenderConfig
from models.retrieval.triples import TrainingTriples
from models.training.lazy_adam import LazyAdam

THREADS = 2
TOLERANCE = 1e-5
LAYERS, PENALTY, RATE, BATCH = 2, 1e-4, 1e-3, 2048


class LightGcn(Recommender):
    """He et al., LightGCN (SIGIR 2020)."""

    Config: ClassVar[type[RecommenderConfig]] = RecommenderConfig

    def __init__(self, num_users: int, num_items: int, **kwargs: Any) -> None:
        super().__init__(num_users, num_items, **kwargs)
        self.nodes = self.add_table("nodes", num_users + num_items)

    def prepare(self) -> None:
        """Makes the graph."""
        self.propagate = self.interaction_graph()

    def representations(self, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """The means over layers."""
        return self.split(mean_of_layers(self.propagate, self.nodes.value, LAYERS))

    def compute_loss(self, x: Any = None, **options: Any) -> tf.Tensor:
        """BPR and the penalty."""
        vectors = self.representations()
        return bpr_loss(*self.scores_of(x, *vectors)) + PENALTY * squared_penalty(*self.rows_of(x, *vectors))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all sides and returns the figures."""
    use_two_cores()
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    interactions = read_interactions(options.source / "sports" / "sports.inter.csv.gz")
    train, users, items = interactions.train, interactions.num_users, interactions.num_items
    keras.utils.set_random_seed(0)
    model = LightGcn(users, items)
    model.adapt(interactions)
    model.compile(LazyAdam(RATE))
    model.prepare_fit()
    triples = TrainingTriples(train, items, BATCH, seed=0)
    repeats = 10 if options.quick else 30
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        graph = normalized_bipartite(train.users, train.items, users, items).tocoo()
        epoch = np.stack(triples.epoch(0))[:, : (repeats + 1) * BATCH].astype(np.int64)
        epoch = epoch.reshape(3, -1, BATCH).swapaxes(0, 1) + np.array([0, users, users])[:, None]
        for name, array in {
            "rows": graph.row.astype(np.int64),
            "columns": graph.col.astype(np.int64),
            "values": graph.data.astype(np.float32),
            "nodes": model.nodes.numpy(),
            "triples": np.ascontiguousarray(epoch),
        }.items():
            np.save(work / f"{name}.npy", array)
        shared = ("--threads", THREADS, "--layers", LAYERS, "--penalty", PENALTY, "--rate", RATE)
        peers = {
            layout: Peer(
                "benchmarks.retrieval.peers.torch_light_gcn", work, peer_python("bench"), "--layout", layout, *shared
            )
            for layout in ("coo", "csr")
        }
        step = tf.function(model.train_step, reduce_retracing=True)
        batches = iter(triples.from_step(0))
        before = status_mb("VmRSS")

        def ours() -> Step:
            start, cpu = time.perf_counter(), time.process_time()
            model.reset_metrics()
            loss = float(step(next(batches))["loss"])
            return Step(time.perf_counter() - start, time.process_time() - cpu, loss)

        sides = {"": ours} | {f"torch_{layout}": lambda peer=peer: peer.step("") for layout, peer in peers.items()}
        figures = compare("triples", BATCH, repeats, sides, TOLERANCE)
        memory = {"memory_mb": peak_memory_mb() - before}
        memory |= {f"memory_mb_torch_{layout}": peer.ask("memory")["mb"] for layout, peer in peers.items()}
    sizes = {"nodes": users + items, "edges": 2 * len(train), "steps": triples.steps_per_epoch}
    return {**sizes, **figures, **memory, "load_average": os.getloadavg()[0]}


if __name__ == "__main__":
    parser = benchmark_parser(__doc__, "ten steps")
    parser.add_argument("--source", type=Path, default=Path("../shared/data/amazon_mm"), help="the public files")
    run_benchmark("retrieval_speed", parser, measure)
