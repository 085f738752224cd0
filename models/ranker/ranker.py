"""The ranker: a page in, a click probability per candidate out."""

import math
from pathlib import Path
from typing import NamedTuple

import keras
import tensorflow as tf
import tensorflow_recommenders as tfrs

from beam_pipelines.format.records import HISTORIES
from beam_pipelines.shell.command import CommandError
from models.artifact import read_metadata
from models.config import load_config
from models.data.pages import PADDING
from models.features.candidate_numbers import CandidateNumbers
from models.features.item_table import ItemTable, ItemValues
from models.features.new_items import NEW_ITEMS, NewItems
from models.features.spec import FeatureSizes
from models.features.table import FeatureTable
from models.features.vocabulary import FeatureValues
from models.layers import matches
from models.layers.text_embedding import hash_tokens
from models.ranker.calibrator import Calibrator
from models.ranker.config import ImageFeature, RankerConfig, TrainingConfig
from models.ranker.member import History, KnownPages, RankerMember
from models.ranker.run import RankerMetadata
from models.training.distributed_fit import DistributedFit

CONFIG_FILE = "config.yaml"
SIZES_FILE = "feature_sizes.yaml"
VALUES_FILE = "feature_values.json"
CALIBRATOR_FILE = "calibrator.yaml"
WEIGHTS_FILE = "ranker.weights.h5"
LOSS_WEIGHT = "loss_weight"
"""Optional feature of a training page, float32 `(batch,)`: what its candidates count in the loss, not in metrics."""

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
      largest, the mean of the 5 largest and the mean; in standard deviations from the mean cosine of two items.
    - `cluster_id`: an ID like the category: embedded in the item tower, compared with every history step in the
      attention, and the share and number of steps with the same one. What a shop with few clicks cannot learn of its
      clusters, which of them look alike, their centers tell: their cosines enter as those of `simscore` do.

    All this is a `RankerMember`. With several `members`, there are as many, each with weights of its own that begin
    otherwise and learn as they would alone; the log-odds are the mean of theirs. They share the tables, and the
    embeddings of numbers in quantiles that pages carry for candidates.

    Tasks share everything but the layer of their logit; the pairwise one has that of the click. The probability of a
    conversion is learned over all candidates, as a factor of that of click and conversion (ESMM), so that it is not
    biased towards what is clicked.

    Labels and positions are never inputs.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the feature tables; `models.features.tables` finds them and fills the tables.
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
    Descent (ICML 2005), the pairwise task; Lakshminarayanan et al., Simple and Scalable Predictive Uncertainty
    Estimation using Deep Ensembles (NeurIPS 2017), the members.
    """

    shapes_vary = True  # a batch is as long as its longest page

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
        self.histories = [name for name in HISTORIES if getattr(config.lengths, name)]
        self.items = ItemTable(config, sizes, image_feature, name="items")
        self.users = FeatureTable(config.features.user, sizes.users + 1, name="users")
        self.numbers = CandidateNumbers(config.features.candidate, config.embedding_dim, name="numbers")
        weights = {name: weight for name, weight in config.tasks.model_dump().items() if weight}
        self.tasks = {name: _task(name, weight) for name, weight in weights.items()}
        self.outputs = [name for name in self.tasks if name in _HEADS]
        self.members = [
            RankerMember(
                config,
                sizes,
                image_feature,
                histories=self.histories,
                numbers=self.numbers.output_dim,
                pairs=self._pair_count(),
                pooled=self._pooled_count(),
                heads=[_HEADS[name] for name in self.outputs],
                name=f"member_{n}",
            )
            for n in range(config.members)
        ]
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
        """`call`, compiled; once for pages of all shapes."""
        if frozenset(page) not in self._traced:
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

    def logits(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """What the last layer says of pages like those it trains on; meaningless at padded candidates.

        Returns:
            Shape `(batch, candidates)` each: `ctr`, log-odds of a click, not corrected for `negative_rate` nor
            calibrated; `cvr`, log-odds of a conversion after a click; `dwell`, log(1 + seconds) after a click.
        """
        of_members = self._logits_of_members(page, training)
        return {name: tf.reduce_mean(logits, axis=0) for name, logits in of_members.items()}

    def _logits_of_members(self, page: dict[str, tf.Tensor], training: bool) -> dict[str, tf.Tensor]:
        """As `logits`, before they are averaged: `(members, batch, candidates)` each."""
        known = self._known(page)
        logits = [member(known, training=training) for member in self.members]
        return {name: tf.stack([each[name] for each in logits]) for name in logits[0]}

    def _known(self, page: dict[str, tf.Tensor]) -> KnownPages:
        """What the tables and comparisons say of pages."""
        unknown_item, unknown_user = (tf.constant(n, tf.int64) for n in (self.sizes.items, self.sizes.users))
        groups = {name: page[name] for name in ("item", *(f"{name}_item" for name in self.histories))}
        distinct, place = _distinct(groups, unknown_item)
        new_items = page.get(NEW_ITEMS)
        items = self.items(distinct, new_items=new_items)
        compared_by = self._compared_by(distinct, items, new_items)
        compared = {name: compared_by.at(position) for name, position in place.items()}
        histories = {}
        for name in self.histories:
            steps = f"{name}_item"
            mask = page[steps] != PADDING
            pairs, pooled = self._match(compared["item"], compared[steps], mask)
            age = page["timestamp"][:, None] - page[f"{name}_time"]
            histories[name] = History(place[steps], mask, age, pairs, pooled)
        query = None
        if self.config.features.query:
            query = hash_tokens(page["query"], self.config.token_buckets, self.config.query_tokens)
        return KnownPages(
            items,
            place["item"],
            page["item"] != PADDING,
            self.numbers(page) if self.numbers.features else None,
            self.users(tf.where(page["user"] < 0, unknown_user, page["user"])),
            query,
            histories,
        )

    def _matched_columns(self) -> list[str]:
        features = self.config.features.item
        return [name for name, f in features.items() if f.type in ("category", "hash") and f.match]

    def _compared_by(self, rows: tf.Tensor, items: ItemValues, new_items: NewItems | None = None) -> "_Compared":
        """What items are compared by.

        Args:
            rows: of the items, `(n,)`.
            items: what is known of them.
            new_items: what rows beyond the unknown one refer to.
        """
        ids = [items.features[name] for name in self._matched_columns()]
        if items.cluster is not None:
            ids.append(items.cluster)
        if self._matches_ids():
            known = rows < self.sizes.items if new_items is None else rows != self.sizes.items
            ids.insert(0, tf.cast(tf.where(known, rows + 1, 0), tf.int32))
        return _Compared(ids, items.image if self._matches_pictures() else None)

    def _matches_ids(self) -> bool:
        feature = self.config.features.item.get("item_id")
        return feature is not None and feature.match

    def _matches_pictures(self) -> bool:
        return self.items.similarity is not None

    def _id_count(self) -> int:
        return self._matches_ids() + len(self._matched_columns()) + (self.items.cluster is not None)

    def _pair_count(self) -> int:
        return self._id_count() + self._matches_pictures()

    def _pooled_count(self) -> int:
        return 2 * self._id_count() + 3 * self._matches_pictures()

    def _match(
        self, candidates: "_Compared", steps: "_Compared", mask: tf.Tensor
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Compares candidates with steps: `(batch, candidates, steps)` each, and pooled `(batch, candidates, any)`."""
        pairs = [
            matches.same_id(of_candidates, of_steps, mask & (of_steps != 0))
            for of_candidates, of_steps in zip(candidates.ids, steps.ids, strict=True)
        ]
        pooled = []
        if pairs:
            counts = tf.stack([tf.reduce_sum(match, axis=-1) for match in pairs], axis=-1)
            steps_in_all = tf.reduce_sum(tf.cast(mask, tf.float32), axis=1)[:, None, None]
            # A share is small where it says most, in long histories. With the numbers beside the shares, validation
            # GAUC of `none` is 0.655 instead of 0.550 on the sample, 0.645 instead of 0.608 on H&M (one seed each).
            pooled = [tf.math.divide_no_nan(counts, steps_in_all), tf.math.log1p(counts)]
        if self._matches_pictures():
            of_candidates, of_steps = (tf.reduce_any(each.pictures != 0, axis=-1) for each in (candidates, steps))
            of_steps &= mask
            both = of_candidates[:, :, None] & of_steps[:, None, :]
            similarity = matches.cosine(candidates.pictures, steps.pictures)
            pairs.append(self._standardized(similarity, both))
            of_history = [matches.mean_of_largest(similarity, both, count) for count in (1, _LARGEST)]
            of_history.append(matches.mean_match(similarity, of_steps))
            pooled.append(self._standardized(tf.stack(of_history, axis=-1), tf.reduce_any(both, axis=-1)[..., None]))
        return pairs, pooled

    def _standardized(self, similarity: tf.Tensor, present: tf.Tensor) -> tf.Tensor:
        """Cosines in standard deviations from their mean, 0 where there is none.

        As they are, cosines of clothes lie close together, all far from 0, and are learned from slowly: on later
        training pages of H&M, simscore beside the category alone adds 0.021 to the GAUC instead of 0.010.
        """
        mean, deviation = tf.unstack(self.items.similarity.value)
        return tf.where(present, (similarity - mean) / deviation, 0.0)

    def compute_loss(self, page: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """This replica's part of the weighted mean losses over all candidates of the global batch, added over members.

        Added up, not averaged, so that each member learns as it would alone.
        """
        logits = self._logits_of_members(page, training)
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
            label = tf.broadcast_to(label, tf.shape(prediction))
            losses = self.tasks[name](label[..., None], prediction[..., None], training=training)
            self.losses_of_tasks[name].update_state(tf.reduce_mean(losses, axis=0), sample_weight=counts)
            losses = tf.reduce_sum(losses, axis=0)
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
        tfrs.Model.train_step(self, page)
        return self.get_metrics_result()

    def test_step(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Measures a batch; returns the means so far, over all replicas."""
        tfrs.Model.test_step(self, page)
        return self.get_metrics_result()


class _Compared(NamedTuple):
    """What candidates and history steps are compared by.

    Attributes:
        ids: int32, of one shape: their rows and the values of their columns, 0 = unknown.
        pictures: unit vectors or zeros, that shape and `(image_dim,)`; `None` unless they are compared.
    """

    ids: list[tf.Tensor]
    pictures: tf.Tensor | None

    def at(self, position: tf.Tensor) -> "_Compared":
        """Of the items at these positions of a list."""
        pictures = None if self.pictures is None else tf.gather(self.pictures, position)
        return _Compared([tf.gather(ids, position) for ids in self.ids], pictures)


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
        logits: shape `(members, batch, candidates)`.
        clicked, present: shape `(batch, candidates)`.

    Returns:
        Shape `(batch, candidates ** 2)` each, the log-odds of each member. The weights of a page's pairs of a clicked
        and an unclicked candidate add up to one; all others weigh nothing.
    """
    members, pages, size = tf.unstack(tf.shape(logits))
    differences = tf.reshape(logits[..., :, None] - logits[..., None, :], (members, pages, size * size))
    first, second = (present * tf.cast(chosen, tf.float32) for chosen in (clicked, ~clicked))
    pairs = tf.reshape(first[:, :, None] * second[:, None, :], (pages, size * size))
    weights = tf.math.divide_no_nan(pairs, tf.reduce_sum(pairs, axis=1, keepdims=True))
    return tf.ones_like(weights), differences, weights


def _share(loss: tf.Tensor, weight: tf.Tensor) -> tf.Tensor:
    """This replica's part of the mean of a loss; optimizers add replicas up, whose weights may differ."""
    context = tf.distribute.get_replica_context()
    if context is not None:
        weight = context.all_reduce(tf.distribute.ReduceOp.SUM, weight)
    return tf.math.divide_no_nan(loss, weight)


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


def load_ranker(run: Path) -> Ranker:
    """Loads the ranker that `models.train_ctr` wrote.

    Args:
        run: the run directory.

    Raises:
        CommandError: the directory holds no ranker, or lacks the vocabulary of a feature.
    """
    run = Path(run)
    metadata = read_metadata(RankerMetadata, run, "models.train_ctr")
    for file in (CONFIG_FILE, SIZES_FILE, VALUES_FILE, CALIBRATOR_FILE, WEIGHTS_FILE):
        if not (run / file).is_file():
            raise CommandError(f"{run} has no {file}; train the ranker again")
    config = load_config(TrainingConfig, str(run / CONFIG_FILE)).ranker
    sizes = load_config(FeatureSizes, str(run / SIZES_FILE))
    load_config(FeatureValues, str(run / VALUES_FILE)).check(config.features, str(run / VALUES_FILE))
    ranker = Ranker(config, sizes, metadata.image_feature, metadata.negative_rate)
    ranker.load_weights(run / WEIGHTS_FILE)
    ranker.calibrator = load_config(Calibrator, str(run / CALIBRATOR_FILE))
    return ranker
