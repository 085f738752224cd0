"""Everything Keras: page batches, the image encoder and its pre-training, embeddings, cluster IDs, the ranker, metrics.

What scripts use is here, and is loaded when it is first asked for: importing the package imports no TensorFlow.

Example:
    >>> from models import GAUC, Clusters, Dataset, Ranker
    >>> train, later = Dataset("artifacts/dataset").pages("train").split(0.9)
    >>> ranker = Ranker.adapt(train, pictures=Clusters.load("artifacts/clusters"))
    >>> ranker.compile(metrics=[GAUC()])
    >>> ranker.fit(train.batches(64, shuffle=True), validation_data=later.batches(128), epochs=7)
"""

import importlib
import os
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beam_pipelines.shell.progress import show_progress
    from models.clustering.cluster import cluster
    from models.clustering.clusters import Clusters
    from models.config import load_config
    from models.data.dataset import Dataset
    from models.data.pages import Pages
    from models.embeddings.embed import embed
    from models.embeddings.embeddings import Embeddings
    from models.embeddings.whiten import whiten
    from models.evaluation.evaluate import evaluate
    from models.experiments.experiment import Arm, Experiment
    from models.experiments.report import experiment_report
    from models.finetuning.finetune import finetune
    from models.metrics.copc import COPC
    from models.metrics.gauc import GAUC
    from models.pretraining.config import PretrainConfig
    from models.pretraining.courier import Courier
    from models.pretraining.pretrain import pretrain
    from models.ranker.config import RankerConfig, TrainingConfig
    from models.ranker.join import join_rankers
    from models.ranker.ranker import Ranker
    from models.ranker.train import train_ranker
    from models.retrieval.interaction_file import read_interactions
    from models.retrieval.interactions import Interactions
    from models.retrieval.run import RetrievalRun
    from models.retrieval.train import train_retrieval
    from models.training.adam import Adam
    from models.training.lazy_adam import LazyAdam
    from models.vision.encoder import ImageEncoder
    from models.vision.encoder_run import EncoderRun

_HOMES = {
    "Adam": "models.training.adam",
    "Arm": "models.experiments.experiment",
    "COPC": "models.metrics.copc",
    "Clusters": "models.clustering.clusters",
    "Courier": "models.pretraining.courier",
    "Dataset": "models.data.dataset",
    "EncoderRun": "models.vision.encoder_run",
    "Embeddings": "models.embeddings.embeddings",
    "Experiment": "models.experiments.experiment",
    "GAUC": "models.metrics.gauc",
    "ImageEncoder": "models.vision.encoder",
    "Interactions": "models.retrieval.interactions",
    "LazyAdam": "models.training.lazy_adam",
    "PretrainConfig": "models.pretraining.config",
    "Pages": "models.data.pages",
    "Ranker": "models.ranker.ranker",
    "RankerConfig": "models.ranker.config",
    "RetrievalRun": "models.retrieval.run",
    "TrainingConfig": "models.ranker.config",
    "cluster": "models.clustering.cluster",
    "embed": "models.embeddings.embed",
    "evaluate": "models.evaluation.evaluate",
    "experiment_report": "models.experiments.report",
    "finetune": "models.finetuning.finetune",
    "join_rankers": "models.ranker.join",
    "load_config": "models.config",
    "pretrain": "models.pretraining.pretrain",
    "read_interactions": "models.retrieval.interaction_file",
    "show_progress": "beam_pipelines.shell.progress",
    "train_ranker": "models.ranker.train",
    "train_retrieval": "models.retrieval.train",
    "whiten": "models.embeddings.whiten",
}

__all__ = [*_HOMES]

# Keras and TensorFlow read these when they are first imported. By itself TensorFlow uses oneDNN on some Intel
# processors only. Its own kernels are compiled for AVX, those of oneDNN for what the processor has.
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


class _Package(types.ModuleType):
    """Keeps `models.embed` the function when the command `models.embed`, a module of that name, has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, types.ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
