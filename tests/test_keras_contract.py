"""Every public Keras object of the project keeps Keras' contract: one harness over all of them."""

import functools
import importlib
import json
import pkgutil
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

import models
from models.clustering.clusters import Clusters
from models.data.dataset import Dataset
from models.features.dense_features import DenseFeatures
from models.features.embeddings import FeatureEmbeddings
from models.features.spec import (
    CategoryFeature,
    FeaturesConfig,
    FeatureSizes,
    IdFeature,
    NumberFeature,
    TextFeature,
)
from models.features.tables import FeatureTable
from models.finetuning.picture_classifier import PictureClassifier
from models.finetuning.product_encoder import ProductEncoder
from models.layers.dice import Dice
from models.layers.history_encoder import HistoryEncoder
from models.layers.id_embedding import IdEmbedding
from models.layers.mixture_of_experts import MixtureOfExperts
from models.layers.multi_head_target_attention import MultiHeadTargetAttention
from models.layers.position_bias import PositionBias
from models.layers.self_attention import SelfAttention
from models.layers.target_attention import TargetAttention
from models.layers.text_embedding import TextEmbedding
from models.metrics.copc import COPC
from models.metrics.gauc import GAUC
from models.pretraining.clip import Clip
from models.pretraining.courier import Courier
from models.pretraining.m6_moe import M6MoE
from models.pretraining.mask_clip import MaskClip
from models.pretraining.moco_v2 import MoCoV2
from models.pretraining.official_code import OfficialCodeCourier
from models.pretraining.perceptron_head import PerceptronHead
from models.pretraining.projection_head import ProjectionHead
from models.pretraining.reconstruction import SelfAttentionReconstruction, UserIntentionReconstruction
from models.pretraining.simclr import SimCLR
from models.pretraining.simsiam import SimSiam
from models.pretraining.supervised import Supervised
from models.pretraining.swav import SwAV
from models.pretraining.title_contrast import TitleContrast
from models.ranker.config import AttentionConfig, RankerConfig, RankerLengths
from models.ranker.item_table import ItemTable, ItemValues
from models.ranker.item_tower import ItemTower
from models.ranker.pictures.picture_din import PictureDin
from models.ranker.pictures.pictures import Pictures, PictureValues
from models.ranker.pictures.semantic_id import PrefixEmbedding
from models.ranker.ranker import Ranker
from models.retrieval.bm3 import Bm3
from models.retrieval.bpr import Bpr
from models.retrieval.dualgnn import DualGnn
from models.retrieval.interactions import Interactions
from models.retrieval.lattice import Lattice
from models.retrieval.mgcn import Mgcn
from models.retrieval.mmgcn import Mmgcn
from models.retrieval.recommender import Recommender
from models.retrieval.slmrec import SlmRec
from models.retrieval.triples import TrainingTriples
from models.retrieval.two_tower.history_pooling import HistoryPooling
from models.retrieval.two_tower.item_encoder import ItemEncoder
from models.retrieval.two_tower.two_tower import TwoTower, TwoTowerConfig
from models.text.bert import Bert, BertBlock
from models.text.encoder import TextEncoder
from models.training.adam import Adam
from models.training.distributed_fit import LossMean
from models.training.lazy_adam import LazyAdam
from models.training.optimizer import OptimizerConfig, ReplicaLossScaleOptimizer, build_optimizer
from models.vision.convnet import ConvNet, ConvNetBlock
from models.vision.efficientnet_lite import EfficientNetLite, InvertedResidual, NormalizedConvolution
from models.vision.encoder import ImageEncoder
from models.vision.m6 import M6, M6Block
from models.vision.swin import PatchMerging, Swin, SwinBlock
from models.vision.window_attention import WindowAttention
from tests.models.courier_batch import draw_batch, draw_titles
from tests.models.retrieval.drawn_interactions import draw_features, draw_interactions
from tests.models.tiny_dataset import write_tiny_dataset

POLICIES = ("mixed_float16", "mixed_bfloat16")
SIZES = FeatureSizes(
    items=4, users=3, item={"item_id": 4, "category": 2, "title": 0}, user={}, image_dims=(3,), clusters=2, center_dim=3
)
ITEM_FEATURES = {"item_id": IdFeature(), "category": CategoryFeature(), "title": TextFeature(tokens=2)}
NUMBERS = {"price": NumberFeature(), "impressions": NumberFeature(transform="buckets", buckets=4)}
EMBEDDED = {"item_id": 4, "category": 2}


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def mask(*shape: int) -> np.ndarray:
    return np.arange(shape[-1]) < np.random.default_rng(1).integers(1, shape[-1] + 1, (*shape[:-1], 1))


def item_values() -> ItemValues:
    rows = np.array([0, 3, 4], np.int64)
    features = {"item_id": rows, "category": rows % 3, "title": np.array([[5, -1], [1, 2], [-1, -1]], np.int32)}
    return ItemValues(features, PictureValues(item=np.array([1, 2, 0], np.int32)))


def feature_embeddings(**options: Any) -> FeatureEmbeddings:
    text = TextEmbedding(8, 4, **options)
    text.build(None)
    return FeatureEmbeddings(ITEM_FEATURES, EMBEDDED, 4, text, **options)


class Case(NamedTuple):
    """A layer, made with the options of every layer, and what it is called with."""

    make: Callable[..., keras.layers.Layer]
    arguments: tuple


ROWS = (np.array([0, 3, 4], np.int64),)
MAP = (draw(2, 6, 5, 8),)
PICTURES = (draw(2, 16, 12, 3),)
STEPS = draw(3, 5, 8, seed=2)
CANDIDATES = draw(3, 4, 8, seed=3)
TITLES_OF_PICTURES = draw_titles(np.arange(20))
TOKENS = np.array([[2, 8, 3, -1], [4, -1, -1, -1], [-1, -1, -1, -1]], np.int32)
PAIRS = [draw(3, 4, 5, seed=4)]

LAYERS: dict[str, Case] = {
    "ConvNetBlock": Case(lambda **o: ConvNetBlock(kernel=3, drop_path=0.2, **o), MAP),
    "ConvNet": Case(lambda **o: ConvNet(widths=(8, 8), depths=(1, 1), kernel=3, grid=(2, 2), **o), PICTURES),
    "NormalizedConvolution": Case(lambda **o: NormalizedConvolution(6, 3, 2, False, True, **o), MAP),
    "NormalizedConvolution, depthwise": Case(lambda **o: NormalizedConvolution(None, 3, **o), MAP),
    "InvertedResidual": Case(lambda **o: InvertedResidual(8, 5, 1, 2, 0.2, True, **o), MAP),
    "EfficientNetLite": Case(lambda **o: EfficientNetLite(1, (1, 3), 0.2, True, **o), PICTURES),
    "WindowAttention": Case(lambda **o: WindowAttention(2, window=4, shift=2, **o), MAP),
    "SwinBlock": Case(lambda **o: SwinBlock(2, window=4, shift=2, drop_path=0.1, **o), MAP),
    "PatchMerging": Case(lambda **o: PatchMerging(**o), MAP),
    "Swin": Case(lambda **o: Swin(4, 8, (1, 1), (2, 2), 2, drop_path=0.1, checkpointing=True, **o), PICTURES),
    "ProjectionHead": Case(lambda **o: ProjectionHead(8, **o), (draw(5, 4),)),
    "PerceptronHead": Case(lambda **o: PerceptronHead((6, 4), "hidden", **o), (draw(5, 4),)),
    "UserIntentionReconstruction": Case(
        lambda **o: UserIntentionReconstruction("raw", **o), (CANDIDATES, STEPS, mask(3, 5))
    ),
    "SelfAttentionReconstruction": Case(lambda **o: SelfAttentionReconstruction(**o), (CANDIDATES, STEPS, mask(3, 5))),
    "Dice": Case(lambda **o: Dice(epsilon=1e-6, **o), (draw(3, 4, 8), mask(3, 4))),
    "IdEmbedding": Case(lambda **o: IdEmbedding(6, 4, dropout=0.1, **o), (np.array([[0, 6], [2, 1]]),)),
    "TextEmbedding": Case(lambda **o: TextEmbedding(8, 4, **o), (np.array([[5, -1], [1, 2]]),)),
    "TargetAttention": Case(
        lambda **o: TargetAttention(6, "none", "dice", pair_features=1, **o), (CANDIDATES, STEPS, mask(3, 5), PAIRS)
    ),
    "MultiHeadTargetAttention": Case(
        lambda **o: MultiHeadTargetAttention(2, 4, pair_features=1, **o),
        (CANDIDATES, [STEPS, STEPS], [mask(3, 5), mask(3, 5)], [PAIRS, PAIRS]),
    ),
    "PositionBias": Case(lambda **o: PositionBias(3, **o), (np.array([[0, 5], [2, -1]]),)),
    "SelfAttention": Case(lambda **o: SelfAttention(2, dropout=0.1, **o), (STEPS, mask(3, 5))),
    "BertBlock": Case(lambda **o: BertBlock(2, 6, dropout=0.1, **o), (STEPS, mask(3, 5))),
    "Bert": Case(lambda **o: Bert(9, 1, 8, 2, 6, 4, 1, "cls", 0.1, **o), (TOKENS,)),
    "MixtureOfExperts": Case(lambda **o: MixtureOfExperts(3, 6, 2, 1.5, **o), (STEPS, mask(3, 5))),
    "M6Block": Case(lambda **o: M6Block(2, 3, 6, 2, 1.5, **o), (STEPS, mask(3, 5))),
    "M6": Case(lambda **o: M6(4, 8, 1, 2, 3, 6, 1, 1.5, 9, **o), PICTURES),
    "TitleContrast": Case(lambda **o: TitleContrast(text_encoder(**o), 0.2, True, False, **o), (TOKENS,)),
    "HistoryEncoder": Case(lambda **o: HistoryEncoder(6, 2, 4, **o), (STEPS, mask(3, 5))),
    "HistoryPooling": Case(lambda **o: HistoryPooling(6, 8, **o), (STEPS, mask(3, 5))),
    "ItemEncoder": Case(
        lambda **o: ItemEncoder(4, 3, [8], 6, 0.1, **o), (np.array([0, 4, 1]), np.array([2, 0, 1]), [draw(3, 8)])
    ),
    "FeatureTable": Case(lambda **o: FeatureTable(ITEM_FEATURES, 5, **o), ROWS),
    "FeatureEmbeddings": Case(feature_embeddings, (item_values().features,)),
    "DenseFeatures": Case(
        lambda **o: DenseFeatures(NUMBERS, 4, **o), ({"price": draw(3, 4), "impressions": draw(3, 4, seed=1)},)
    ),
    "Pictures": Case(lambda **o: Pictures("vector,simscore,cluster_id", SIZES, embed_clusters=False, **o), ROWS),
    "PrefixEmbedding": Case(lambda **o: PrefixEmbedding(3, 2, 7, 4, **o), (np.array([0, 9, 4], np.int64),)),
    "PictureDin": Case(lambda **o: PictureDin(8, **o), (CANDIDATES, STEPS, mask(3, 5), PAIRS[0])),
    "SummedEncoders": Case(
        lambda **o: Pictures("vector,cluster_id", SIZES).item_encoder(4, o.get("dtype")),
        ((draw(3, 3), np.array([1, 2, 0], np.int32)),),
    ),
    "ItemTable": Case(
        lambda **o: ItemTable(FeatureTable(ITEM_FEATURES, 5, **o), Pictures("cluster_id", SIZES, **o), **o), ROWS
    ),
    "ItemTower": Case(
        lambda **o: ItemTower(
            feature_embeddings(**o), Pictures("cluster_id", SIZES).item_encoder(4, o.get("dtype")), 6, **o
        ),
        (item_values(),),
    ),
}


def tensors(arguments: Any) -> Any:
    return tf.nest.map_structure(lambda value: None if value is None else tf.convert_to_tensor(value), arguments)


def outputs(result: Any) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(value)) for value in tf.nest.flatten(result) if value is not None]


def assert_equal(actual: Any, expected: Any, **tolerance: float) -> None:
    for a, b in zip(outputs(actual), outputs(expected), strict=True):
        np.testing.assert_allclose(
            a.astype(np.float64), b.astype(np.float64), **{"rtol": 1e-5, "atol": 1e-6, **tolerance}
        )


def randomize(weights: list[keras.Variable]) -> None:
    """Gives weights values of their own, so that one that is lost changes the result."""
    rng = np.random.default_rng(0)
    for weight in weights:
        drawn = rng.uniform(0.1, 0.9, weight.shape)
        weight.assign(rng.integers(0, 2, weight.shape) if weight.dtype.startswith("int") else drawn)


@pytest.fixture
def layer(request):
    """The layer of a case, built, with weights of its own. All tests look at the same one."""
    return built(request.param)


@functools.cache
def built(name: str) -> tuple[keras.layers.Layer, Case]:
    keras.utils.set_random_seed(0)
    case = LAYERS[name]
    layer = case.make()
    layer(*tensors(case.arguments))
    randomize([weight for weight in layer.weights if "seed" not in weight.path])
    return layer, case


@keras.saving.register_keras_serializable(package="test_keras_contract")
class Holder(keras.Model):
    """A model that is its layer, to be saved."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer = layer
        self.built = True

    def call(self, *arguments: Any) -> Any:
        return self.layer(*arguments)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Holder":
        return cls(**{**config, "layer": keras.saving.deserialize_keras_object(config["layer"])})


every_layer = pytest.mark.parametrize("layer", LAYERS, indirect=True)


def config_of(thing: Any) -> str:
    return json.dumps(thing.get_config(), sort_keys=True, default=str)


@every_layer
def test_layers_are_made_again_from_their_configuration(layer):
    layer, case = layer
    again = type(layer).from_config(json.loads(json.dumps(keras.saving.serialize_keras_object(layer)["config"])))
    assert config_of(again) == config_of(layer)
    again(*tensors(case.arguments))
    again.set_weights(layer.get_weights())
    assert_equal(again(*tensors(case.arguments)), layer(*tensors(case.arguments)))


@every_layer
def test_layers_are_saved_and_loaded(layer, tmp_path):
    layer, case = layer
    Holder(layer).save(tmp_path / "layer.keras")
    loaded = keras.models.load_model(tmp_path / "layer.keras").layer
    assert_equal(loaded(*tensors(case.arguments)), layer(*tensors(case.arguments)))


@every_layer
def test_graphs_of_layers_are_what_they_are_eagerly(layer):
    layer, case = layer
    assert_equal(tf.function(layer)(*tensors(case.arguments)), layer(*tensors(case.arguments)), rtol=1e-4)


@pytest.mark.parametrize("policy", POLICIES)
@every_layer
def test_layers_under_mixed_precision_are_close_to_float32(layer, policy):
    layer, case = layer
    mixed = case.make(dtype=policy)
    mixed(*tensors(case.arguments))
    assert all(weight.dtype != policy.removeprefix("mixed_") for weight in mixed.weights)
    mixed.set_weights(layer.get_weights())
    assert_equal(mixed(*tensors(case.arguments)), layer(*tensors(case.arguments)), rtol=0.05, atol=0.05)


@every_layer
def test_layers_build_all_that_they_hold(layer):
    layer, case = layer
    again = case.make()
    if not again.built:
        again.build_from_config(layer.get_build_config())
    unbuilt = [part.name for part in again._flatten_layers() if not part.built]
    assert not unbuilt
    assert [weight.shape for weight in again.weights] == [weight.shape for weight in layer.weights]


METRICS: dict[str, Callable[[], keras.Metric]] = {
    "GAUC": lambda: GAUC("impressions", name="by_page"),
    "COPC": lambda: COPC(negative_rate=0.5, from_logits=True),
    "LossMean": lambda: LossMean(name="loss"),
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics(name):
    metric = METRICS[name]()
    again = type(metric).from_config(json.loads(json.dumps(metric.get_config())))
    assert config_of(again) == config_of(metric)
    batch = (tf.constant(2.0), 3) if name == "LossMean" else (np.array([[1, 0, -1], [0, 1, 1]]), draw(2, 3))
    metric.update_state(*batch)
    tf.function(again.update_state)(*batch)
    assert float(metric.result()) == pytest.approx(float(again.result()), rel=1e-6)
    metric.reset_state()
    assert all(float(variable.value) == 0 for variable in metric.variables)


OPTIMIZERS: dict[str, Callable[[], keras.optimizers.Optimizer]] = {
    "Adam": lambda: Adam(0.01, weight_decay=0.1, weight_decay_kind="coupled", global_clipnorm=1.0),
    "Adam, decoupled": lambda: Adam(0.01, weight_decay=0.1, weight_decay_kind="decoupled"),
    "Adam, scheduled": lambda: build_optimizer(OptimizerConfig(schedule="cosine", learning_rate=0.1), 20),
    "LazyAdam": lambda: LazyAdam(0.01, weight_decay=0.1, average=True, global_clipnorm=1.0),
    "ReplicaLossScaleOptimizer": lambda: ReplicaLossScaleOptimizer(Adam(0.01), initial_scale=8.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(name):
    optimizers = [OPTIMIZERS[name]()]
    optimizers.append(keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizers[0])))))
    assert config_of(optimizers[1]) == config_of(optimizers[0])
    variables = [keras.Variable(draw(3)) for _ in optimizers]
    for step in range(3):
        for optimizer, variable in zip(optimizers, variables, strict=True):
            optimizer.apply([tf.constant(draw(3, seed=step))], [variable])
    np.testing.assert_array_equal(variables[0], variables[1])
    assert np.abs(variables[0] - draw(3)).max() > 0
    restored = OPTIMIZERS[name]()
    restored.build([variables[0]])
    store: dict[str, np.ndarray] = {}
    optimizers[0].save_own_variables(store)
    restored.load_own_variables(store)
    gradient = tf.constant(draw(3, seed=9))
    restored.apply([gradient])
    optimizers[1].apply([gradient], [variables[1]])
    np.testing.assert_array_equal(variables[0], variables[1])


def encoder(**options: Any) -> ImageEncoder:
    return ImageEncoder(ConvNet((4, 4), (0, 1), 3, (2, 2), **options), 4, **options)


def text_encoder(**options: Any) -> TextEncoder:
    return TextEncoder(Bert(12, 1, 8, 2, positions=4, **options), 4, **options)


def titled_pages() -> tf.data.Dataset:
    return courier_pages().map(lambda batch: {**batch, "tokens": TITLES_OF_PICTURES})


def courier_pages() -> tf.data.Dataset:
    batches = [draw_batch(4, pictures=20, seed=seed) for seed in range(2)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    stacked["pictures"] = stacked["pictures"].repeat(8, axis=2).repeat(8, axis=3)
    return tf.data.Dataset.from_tensor_slices(stacked)


def pictures() -> tf.data.Dataset:
    shown = np.random.default_rng(0).integers(0, 256, (6, 16, 16, 3), np.uint8)
    return tf.data.Dataset.from_tensor_slices((shown, draw(6, 4))).batch(4)


RANKER = RankerConfig(
    lengths=RankerLengths(click=4, pay=0, cart=0),
    features=FeaturesConfig(item={"item_id": IdFeature(dropout=0.0), "category": CategoryFeature()}, user={}),
    embedding_dim=4,
    item_dim=6,
    attention=AttentionConfig(recent_steps=4, units=5, histories="none"),
    mlp_units=(8,),
    token_buckets=50,
    query_tokens=5,
)


SHOP: dict[str, Any] = {}
"""Training pages and the clusters of their items, from `shop`."""


@pytest.fixture(scope="module", autouse=True)
def shop(tmp_path_factory):
    tiny = write_tiny_dataset(tmp_path_factory.mktemp("shop"), items=30, pages=40)
    SHOP.update(pages=Dataset(tiny.data).pages("train"), clusters=Clusters.load(tiny.clusters))


class ModelCase(NamedTuple):
    """A model, the data that it is fitted on, and what it is compiled with.

    The graphs of models that say so are those of another one in all that is theirs, and take long to make.
    """

    make: Callable[..., keras.Model]
    data: Callable[[], tf.data.Dataset]
    compiled: Callable[[], dict[str, Any]]
    graph: bool = True


def titles() -> tf.data.Dataset:
    tokens = np.random.default_rng(0).integers(-1, 9, (6, 4)).astype(np.int32)
    return tf.data.Dataset.from_tensor_slices((tokens, draw(6, 4))).batch(4)


def labelled_pictures() -> tf.data.Dataset:
    shown = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
    return tf.data.Dataset.from_tensor_slices((shown, np.array([0, 0, 1, 1, 2, 2]))).batch(4)


def first_of_labels() -> dict[str, Any]:
    return {"metrics": [keras.metrics.SparseTopKCategoricalAccuracy(1, name="measured")]}


def own_loss() -> dict[str, Any]:
    return {"loss": "mse", "metrics": [keras.metrics.MeanSquaredError(name="measured")]}


def objective() -> dict[str, Any]:
    return {"metrics": [GAUC(name="measured")]}


def view_metrics() -> dict[str, Any]:
    return {"metrics": [keras.metrics.MeanSquaredError(name="measured")]}


def recommender(kind: type[Recommender], **options: Any) -> Recommender:
    features = [] if kind.reads_features == "never" else [draw_features()]
    model = kind(30, 24, [5] if features else [], {"dim": 4, "regularization": 0.1}, **options)
    model.adapt(draw_interactions(), features)
    return model


def triples() -> tf.data.Dataset:
    batches = TrainingTriples(draw_interactions().train, 24, 60, seed=0)
    return batches.from_step(0).take(2).apply(tf.data.experimental.assert_cardinality(2))


def two_tower(**options: Any) -> TwoTower:
    dataset = SHOP["pages"].dataset
    model = TwoTower(40, 30, [5], TwoTowerConfig(dim=4, hidden_units=5, id_dropout=0.0), **options)
    model.adapt(Interactions.from_pages(dataset), [draw_features(30)], dataset)
    return model


RECOMMENDERS = ("Mmgcn", "DualGnn", "Lattice", "SlmRec", "Bm3", "Mgcn", "TwoTower")
"""With `Bpr`; all of them compute in float32 whatever the policy."""


def ranked_pairs() -> dict[str, Any]:
    return {"metrics": [keras.metrics.AUC(name="measured")]}


MODELS: dict[str, ModelCase] = {
    "Bpr": ModelCase(lambda **o: recommender(Bpr, **o), triples, ranked_pairs),
    "Mmgcn": ModelCase(lambda **o: recommender(Mmgcn, **o), triples, ranked_pairs, graph=False),
    "DualGnn": ModelCase(lambda **o: recommender(DualGnn, **o), triples, ranked_pairs, graph=False),
    "Lattice": ModelCase(lambda **o: recommender(Lattice, **o), triples, ranked_pairs, graph=False),
    "SlmRec": ModelCase(lambda **o: recommender(SlmRec, **o), triples, ranked_pairs, graph=False),
    "Bm3": ModelCase(lambda **o: recommender(Bm3, **o), triples, ranked_pairs, graph=False),
    "Mgcn": ModelCase(lambda **o: recommender(Mgcn, **o), triples, ranked_pairs, graph=False),
    "TwoTower": ModelCase(two_tower, lambda: SHOP["pages"].batches(16).take(2), objective, graph=False),
    "ImageEncoder": ModelCase(encoder, pictures, own_loss),
    "TextEncoder": ModelCase(lambda **o: TextEncoder(Bert(9, 1, 8, 2, positions=4, **o), 4, **o), titles, own_loss),
    "Courier": ModelCase(lambda **o: Courier(encoder(**o), **o), courier_pages, objective),
    "Courier, other options": ModelCase(
        lambda **o: Courier(
            encoder(**o),
            temperature=0.1,
            scores="raw",
            click_sequence=False,
            objective="hinge",
            margin=1.0,
            reconstruction="self_attention",
            projection_head=True,
            **o,
        ),
        courier_pages,
        objective,
    ),
    "Courier, loss of the user": ModelCase(
        lambda **o: Courier(encoder(**o), mask_same_item=True, **o),
        courier_pages,
        lambda: {**objective(), "loss": "mse"},
        graph=False,
    ),
    "PictureClassifier": ModelCase(
        lambda **o: PictureClassifier(encoder(**o), 3, **o), labelled_pictures, first_of_labels, graph=False
    ),
    "PictureClassifier, own loss": ModelCase(
        lambda **o: PictureClassifier(encoder(**o), 3, **o),
        labelled_pictures,
        lambda: {**first_of_labels(), "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
        graph=False,
    ),
    "ProductEncoder": ModelCase(
        lambda **o: ProductEncoder(encoder(**o), 0.2, **o), labelled_pictures, first_of_labels, graph=False
    ),
    "Supervised": ModelCase(
        lambda **o: Supervised(encoder(**o), 3, 40, attention_units=5, mlp_units=(6,), **o), courier_pages, objective
    ),
    "Ranker": ModelCase(
        lambda **o: Ranker.adapt(SHOP["pages"], pictures=SHOP["clusters"], config=RANKER, **o),
        lambda: SHOP["pages"].batches(16).take(2),
        objective,
    ),
    "Courier, statistics of batches": ModelCase(
        lambda **o: Courier(ImageEncoder(EfficientNetLite(stages=(1,), batch_statistics=True, **o), None, **o), **o),
        courier_pages,
        objective,
        graph=False,
    ),
    "SimCLR": ModelCase(
        lambda **o: SimCLR(encoder(**o), 0.5, hidden_dim=6, projection_dim=4, augmentation_strength=0.5, **o),
        courier_pages,
        view_metrics,
    ),
    "SimSiam": ModelCase(
        lambda **o: SimSiam(encoder(**o), projection_dim=6, hidden_dim=4, augmentation_strength=0.5, **o),
        courier_pages,
        view_metrics,
        graph=False,
    ),
    "MoCoV2": ModelCase(
        lambda **o: MoCoV2(encoder(**o), 0.5, queue_length=9, momentum=0.8, hidden_dim=6, projection_dim=5, **o),
        courier_pages,
        view_metrics,
        graph=False,
    ),
    "SwAV": ModelCase(
        lambda **o: SwAV(
            encoder(**o),
            prototypes=3,
            temperature=0.2,
            epsilon=0.1,
            rounds=2,
            small_crops=1,
            small_scale=0.5,
            freeze_steps=1,
            queue_length=5,
            queue_from_step=1,
            hidden_dim=6,
            projection_dim=5,
            **o,
        ),
        courier_pages,
        view_metrics,
        graph=False,
    ),
    "Courier, titles": ModelCase(
        lambda **o: Courier(encoder(**o), titles=TitleContrast(text_encoder(**o), 0.2, **o), **o),
        titled_pages,
        objective,
        graph=False,
    ),
    "Clip": ModelCase(
        lambda **o: Clip(encoder(**o), TitleContrast(text_encoder(**o), 0.2, **o), **o), titled_pages, view_metrics
    ),
    "MaskClip": ModelCase(
        lambda **o: MaskClip(encoder(**o), TitleContrast(text_encoder(**o), 0.2, **o), 0.4, 2, 0.5, 0.8, 6, **o),
        titled_pages,
        view_metrics,
        graph=False,
    ),
    "M6MoE": ModelCase(
        lambda **o: M6MoE(ImageEncoder(M6(4, 8, 1, 2, 3, 6, 2, 1.5, 12, **o), 4, **o), 0.5, 0.4, 0.1, 0.5, **o),
        titled_pages,
        view_metrics,
        graph=False,
    ),
    "OfficialCodeCourier": ModelCase(lambda **o: OfficialCodeCourier(encoder(**o), **o), courier_pages, objective),
}


def compiled(name: str, optimizer: Any = "adam", policy: str = "float32", **options: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    case = MODELS[name]
    model = case.make(dtype=policy)
    model.compile(optimizer, **case.compiled(), **{"run_eagerly": not case.graph, **options})
    return model


@pytest.mark.parametrize("name", MODELS)
def test_models_build_all_that_they_hold(name):
    model = MODELS[name].make()
    assert not [layer.name for layer in model._flatten_layers() if not layer.built]


@pytest.mark.parametrize("name", MODELS)
def test_models_fit_with_stock_callbacks_are_saved_with_all_they_need_and_learn_the_same_eagerly(name, tmp_path):
    model, data = compiled(name, keras.optimizers.SGD(0.01, momentum=0.9)), MODELS[name].data()
    assert config_of(type(model).from_config(model.get_config())) == config_of(model)
    callbacks = [
        keras.callbacks.EarlyStopping("val_loss", patience=3),
        keras.callbacks.ModelCheckpoint(tmp_path / "last.keras"),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
        keras.callbacks.BackupAndRestore(tmp_path / "backup"),
    ]
    history = model.fit(data, validation_data=data, epochs=2, verbose=0, callbacks=callbacks).history
    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    assert {"loss", "measured"} <= evaluated.keys()
    draws = "other options" in name  # its hinge compares with other candidates each time
    for metric in ("measured",) if draws else ("loss", "measured"):
        assert history[f"val_{metric}"][-1] == pytest.approx(evaluated[metric], rel=1e-5)
        assert np.isfinite(history[metric]).all()

    loaded = keras.models.load_model(tmp_path / "last.keras")
    assert_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))
    again = loaded.evaluate(data, verbose=0, return_dict=True)  # it is compiled as it was
    assert again["measured"] == pytest.approx(evaluated["measured"], rel=1e-4)
    assert draws or again["loss"] == pytest.approx(evaluated["loss"], rel=1e-4)
    assert int(loaded.optimizer.iterations) == 2 * int(data.cardinality())
    lines: list[str] = []
    model.summary(print_fn=lambda text, line_break=True: lines.append(text))
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    assert f"Trainable params: {trainable:,}" in "".join(lines)

    if not MODELS[name].graph:
        return
    # Without graphs it learns the same.
    eager = compiled(name, keras.optimizers.SGD(0.01, momentum=0.9), run_eagerly=True)
    eager.fit(data, validation_data=data, epochs=2, verbose=0)
    for a, b in zip(model.get_weights(), eager.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        # The ranker's are in `test_ranker_keras`.
        *((name, "mixed_float16") for name in MODELS if name not in ("Courier", "Ranker", *RECOMMENDERS)),
        ("Courier", "mixed_bfloat16"),
    ],
)
def test_models_learn_under_mixed_precision(name, policy, tmp_path):
    """Eagerly, which is quicker, but for one of the views and one of the pages."""
    model, data = compiled(name, policy=policy, run_eagerly=name not in ("SimCLR", "Courier")), MODELS[name].data()
    assert np.isfinite(model.fit(data, epochs=2, verbose=0).history["loss"]).all()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.dtype_policy.name == policy
    expected = model.predict(data, verbose=0)
    assert_equal(loaded.predict(data, verbose=0), expected, rtol=1e-2, atol=1e-3)
    assert type(loaded.optimizer) is type(model.optimizer)


def test_no_object_is_left_out():
    for module in pkgutil.walk_packages(models.__path__, "models."):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module.name)
    registered = {
        kind.__name__
        for name, kind in keras.saving.get_custom_objects().items()
        if name.startswith("courier>") and kind.__module__.startswith("models.")
    }
    tested = {name.split(",")[0] for name in (*LAYERS, *METRICS, *OPTIMIZERS, *MODELS)}
    assert not registered - tested
