"""The ranker: a page in, a click probability per candidate out."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
import tensorflow_recommenders as tfrs

from beam_pipelines.format.errors import ConfigurationError
from beam_pipelines.format.records import FEATURES, HISTORIES
from models.config import Config
from models.data.outcomes import learnable_outcomes
from models.data.pages import PADDING, Pages
from models.features.adapt import AdaptedFeatures
from models.features.dense_features import DenseFeatures
from models.features.embeddings import FeatureEmbeddings
from models.features.new_items import NEW_ITEMS
from models.features.spec import FeatureSizes
from models.features.tables import FeatureTable
from models.features.vocabulary import FeatureVocabulary
from models.layers.text_embedding import TextEmbedding, hash_tokens
from models.ranker.adapt import PictureSources, adapt_to_pages
from models.ranker.calibrator import Calibrator
from models.ranker.compiled import ClickLoss, ClickMetric
from models.ranker.config import RankerConfig, TrainingConfig, image_features_of
from models.ranker.item_table import ItemTable
from models.ranker.item_tower import ItemTower
from models.ranker.matching import ItemMatcher
from models.ranker.member import AttentionWeights, HistoryInputs, PageInputs, RankerMember
from models.ranker.pictures.pictures import Pictures
from models.ranker.tasks import HEADS, global_mean, make_targets, make_task
from models.training.adam import Adam
from models.training.averaged_weights import AveragedWeights
from models.training.distributed_fit import DistributedFit
from models.training.lazy_adam import LazyAdam

LOSS_WEIGHT = "loss_weight"
"""Optional feature of a training page, float32 `(batch,)`: what its candidates count in the loss, not in metrics."""

_LARGEST_LOG_SECONDS = 80.0  # float32 ends soon after
_TYPES = {"bytes": tf.string, "int64": tf.int64, "float": tf.float32}


@keras.saving.register_keras_serializable(package="courier")
class Ranker(DistributedFit, tfrs.Model):
    """Predicts the click probability of each candidate of a page, and what follows a click if it is asked to.

    The page is the unit: user, query and histories are embedded once per page and shared by its candidates, and each
    distinct item of a batch once. A candidate's score does not depend on the other candidates.

    What a candidate brings to the 5-layer MLP: its item vector; the newest steps of each history as DIN's activation
    unit weighs them; each whole history as multi-head target attention sees it from there; the dense features that the
    page carries for it; the product of its title with the query; and for each history the share and the number of steps
    with the same item, category and so on. The page brings user, query and the lengths of the histories. A step's key
    is its item vector plus an embedding of its action and age. `image_feature` adds the pictures, in one or
    several ways:

    - `none`: nothing.
    - `vector`: the embedding, projected, in the item tower.
    - `simscore`: the cosine with the picture of every history step (equation 8): in the attention, and per history the
      largest, the mean of the 5 largest and the mean; in standard deviations from the mean cosine of two items.
    - `simtier`: of the same cosines a histogram per history.
    - `cluster_id`: an ID like the category: embedded in the item tower, compared with every history step in the
      attention, and the share and number of steps with the same one. What a shop with few clicks cannot learn of its
      clusters, which of them look alike, their centers tell: their cosines enter as those of `simscore` do.
    - `make`: what a click model of pictures alone says, which has learned before the ranker, see `PictureRanker`.
    - `semantic_id`: the same of the prefixes of a semantic ID, each of them an ever finer cluster.

    All this is a `RankerMember`. With several `members`, there are as many, each with weights of its own that begin
    otherwise and learn as they would alone; the log-odds are the mean of theirs. They share the tables, and the
    embeddings of numbers in quantiles that pages carry for candidates.

    Tasks share everything but the layer of their logit; `pairwise` and `jrc` have that of the click. The probabilities
    of a conversion and of a long visit are learned over all candidates, as factors of those together with the click
    (ESMM), so that they are not biased towards what is clicked.

    Labels are never inputs, nor are positions, of which training alone learns what each adds (`position_bias`).

    It is a Keras model: `compile`, `fit`, `evaluate`, `predict`, `save` and `keras.models.load_model`, with stock
    callbacks, losses and metrics. Make it with `Ranker.adapt`, which fills its tables.

    For features or towers of your own, subclass it and override `candidate_tower`, `page_tower` or `item_tower`.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the feature tables.
        image_feature: how pictures enter: a name, several joined by commas, or a sequence of them.
        negative_rate: share of the unclicked candidates that is left on the pages it trains on. Predictions are
            corrected for it: they are those for pages with all candidates.
        vocabulary: vocabularies and scales of its features; `fill` sets them.
        calibrator: of the click probability; set after training.

    Call arguments:
        page: the features of `parse_pages` that are known before the page is shown; any numbers of pages, candidates
            and steps, 0 included. Of histories longer than `config.lengths`, the newest steps are read. Item row
            `items` stands for an unknown item, user -1 for an unknown user, and so does any row beyond the tables,
            unless the page has `NEW_ITEMS` that it refers to.

    Output: float32 `(batch, candidates)` each, 0 at padded candidates: `ctr`; `ctcvr`, the probability of click and
    conversion; `long_visit`, that of a click and a visit of `config.long_visit_seconds` or more; `dwell`, the seconds
    expected after a click (of their logarithm the mean, so rather the median).

    Example:

    >>> train, later = Dataset("artifacts/dataset").pages("train").split(0.9)
    >>> ranker = Ranker.adapt(train, pictures=Clusters.load("artifacts/clusters"))
    >>> ranker.compile(metrics=[GAUC()])
    >>> ranker.fit(train.batches(64, shuffle=True), validation_data=later.batches(128), epochs=7)
    >>> ranker.save("ranker.keras")

    Reference: the paper's appendices A and B; Zhou et al., Deep Interest Network (KDD 2018); Ma et al., Entire Space
    Multi-Task Model (SIGIR 2018); Wang et al., DCN V2 (WWW 2021); Burges et al., Learning to Rank using Gradient
    Descent (ICML 2005), the pairwise task; Sheng et al., Joint Optimization of Ranking and Calibration with
    Contextualized Hybrid Model (KDD 2023), `jrc`; Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles (NeurIPS 2017), the members.
    """

    shapes_vary = True  # a batch is as long as its longest page

    def __init__(
        self,
        config: RankerConfig,
        sizes: FeatureSizes,
        image_feature: str | Sequence[str] = "none",
        negative_rate: float = 1.0,
        *,
        vocabulary: FeatureVocabulary | None = None,
        calibrator: Calibrator | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < negative_rate <= 1:
            raise ValueError(f"`negative_rate` must be above 0 and at most 1. Received: {negative_rate}")
        self.config = config
        self.sizes = sizes
        self.image_feature = ",".join(image_features_of(image_feature))
        self.negative_rate = negative_rate
        self.vocabulary = vocabulary
        self.calibrator = calibrator or Calibrator()
        # Leaving out unclicked candidates divides the odds of a click by the share that is kept.
        self._correction = math.log(negative_rate)
        self.histories = [name for name in HISTORIES if getattr(config.lengths, name)]
        features = config.features.spec()
        of_ids = (config.embed_clusters, config.compare_clusters, config.prefix_buckets)
        pictures = Pictures(image_feature, sizes, *of_ids, name="pictures")
        attention = config.attention
        if (attention.similarity_aware or attention.similarity_buckets) and not pictures.compared:
            raise ConfigurationError(
                "ranker.attention: similarity_aware and similarity_buckets need an image feature that compares. "
                f"Received: {self.image_feature}"
            )
        if pictures.towers and not self.histories:
            raise ConfigurationError("ranker.lengths: the image feature make needs a history; all are 0")
        # Tables, and what is compared, are float32 under any policy.
        item_table = FeatureTable(features.item, sizes.items + 1, name="features", dtype="float32")
        self.items = ItemTable(item_table, pictures, name="items", dtype="float32")
        self.users = FeatureTable(features.user, sizes.users + 1, name="users", dtype="float32")
        self.dense = DenseFeatures(features.candidate, config.embedding_dim, name="dense", dtype=self.dtype_policy)
        self.matcher = ItemMatcher(
            features.item if config.derived_inputs else {}, pictures, sizes.items, config.match_recency
        )
        self.task_weights = {name: weight for name, weight in config.tasks.model_dump().items() if weight}
        self.tasks = {name: make_task(name) for name in self.task_weights}
        self.outputs = [name for name in self.tasks if name in HEADS]
        example_page = _example_page(self.histories)
        self.members = [
            RankerMember(
                config,
                sizes,
                self,
                example_page,
                histories=self.histories,
                dense_dim=self.dense.output_dim,
                pair_features=self.matcher.pair_features,
                pooled_dim=self.matcher.pooled_dim,
                heads=[HEADS[name] for name in self.outputs],
                name=f"member_{n}",
                dtype=self.dtype_policy,
            )
            for n in range(config.members)
        ]
        self.task_losses = {name: keras.metrics.Mean(name=f"{name}_loss") for name in self.tasks}
        self._click_loss: ClickLoss | None = None
        self._click_metrics: list[ClickMetric] = []
        self.built = True

    @classmethod
    def adapt(
        cls,
        pages: Pages,
        *,
        pictures: PictureSources = None,
        image_feature: str | Sequence[str] | None = None,
        config: RankerConfig | None = None,
        allow_window_overlap: bool = False,
        **options: Any,
    ) -> "Ranker":
        """Makes a ranker for training pages: counts them, finds vocabularies and scales, and fills the tables.

        Args:
            pages: the training pages.
            pictures: embeddings of the dataset's items, or clusters, or several of these; `None` for none.
            image_feature: how pictures enter, by one name or several; unset: `cluster_id` for clusters, `simscore` for
                embeddings.
            config: the architecture; features that it does not set are all that the dataset has.
            allow_window_overlap: whether the pictures' encoder may have learned on the training pages.
            options: other arguments of the constructor, of a subclass for example.

        Raises:
            InputError: the candidates of the pages are all clicked or all not, the pictures are those of another
                dataset, or their encoder has seen the pages.
            ConfigurationError: a feature of `config` is no column of the dataset.
        """
        learnable_outcomes(pages)
        adapted = adapt_to_pages(
            pages,
            config or RankerConfig(),
            pictures=pictures,
            image_feature=image_feature,
            allow_window_overlap=allow_window_overlap,
        )
        ranker = cls(adapted.config, adapted.features.sizes, adapted.image_feature, pages.negative_rate, **options)
        ranker.fill(adapted.features)
        return ranker

    def item_tower(self, text: TextEmbedding | None) -> ItemTower:
        """Makes the item tower of a member; override it for one of your own.

        Args:
            text: the token embedding that titles and queries share; `None` if there are no texts.

        Returns:
            An `ItemTower`, or a layer with its `features`, call and output.
        """
        dim, policy = self.config.embedding_dim, self.dtype_policy
        features = FeatureEmbeddings(
            self.config.features.spec().item,
            self.sizes.item,
            dim,
            text,
            self.config.largest_embedding,
            name="features",
            dtype=policy,
        )
        picture_encoder = self.items.pictures.item_encoder(dim, policy)
        return ItemTower(features, picture_encoder, self.config.item_dim, name="items", dtype=policy)

    def candidate_tower(self) -> keras.layers.Layer | None:
        """Makes a layer of more candidate features, of a member: override it to add what a page says of candidates.

        Returns:
            A layer from a page to features of shape `(batch, candidates, dim)`, which the MLP sees beside the ranker's
            own; `None` for none. Padded candidates may have anything finite.
        """
        return None

    def page_tower(self) -> keras.layers.Layer | None:
        """Makes a layer of more page features, of a member: override it to add what all candidates of a page share.

        Returns:
            A layer from a page to features of shape `(batch, dim)`; `None` for none.
        """
        return None

    def call(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Scores pages; see the class."""
        return self.scores_of_logits(self.logits(page, training), page["item"] != PADDING)

    def scores_of_logits(self, logits: dict[str, tf.Tensor], present: tf.Tensor) -> dict[str, tf.Tensor]:
        """What the call makes of `logits`: corrected for `negative_rate` and calibrated, and tasks joined.

        Args:
            logits: as `logits` gives them.
            present: bool `(batch, candidates)`, false at padding.
        """
        scores = {"ctr": tf.sigmoid(self.calibrator.apply(logits["ctr"] + self._correction))}
        if "cvr" in logits:
            scores["ctcvr"] = scores["ctr"] * tf.sigmoid(logits["cvr"])
        if "visit" in logits:
            scores["long_visit"] = scores["ctr"] * tf.sigmoid(logits["visit"])
        if "dwell" in logits:
            scores["dwell"] = tf.math.expm1(tf.clip_by_value(logits["dwell"], 0.0, _LARGEST_LOG_SECONDS))
        return {name: tf.where(present, score, 0.0) for name, score in scores.items()}

    def score(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`call`, compiled; once for pages of all shapes."""
        if frozenset(page) not in self._traced and not tf.config.functions_run_eagerly():
            self._compiled_call.get_concrete_function(tf.nest.map_structure(_any_length, page))  # calls find it
            self._traced |= {frozenset(page)}
        return self._compiled_call(page)

    @property
    def calibrator(self) -> Calibrator:
        """Maps the log-odds of a click, corrected for `negative_rate`, onto calibrated ones; set after training."""
        return self._calibrator

    @calibrator.setter
    def calibrator(self, calibrator: Calibrator) -> None:
        self._calibrator = calibrator
        # A compiled graph holds the calibrator that was there when it was traced.
        self._compiled_call = tf.function(lambda page: self(page), reduce_retracing=True)
        self._traced: frozenset[frozenset[str]] = frozenset()  # entries of the pages that it was traced for
        for function in ("train_function", "test_function", "predict_function"):
            setattr(self, function, None)

    def logits(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """What the last layer says of pages like those it trains on; meaningless at padded candidates.

        Returns:
            Shape `(batch, candidates)` each: `ctr`, log-odds of a click, not corrected for `negative_rate` nor
            calibrated; `cvr` and `visit`, log-odds of a conversion and of a long visit after a click; `dwell`,
            log(1 + seconds) after a click.
        """
        return _mean_over_members(self._member_logits(page, training))

    def attention_weights(self, page: dict[str, tf.Tensor]) -> dict[str, AttentionWeights]:
        """What attracts the attention of candidates: how much each step of each history counts for each of them.

        Of several members the mean; heads and histories stay apart.

        Args:
            page: as in the call.
        """
        inputs = self._page_inputs(page)
        members = [member.attention_weights(inputs) for member in self.members]
        return tf.nest.map_structure(
            lambda *weights: None if weights[0] is None else tf.reduce_mean(tf.stack(weights), axis=0), *members
        )

    def _member_logits(self, page: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        """As `logits`, before they are averaged: `(members, batch, candidates)` each."""
        inputs = self._page_inputs(page)
        logits = [member(inputs, training=training) for member in self.members]
        return {name: tf.stack([each[name] for each in logits]) for name in logits[0]}

    def _page_inputs(self, page: dict[str, tf.Tensor]) -> PageInputs:
        """What the tables and comparisons say of pages."""
        page = dict(page)
        for name in self.histories:
            for feature in (f"{name}_item", f"{name}_time"):
                page[feature] = page[feature][:, : getattr(self.config.lengths, name)]
        unknown_item, unknown_user = (tf.constant(n, tf.int64) for n in (self.sizes.items, self.sizes.users))
        groups = {name: page[name] for name in ("item", *(f"{name}_item" for name in self.histories))}
        distinct, positions = _distinct(groups, unknown_item)
        new_items = page.get(NEW_ITEMS)
        items = self.items(distinct, new_items=new_items)
        distinct_compared = self.matcher.compared(distinct, items, new_items)
        compared = {name: distinct_compared.at(position) for name, position in positions.items()}
        histories = {}
        for name in self.histories:
            steps = f"{name}_item"
            mask = page[steps] != PADDING
            age = page["timestamp"][:, None] - page[f"{name}_time"]
            pairs, pooled, similarity = self.matcher.match(compared["item"], compared[steps], mask, age)
            histories[name] = HistoryInputs(positions[steps], mask, age, pairs, pooled, similarity)
        query = None
        if self.config.features.query:
            query = hash_tokens(page["query"], self.config.token_buckets, self.config.query_tokens)
        return PageInputs(
            page,
            items,
            positions["item"],
            page["item"] != PADDING,
            self.dense(page) if self.dense.features else None,
            self.users(tf.where(page["user"] < 0, unknown_user, page["user"])),
            query,
            histories,
        )

    def fill(self, features: AdaptedFeatures) -> None:
        """Writes the content of the feature tables, of the sizes that the ranker was made with."""
        for table, values in ((self.items.features, features.items), (self.users, features.users)):
            for name, rows in values.items():
                table.tables[name].assign(rows)
        self.items.pictures.fill(features.pictures)
        self.dense.fill(features.vocabulary.candidate)
        self.vocabulary = features.vocabulary

    def is_adapted(self) -> bool:
        """Whether the feature tables hold anything."""
        tables = [*self.items.features.tables.values(), *self.users.tables.values(), *self.dense.scales.values()]
        return any(bool(tf.reduce_any(table.value != 0)) for table in tables)

    def compile(
        self,
        optimizer: str | keras.optimizers.Optimizer | None = None,
        loss: Any = None,
        metrics: Sequence[Any] | None = None,
        *,
        jit_compile: bool | str = False,
        **options: Any,
    ) -> None:
        """Keras' `compile`.

        Args:
            optimizer: unset, `LazyAdam` as `models.train_ctr` has it by default, with averaged weights.
            loss: a loss of labels and log-odds, in the place of log loss for the click; see `ClickLoss`.
            metrics: metrics of labels and click probabilities; see `ClickMetric`.
            jit_compile: must be false: XLA compiles neither texts nor the search for distinct items.
            options: `run_eagerly`.

        Raises:
            ValueError: the loss takes probabilities, or an option is not supported.
        """
        if jit_compile not in (False, "auto"):
            raise ValueError(f"`jit_compile` must be False or 'auto'. Received: {jit_compile}")
        unsupported = [name for name in ("loss_weights", "weighted_metrics") if options.get(name) is not None]
        if unsupported:
            raise ValueError(f"A ranker has no {unsupported[0]}: weigh pages by their `{LOSS_WEIGHT}`.")
        if metrics is not None and not isinstance(metrics, list | tuple):
            raise ValueError(f"`metrics` must be a list, of metrics of the click. Received: {metrics}")
        if optimizer is None:
            optimizer = default_optimizer(TrainingConfig())
        self._click_loss = None if loss is None else ClickLoss(loss)
        self._click_metrics = [ClickMetric(metric) for metric in metrics or []]
        self._click_metric_list = [each.metric for each in self._click_metrics]
        self._compiled_with = {"loss": loss, "metrics": metrics, "run_eagerly": options.get("run_eagerly", False)}
        super().compile(optimizer, jit_compile=False, **options)

    def get_compile_config(self) -> dict[str, Any] | None:
        """Keras' method: what `compile` was given."""
        if not self.compiled:
            return None
        values = {"optimizer": self.optimizer, **self._compiled_with}
        return {name: keras.saving.serialize_keras_object(value) for name, value in values.items()}

    def fit(self, *args: Any, callbacks: Any = None, **options: Any) -> keras.callbacks.History:
        """Keras' `fit`, on the batches of `Pages.batches`.

        Validation and callbacks at the end of an epoch see the averaged weights, if the optimizer keeps them, and so
        has the ranker after training; see `AveragedWeights`.

        Raises:
            ValueError: the feature tables are empty, or `make` has not been trained.
        """
        if not self.is_adapted():
            raise ValueError(
                "The feature tables of this ranker are empty: make it with `Ranker.adapt(pages)`, or call `fill`, "
                "before `fit`."
            )
        if not all(tower.is_trained() for tower in self.items.pictures.towers):
            raise ValueError("What the image feature make reads learns before the ranker: see `PictureRanker`.")
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [AveragedWeights(), *keras.tree.flatten(callbacks)] if callbacks else [AveragedWeights()]
        # Keras warns of shuffling, which batches do themselves, unless it is switched off.
        return super().fit(*args, callbacks=callbacks, **{"shuffle": False, **options})

    def predict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Keras' `predict`; batches may differ in length.

        Returns:
            The outputs by name: float32 `(pages, candidates)`, as long as the longest page, 0 at padding.
        """
        outputs = super().predict(*args, **options)
        return {
            name: scores.to_tensor(0.0).numpy() if isinstance(scores, tf.RaggedTensor) else scores
            for name, scores in outputs.items()
        }

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = False,
    ) -> tf.Tensor:
        """This replica's part of the weighted mean losses over all candidates of the global batch, added over members.

        Added up, not averaged, so that each member learns as it would alone. Updates the metrics.

        Args:
            x: pages.
            y: their labels, `(batch, candidates)`: `clicked`, or a dictionary of the labels that the tasks learn.
            y_pred: unused; the ranker computes its logits from `x`.
            sample_weight: `(batch,)` or `(batch, candidates)`, what candidates count in the loss. Padding never counts.
            training: as in `call`.
        """
        labels = dict(y) if isinstance(y, Mapping) else {"clicked": y}
        logits = self._member_logits(x, training)
        present = tf.cast(x["item"] != PADDING, tf.float32)
        weight = x[LOSS_WEIGHT][:, None] if LOSS_WEIGHT in x else 1.0
        if sample_weight is not None:
            sample_weight = tf.cast(sample_weight, tf.float32)
            weight *= sample_weight if len(sample_weight.shape) == 2 else sample_weight[:, None]
        targets = make_targets([*self.tasks], labels, logits, present, self.config.long_visit_seconds)
        total = 0.0
        for name, (label, prediction, counts) in targets.items():
            label = tf.broadcast_to(label, tf.shape(prediction))
            if name == "ctr" and self._click_loss is not None:
                by_member = [self._click_loss(label[n], prediction[n], counts) for n in range(len(self.members))]
                losses, counts = tf.stack([losses for losses, _ in by_member]), by_member[0][1]
            else:
                losses = self.tasks[name](label[..., None], prediction[..., None], training=training)
            # Flat: Keras would take the mean of each page first, over its padding too.
            mean = tf.reshape(tf.reduce_mean(losses, axis=0), (-1,))
            self.task_losses[name].update_state(mean, sample_weight=tf.reshape(counts, (-1,)))
            losses = tf.reduce_sum(losses, axis=0)
            weights = counts * _fitting(weight, counts, name)
            total += self.task_weights[name] * global_mean(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
        if self._click_metrics:
            ctr = self.scores_of_logits(_mean_over_members(logits), present > 0)["ctr"]
            for metric in self._click_metrics:
                metric.update(tf.cast(labels["clicked"] == 1, tf.float32), ctr, present)
        return total

    @property
    def metrics(self) -> list[keras.Metric]:
        """What `fit` shows and resets: the mean loss of each task over all replicas, and the compiled metrics."""
        return [*self.task_losses.values(), *(each.metric for each in self._click_metrics)]

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Keras' method: the loss, its parts if there are several tasks, and the compiled metrics."""
        means = {f"{name}_loss": mean.result() for name, mean in self.task_losses.items()}
        results = {"loss": sum(weight * means[f"{name}_loss"] for name, weight in self.task_weights.items())}
        if len(means) > 1:
            results |= means
        for each in self._click_metrics:
            result = each.metric.result()
            results |= result if isinstance(result, dict) else {each.metric.name: result}
        return results

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Keras' hook: one optimizer step; returns the means so far in the epoch."""
        page, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            loss = self.compute_loss(page, labels, sample_weight=weight, training=True) + sum(self.losses)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, [variable.value for variable in self.trainable_variables])
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return self.get_metrics_result()

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Keras' hook: returns the means so far."""
        page, labels, weight = keras.utils.unpack_x_y_sample_weight(data)
        self.compute_loss(page, labels, sample_weight=weight)
        return self.get_metrics_result()

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "config": self.config.model_dump(mode="json"),
            "sizes": self.sizes.model_dump(mode="json"),
            "image_feature": self.image_feature,
            "negative_rate": self.negative_rate,
            "vocabulary": None if self.vocabulary is None else self.vocabulary.model_dump(mode="json"),
            "calibrator": self.calibrator.model_dump(mode="json"),
            "name": self.name,
            "dtype": keras.saving.serialize_keras_object(self.dtype_policy),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "Ranker":
        """Makes the ranker of a `get_config`, its tables empty."""
        kinds: dict[str, type[Config]] = {
            "config": RankerConfig,
            "sizes": FeatureSizes,
            "vocabulary": FeatureVocabulary,
            "calibrator": Calibrator,
        }
        parsed = {
            name: kind.model_validate_json(json.dumps(config[name]))
            for name, kind in kinds.items()
            if config.get(name) is not None
        }
        return cls(**{**config, **parsed, "dtype": keras.dtype_policies.get(config.get("dtype"))})


def default_optimizer(config: TrainingConfig) -> Adam:
    """The optimizer of a training configuration."""
    options: dict[str, Any] = {"weight_decay": config.weight_decay, "global_clipnorm": config.clip_norm}
    if config.optimizer == "adam":
        return Adam(config.learning_rate, **options)
    return LazyAdam(config.learning_rate, average=config.average_weights, **options)


def _mean_over_members(logits: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {name: tf.reduce_mean(values, axis=0) for name, values in logits.items()}


def _fitting(weight: tf.Tensor | float, counts: tf.Tensor, name: str) -> tf.Tensor | float:
    """The weights of candidates or pages `(batch, 1)` in the shape of what a task counts."""
    if isinstance(weight, float) or (len(counts.shape) == 2 and name != "pairwise"):
        return weight
    # Pairs, and losses of pages: a page counts as the candidate that counts most.
    page = tf.maximum(tf.reduce_max(weight, axis=1, keepdims=True), 0.0)
    return page if len(counts.shape) == 2 else page[:, 0]


def _any_length(values: tf.Tensor) -> tf.TensorSpec:
    values = tf.convert_to_tensor(values)
    return tf.TensorSpec([None] * len(values.shape), values.dtype)


def _distinct(groups: dict[str, tf.Tensor], unknown: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The distinct item rows of several groups, `(n,)`, and where each row of a group is among them.

    Padding is like the row `unknown`.
    """
    rows = tf.concat([tf.reshape(rows, (-1,)) for rows in groups.values()], axis=0)
    distinct, position = tf.unique(tf.where(rows < 0, unknown, rows))
    positions = tf.split(position, [tf.size(rows) for rows in groups.values()])
    shaped = zip(groups.items(), positions, strict=True)
    return distinct, {name: tf.reshape(position, tf.shape(rows)) for (name, rows), position in shaped}


def _example_page(histories: Sequence[str]) -> dict[str, tf.Tensor]:
    """A page of one candidate and one step in each history."""
    return {
        name: tf.fill((1,) if group == "context" else (1, 1), tf.constant("" if kind == "bytes" else 0, _TYPES[kind]))
        for name, kind, group, is_label in FEATURES
        if not is_label and (group in ("context", "candidates") or group in histories)
    }
