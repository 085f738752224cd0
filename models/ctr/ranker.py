"""The ranker: a page in, a click probability per candidate out."""

import math
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from beam_pipelines.command import CommandError
from beam_pipelines.records import HISTORIES
from models.artifacts import RankerMetadata, read_metadata
from models.config import load_config
from models.ctr import matches
from models.ctr.calibrator import Calibrator
from models.ctr.candidate_numbers import CandidateNumbers
from models.ctr.config import ImageFeature, RankerConfig, TrainingConfig
from models.ctr.feature_config import FeatureSizes
from models.ctr.feature_values import FeatureValues
from models.ctr.history_encoder import HistoryEncoder
from models.ctr.id_embedding import IdEmbedding
from models.ctr.item_tower import ItemTower
from models.ctr.multi_head_target_attention import MultiHeadTargetAttention
from models.ctr.new_items import NEW_ITEMS, NewItems, look_up
from models.ctr.table_features import TableFeatures
from models.ctr.target_attention import TargetAttention
from models.ctr.text_embedding import TextEmbedding, hash_tokens
from models.data.pages import PADDING
from models.training.distributed_fit import DistributedFit

CONFIG_FILE = "config.yaml"
SIZES_FILE = "feature_sizes.yaml"
VALUES_FILE = "feature_values.json"
CALIBRATOR_FILE = "calibrator.yaml"
WEIGHTS_FILE = "ranker.weights.h5"
LOSS_WEIGHT = "loss_weight"
"""Optional feature of a training page, float32 `(batch,)`: what its candidates count in the loss, not in metrics."""

_MINUTE = 60_000
_AGE_BUCKETS = 24  # powers of two of minutes: the last one begins at 16 years
_LARGEST = 5
_HEADS = {"ctr": "ctr", "ctcvr": "cvr", "dwell": "dwell"}
"""Output to the logit that it has of its own."""


class Ranker(DistributedFit, tfrs.Model):
    """Predicts the click probability of each candidate of a page, and what follows a click if it is asked to.

    The page is the unit: user, query and histories are embedded once per page and shared by its candidates, and each
    distinct item of a batch once. A candidate's score does not depend on the other candidates.

    What a candidate brings to the 5-layer MLP: its item vector; the newest steps of each history as DIN's activation
    unit weighs them; each whole history as multi-head target attention sees it from there; the numbers that the page
    carries for it; the product of its title with the query; and for each history the share and the number of steps with
    the same item, category and so on. The page brings user, query and the lengths of the histories. A step's key is its
    item vector plus an embedding of its action and age. `image_feature` adds the pictures:

    - `none`: nothing.
    - `vector`: the embedding, projected, in the item tower.
    - `simscore`: the cosine with the picture of every history step (equation 8): in the attention, and per history the
      largest, the mean of the 5 largest and the mean.
    - `cluster_id`: an ID like the category: embedded in the item tower, compared with every history step in the
      attention, and the share and number of steps with the same one.

    Tasks share everything but the layer of their logit; the pairwise one has that of the click. The probability of a
    conversion is learned over all candidates, as a factor of that of click and conversion (ESMM), so that it is not
    biased towards what is clicked.

    Labels and positions are never inputs.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the feature tables; `models.ctr.features` finds them and fills the tables.
        image_feature: how pictures enter.
        negative_rate: share of the unclicked candidates that is left on the pages it trains on. Predictions are
            corrected for it: they are those for pages with all candidates.

    Call arguments:
        page: the features of `parse_pages` that are known before the page is shown; any numbers of pages, candidates
            and steps, 0 included. Item row `items` stands for an unknown item, user -1 for an unknown user, and so
            does any row beyond the tables, unless the page has `NEW_ITEMS` that it refers to.

    Output: float32 `(batch, candidates)` each, 0 at padded candidates: `ctr`; `ctcvr`, the probability of click and
    conversion; `dwell`, the seconds expected after a click (of their logarithm the mean, so rather the median).

    Reference: the paper's appendices A and B; Zhou et al., Deep Interest Network (KDD 2018); Ma et al., Entire Space
    Multi-Task Model (SIGIR 2018); Wang et al., DCN V2 (WWW 2021); Burges et al., Learning to Rank using Gradient
    Descent (ICML 2005), the pairwise task.
    """

    def __init__(
        self, config: RankerConfig, sizes: FeatureSizes, image_feature: ImageFeature, negative_rate: float = 1.0
    ) -> None:
        super().__init__()
        if not 0 < negative_rate <= 1:
            raise ValueError(f"`negative_rate` must be above 0 and at most 1. Received: {negative_rate}")
        self.config = config
        self.sizes = sizes
        self.image_feature = image_feature
        self.negative_rate = negative_rate
        self.calibrator = Calibrator()
        # Leaving out unclicked candidates divides the odds of a click by the share that is kept.
        self._correction = math.log(negative_rate)
        features, attention = config.features, config.attention
        self.histories = [name for name in HISTORIES if getattr(config.lengths, name)]
        tables = [*features.item.values(), *features.user.values()]
        self.text = None
        if features.query or any(feature.type == "text" for feature in tables):
            self.text = TextEmbedding(config.token_buckets, config.embedding_dim, name="text")
            self.text.build(None)
        self.items = ItemTower(config, sizes, image_feature, self.text, name="items")
        self.users = TableFeatures(
            features.user, sizes.user, sizes.users + 1, config.embedding_dim, self.text, name="users"
        )
        self.numbers = CandidateNumbers(features.candidate, config.embedding_dim, name="numbers")
        self.title = next((name for name, feature in features.item.items() if feature.type == "text"), None)

        dim = config.item_dim
        query_dim = config.embedding_dim if features.query else 0
        candidate_dim = dim + self.numbers.output_dim + (query_dim if self.title else 0)
        page_dim = self.users.output_dim + query_dim + len(self.histories)
        candidate_dim += len(self.histories) * self._pooled_count()
        # How old a step is and, each history having its own, what the user did.
        attends = attention.recent_steps or attention.histories != "none"
        self.age = {name: IdEmbedding(_AGE_BUCKETS - 1, dim, name=f"{name}_age") for name in self.histories if attends}
        for embedding in self.age.values():
            embedding.build()
        self.attention = None
        self.encoders: dict[str, HistoryEncoder] = {}
        keys, pairs = (None, None, dim), self._pair_count()
        self.recent_attention: dict[str, TargetAttention] = {}
        for name in self.histories if attention.recent_steps else []:
            self.recent_attention[name] = TargetAttention(
                attention.units,
                attention.normalization,
                attention.activation,
                pair_features=pairs,
                name=f"{name}_recent_attention",
            )
            self.recent_attention[name].build(keys, keys)
            candidate_dim += dim
        if attention.histories == "target_attention" and self.histories:
            # One for all histories: the age embeddings tell it which history a step is of.
            self.attention = MultiHeadTargetAttention(
                attention.heads, attention.head_dim, pair_features=pairs, name="attention"
            )
            self.attention.build(keys, keys)
            candidate_dim += len(self.histories) * attention.heads * attention.head_dim
        elif attention.histories == "self_attention":
            for name in self.histories:
                self.encoders[name] = HistoryEncoder(dim, attention.heads, attention.head_dim, name=f"{name}_encoder")
                self.encoders[name].build(keys)
                page_dim += dim

        self.cross = [tfrs.layers.dcn.Cross(name=f"cross_{n}") for n in range(config.cross_layers)]
        for layer in self.cross:
            layer.build((None, None, candidate_dim + page_dim))
        # The first layer of the MLP on [candidate, page], with the part of the page computed once per page, unless
        # cross layers have mixed the two.
        units = config.mlp_units
        self.mlp_candidate = keras.layers.Dense(units[0], name="mlp_candidate")
        self.mlp_candidate.build((None, None, candidate_dim + (page_dim if self.cross else 0)))
        self.mlp_page = None
        if not self.cross:
            self.mlp_page = keras.layers.Dense(units[0], use_bias=False, name="mlp_page")
            self.mlp_page.build((None, page_dim))
        self.mlp_rest = [
            keras.layers.Dense(width, activation="relu", name=f"mlp_{n}") for n, width in enumerate(units[1:], 1)
        ]
        for layer, width in zip(self.mlp_rest, units, strict=False):
            layer.build((None, None, width))
        self.mlp_dropout = [
            keras.layers.Dropout(config.mlp_dropout, name=f"mlp_dropout_{n}") for n in range(len(units))
        ]
        for layer in self.mlp_dropout:
            layer.build(None)
        weights = {name: weight for name, weight in config.tasks.model_dump().items() if weight}
        self.tasks = {name: _task(name, weight) for name, weight in weights.items()}
        self.outputs = [name for name in self.tasks if name in _HEADS]
        heads = [_HEADS[name] for name in self.outputs]
        self.heads = {head: keras.layers.Dense(1, name=f"{head}_logit") for head in heads}
        for layer in self.heads.values():
            layer.build((None, None, units[-1]))
        self.task_weights = weights
        self.losses_of_tasks = {name: keras.metrics.Mean(name=f"{name}_loss") for name in self.tasks}
        self.built = True

    def call(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Scores pages; see the class."""
        present = page["item"] != PADDING
        logits = self.logits(page, training)
        scores = {"ctr": tf.sigmoid(self.calibrator.apply(logits["ctr"] + self._correction))}
        if "cvr" in logits:
            scores["ctcvr"] = scores["ctr"] * tf.sigmoid(logits["cvr"])
        if "dwell" in logits:
            scores["dwell"] = tf.maximum(tf.math.expm1(logits["dwell"]), 0.0)
        return {name: tf.where(present, score, 0.0) for name, score in scores.items()}

    def score(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`call`, compiled."""
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

    def logits(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """What the last layer says of pages like those it trains on; meaningless at padded candidates.

        Returns:
            Shape `(batch, candidates)` each: `ctr`, log-odds of a click, not corrected for `negative_rate` nor
            calibrated; `cvr`, log-odds of a conversion after a click; `dwell`, log(1 + seconds) after a click.
        """
        unknown_item, unknown_user = (tf.constant(n, tf.int64) for n in (self.sizes.items, self.sizes.users))
        groups = {name: page[name] for name in ("item", *(f"{name}_item" for name in self.histories))}
        present = {name: rows != PADDING for name, rows in groups.items()}
        distinct, place = _distinct(groups, unknown_item)
        new_items = page.get(NEW_ITEMS)

        features, of_distinct = self.items(distinct, training=training, new_items=new_items)
        vectors = {name: tf.gather(of_distinct, position) for name, position in place.items()}
        titles = None if self.title is None else tf.gather(features[self.title], place["item"])
        compared_by = self._compared_by(distinct, new_items)
        compared = {name: compared_by.at(position) for name, position in place.items()}
        users = self.users(tf.where(page["user"] < 0, unknown_user, page["user"]), training=training)
        candidate, about_page = [vectors["item"]], [*users.values()]
        if self.numbers.features:
            candidate.append(self.numbers(page))
        if self.config.features.query:
            query = self.text(hash_tokens(page["query"], self.config.token_buckets, self.config.query_tokens))
            about_page.append(query)
            if titles is not None:
                candidate.append(titles * query[:, None, :])
        for name in self.histories:
            steps, mask = f"{name}_item", present[f"{name}_item"]
            pairs, pooled = self._match(compared["item"], compared[steps], mask)
            candidate += pooled
            about_page.append(tf.math.log1p(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True)))
            if name not in self.age:
                continue
            keys = vectors[steps] + self.age[name](_age_bucket(page["timestamp"][:, None] - page[f"{name}_time"]))
            if name in self.recent_attention:
                newest = self.config.attention.recent_steps
                recent = [pair[:, :, :newest] for pair in pairs]
                candidate.append(
                    self.recent_attention[name](
                        vectors["item"],
                        keys[:, :newest],
                        mask[:, :newest],
                        recent,
                        query_mask=present["item"],
                        training=training,
                    )
                )
            if self.attention is not None:
                candidate.append(self.attention(vectors["item"], keys, mask, pairs, training=training))
            if name in self.encoders:
                about_page.append(self.encoders[name](keys, mask))
        return self._mlp(tf.concat(candidate, axis=-1), tf.concat(about_page, axis=-1), training)

    def _matched_columns(self) -> list[str]:
        features = self.config.features.item
        return [name for name, f in features.items() if f.type in ("category", "hash") and f.match]

    def _compared_by(self, rows: tf.Tensor, new_items: NewItems | None = None) -> "_Compared":
        """What the items of rows, of any shape, are compared by."""
        of_new, cluster_of_new = ({}, None) if new_items is None else new_items
        tables = [(self.items.features.tables[name].value, of_new.get(name)) for name in self._matched_columns()]
        if self.image_feature == "cluster_id":
            tables.append((self.items.cluster.value, cluster_of_new))
        ids = [look_up(table, rows, values) for table, values in tables]
        if self._matches_ids():
            known = rows < self.sizes.items if new_items is None else rows != self.sizes.items
            ids.insert(0, tf.cast(tf.where(known, rows + 1, 0), tf.int32))
        return _Compared(ids, look_up(self.items.image.value, rows) if self.image_feature == "simscore" else None)

    def _matches_ids(self) -> bool:
        feature = self.config.features.item.get("item_id")
        return feature is not None and feature.match

    def _pair_count(self) -> int:
        by_picture = self.image_feature in ("simscore", "cluster_id")
        return self._matches_ids() + len(self._matched_columns()) + by_picture

    def _pooled_count(self) -> int:
        by_similarity = self.image_feature == "simscore"
        return 2 * (self._pair_count() - by_similarity) + 3 * by_similarity

    def _match(
        self, candidates: "_Compared", steps: "_Compared", mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Compares candidates with steps: `(batch, candidates, steps)` each, and pooled `(batch, candidates, 1)`."""
        pairs = [
            matches.same_id(of_candidates, of_steps, mask & (of_steps != 0))
            for of_candidates, of_steps in zip(candidates.ids, steps.ids, strict=True)
        ]
        counts = [tf.reduce_sum(match, axis=-1) for match in pairs]
        steps_in_all = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True)
        pooled = [tf.math.divide_no_nan(count, steps_in_all) for count in counts]
        # A share is small where it says most, in long histories. With the numbers beside the shares, validation GAUC
        # of `none` is 0.655 instead of 0.550 on the sample, 0.645 instead of 0.608 on H&M (one seed each).
        pooled += [tf.math.log1p(count) for count in counts]
        if self.image_feature == "simscore":
            of_candidates, of_steps = (tf.reduce_any(each.pictures != 0, axis=-1) for each in (candidates, steps))
            of_steps &= mask
            similarity = matches.cosine(candidates.pictures, steps.pictures)
            pairs.append(similarity)
            both = of_candidates[:, :, None] & of_steps[:, None, :]
            pooled += [matches.mean_of_largest(similarity, both, count) for count in (1, _LARGEST)]
            pooled.append(matches.mean_match(similarity, of_steps))  # a candidate without picture is like none
        return pairs, [match[..., None] for match in pooled]

    def _mlp(self, candidate: tf.Tensor, page: tf.Tensor, training: bool) -> dict[str, tf.Tensor]:
        """The logits of `(batch, candidates, dim)` and `(batch, dim)`."""
        shape = tf.shape(candidate)
        if self.cross:
            page = tf.broadcast_to(page[:, None, :], (shape[0], shape[1], page.shape[-1]))
            together = crossed = tf.concat([candidate, page], axis=-1)
            for layer in self.cross:
                crossed = layer(together, crossed)
            candidate = crossed
        # Candidates of all pages in one matrix: a product of a three-dimensional tensor is a dozen operations.
        hidden = self.mlp_candidate(tf.reshape(candidate, (-1, candidate.shape[-1])))
        if self.mlp_page is not None:
            by_page = tf.reshape(hidden, (shape[0], shape[1], hidden.shape[-1])) + self.mlp_page(page)[:, None, :]
            hidden = tf.reshape(by_page, (-1, hidden.shape[-1]))
        hidden = self.mlp_dropout[0](tf.nn.relu(hidden), training=training)
        for layer, dropout in zip(self.mlp_rest, self.mlp_dropout[1:], strict=True):
            hidden = dropout(layer(hidden), training=training)
        return {name: tf.reshape(layer(hidden), shape[:2]) for name, layer in self.heads.items()}

    def compute_loss(self, page: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """This replica's part of the weighted mean losses over all candidates of the global batch."""
        logits = self.logits(page, training)
        clicked = page["clicked"] == 1
        present = tf.cast(page["item"] != PADDING, tf.float32)
        # Label, prediction, and how much each counts: candidates, or pairs of them.
        targets = {"ctr": (tf.cast(clicked, tf.float32), logits["ctr"], present)}
        if "pairwise" in self.tasks:
            targets["pairwise"] = _pairs(logits["ctr"], clicked, present)
        if "ctcvr" in self.tasks:
            both = clicked & (page["converted"] == 1)
            targets["ctcvr"] = tf.cast(both, tf.float32), _and_logit(logits["ctr"], logits["cvr"]), present
        if "dwell" in self.tasks:
            targets["dwell"] = tf.math.log1p(page["dwell"]), logits["dwell"], tf.cast(clicked, tf.float32)
        page_weight = page[LOSS_WEIGHT][:, None] if LOSS_WEIGHT in page else 1.0
        total = 0.0
        for name, (label, prediction, counts) in targets.items():
            losses = self.tasks[name](label[..., None], prediction[..., None], training=training)
            self.losses_of_tasks[name].update_state(losses, sample_weight=counts)
            weights = counts * page_weight
            total += self.task_weights[name] * _share(tf.reduce_sum(losses * weights), tf.reduce_sum(weights))
        return total

    @property
    def metrics(self) -> list[keras.Metric]:
        """What `fit` shows and resets: the mean loss of each task over all replicas."""
        return [*self.losses_of_tasks.values()]

    def get_metrics_result(self) -> dict[str, tf.Tensor]:
        """Keras' method: the loss, and its parts if there are several tasks."""
        means = super().get_metrics_result()
        loss = sum(weight * means[f"{name}_loss"] for name, weight in self.task_weights.items())
        return {"loss": loss, **(means if len(means) > 1 else {})}

    def train_step(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimizer step; returns the means so far in the epoch, over all replicas."""
        super().train_step(page)
        return self.get_metrics_result()


class _Compared(NamedTuple):
    """What candidates and history steps are compared by.

    Attributes:
        ids: int32, of one shape: their rows and the values of their columns, 0 = unknown.
        pictures: embeddings, that shape and `(image_dim,)`; `None` unless they are compared.
    """

    ids: list[tf.Tensor]
    pictures: tf.Tensor | None

    def at(self, position: tf.Tensor) -> "_Compared":
        """Of the items at these positions of a list."""
        pictures = None if self.pictures is None else tf.gather(self.pictures, position)
        return _Compared([tf.gather(ids, position) for ids in self.ids], pictures)


def _distinct(groups: dict[str, tf.Tensor], unknown: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The distinct item rows of several groups, `(n,)`, and where each row of a group is among them.

    Padding is like the row `unknown`.
    """
    rows = tf.concat([tf.reshape(rows, (-1,)) for rows in groups.values()], axis=0)
    distinct, position = tf.unique(tf.where(rows < 0, unknown, rows))
    positions = tf.split(position, [tf.size(rows) for rows in groups.values()])
    shaped = zip(groups.items(), positions, strict=True)
    return distinct, {name: tf.reshape(position, tf.shape(rows)) for (name, rows), position in shaped}


def _task(name: str, weight: float) -> tfrs.tasks.Ranking:
    """A task whose loss is per candidate, `(batch, candidates)`: what counts how much is known to the ranker alone."""
    if name == "dwell":
        loss = keras.losses.Huber(delta=1.0, reduction=None)
    else:
        loss = keras.losses.BinaryCrossentropy(from_logits=True, reduction=None)
    task = tfrs.tasks.Ranking(loss=loss, name=f"{name}_task")
    task.build(None)
    return task


def _and_logit(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Log-odds of two events together, from those of the first and of the second given the first."""
    both = tf.math.log_sigmoid(first) + tf.math.log_sigmoid(second)
    # Not both: not the first, or the first and not the second.
    not_first, first_only = tf.math.log_sigmoid(-first), tf.math.log_sigmoid(first) + tf.math.log_sigmoid(-second)
    return both - tf.reduce_logsumexp(tf.stack([not_first, first_only]), axis=0)


def _pairs(logits: tf.Tensor, clicked: tf.Tensor, present: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pairs of each page as a task: labels, log-odds that the first candidate is the clicked one, and weights.

    Args:
        logits, clicked, present: shape `(batch, candidates)`.

    Returns:
        Shape `(batch, candidates ** 2)` each. The weights of a page's pairs of a clicked and an unclicked candidate add
        up to one; all others weigh nothing.
    """
    pages, size = tf.unstack(tf.shape(logits))
    differences = tf.reshape(logits[:, :, None] - logits[:, None, :], (pages, size * size))
    first, second = (present * tf.cast(chosen, tf.float32) for chosen in (clicked, ~clicked))
    pairs = tf.reshape(first[:, :, None] * second[:, None, :], (pages, size * size))
    weights = tf.math.divide_no_nan(pairs, tf.reduce_sum(pairs, axis=1, keepdims=True))
    return tf.ones_like(differences), differences, weights


def _share(loss: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """This replica's part of the mean of a loss; optimizers add replicas up, whose weights may differ."""
    context = tf.distribute.get_replica_context()
    if context is not None:
        weight = context.all_reduce(tf.distribute.ReduceOp.SUM, weight)
    return tf.math.divide_no_nan(loss, weight)


def _age_bucket(milliseconds: tf.Tensor) -> tf.Tensor:
    minutes = tf.cast(tf.maximum(milliseconds, 0) // _MINUTE + 1, tf.float32)
    return tf.minimum(tf.cast(tf.math.log(minutes) / np.log(2.0), tf.int32), _AGE_BUCKETS - 1)


def save_ranker(run: Path, ranker: Ranker, config: TrainingConfig, values: FeatureValues) -> None:
    """Writes what `load_ranker` reads.

    Args:
        run: the run directory.
        ranker: a trained one.
        config: how it was made; `config.ranker` is the ranker's own.
        values: what its features were made with.
    """
    ranker.save_weights(run / WEIGHTS_FILE)
    (run / CONFIG_FILE).write_text(config.to_yaml())
    (run / SIZES_FILE).write_text(ranker.sizes.to_yaml())
    (run / VALUES_FILE).write_text(values.model_dump_json() + "\n")
    (run / CALIBRATOR_FILE).write_text(ranker.calibrator.to_yaml())


def load_ranker(run: Path, option: str = "--model") -> Ranker:
    """Loads the ranker that `models.train_ctr` wrote.

    Args:
        run: the run directory.
        option: the command-line option that named it, for errors.

    Raises:
        CommandError: the directory holds no ranker, or lacks the vocabulary of a feature.
    """
    run = Path(run)
    metadata = read_metadata(RankerMetadata, run, option, "models.train_ctr")
    for file in (CONFIG_FILE, SIZES_FILE, VALUES_FILE, CALIBRATOR_FILE, WEIGHTS_FILE):
        if not (run / file).is_file():
            raise CommandError(f"{option}: {run} has no {file}; train the ranker again")
    config = load_config(TrainingConfig, str(run / CONFIG_FILE)).ranker
    sizes = load_config(FeatureSizes, str(run / SIZES_FILE))
    load_config(FeatureValues, str(run / VALUES_FILE)).check(config.features, str(run / VALUES_FILE))
    ranker = Ranker(config, sizes, metadata.image_feature, metadata.negative_rate)
    ranker.load_weights(run / WEIGHTS_FILE)
    ranker.calibrator = load_config(Calibrator, str(run / CALIBRATOR_FILE))
    return ranker
