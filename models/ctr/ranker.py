"""The CTR ranker: a page in, a click probability per candidate out."""

import math
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from beam_pipelines.records import HISTORIES
from models.artifacts import RankerMetadata, read_metadata
from models.config import load_config
from models.ctr import matches
from models.ctr.config import FeatureSizes, ImageFeature, RankerConfig, TrainingConfig
from models.ctr.item_tower import ItemTower
from models.ctr.target_attention import TargetAttention
from models.ctr.text_embedding import TextEmbedding, hash_tokens
from models.ctr.user_tower import UserTower
from models.data.pages import PADDING
from models.training.distributed_fit import DistributedFit

CONFIG_FILE = "config.yaml"
SIZES_FILE = "feature_sizes.yaml"
WEIGHTS_FILE = "ranker.weights.h5"

_MINUTE = 60_000
_AGE_BUCKETS = 24  # powers of two of minutes: the last one begins at 16 years
_LARGEST = 5


class Ranker(DistributedFit, tfrs.Model):
    """Predicts the click probability of each candidate of a page.

    The page is the unit: user, query and histories are embedded once per page and shared by its candidates, and each
    distinct item of a batch once. A candidate's score does not depend on the other candidates.

    What a candidate brings to the 5-layer MLP: its item vector, each history as DIN target attention sees it from
    there, the product of its title with the query, and for each history the share of steps with the same item and the
    same category. `image_feature` adds the pictures:

    - `none`: nothing.
    - `vector`: the embedding, projected, in the item tower.
    - `simscore`: the cosine with the picture of every history step (equation 8): in the activation unit of the
      attention, and per history the largest, the mean of the 5 largest and the mean.
    - `cluster_id`: an ID like the category: embedded in the item tower, compared with every history step in the
      activation unit, and the share of steps with the same one.

    Labels and positions are never inputs.

    Args:
        config: the architecture.
        sizes: sizes of the feature tables; `models.ctr.features` finds them and fills the tables.
        image_feature: how pictures enter.
        negative_rate: share of the unclicked candidates that is left on the pages it trains on. Predictions are
            corrected for it: they are those for pages with all candidates.

    Call arguments:
        page: the features of `parse_pages` that are known before the page is shown; any numbers of pages, candidates
            and steps, 0 included. Item row `items` stands for an unknown item, user -1 for an unknown user.

    Output: `{"ctr": float32 (batch, candidates)}`, 0 at padded candidates.

    Reference: the paper's appendices A and B.
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
        # Leaving out unclicked candidates divides the odds of a click by the share that is kept.
        self._correction = math.log(negative_rate)
        self.text = TextEmbedding(config.token_buckets, config.embedding_dim)
        self.items = ItemTower(config, sizes, self.text, use_vector=image_feature == "vector")
        self.users = UserTower(config, sizes)
        self.age = {name: keras.layers.Embedding(_AGE_BUCKETS, config.item_dim) for name in HISTORIES}
        self.attention = {
            name: TargetAttention(config.attention_units, config.attention_normalization) for name in HISTORIES
        }
        # The first layer of the MLP on [candidate, page], with the part of the page computed once per page.
        self.mlp_candidate = keras.layers.Dense(config.mlp_units[0])
        self.mlp_page = keras.layers.Dense(config.mlp_units[0], use_bias=False)
        self.mlp_rest = [keras.layers.Dense(units, activation="relu") for units in config.mlp_units[1:]]
        self.mlp_logit = keras.layers.Dense(1)
        self.task = tfrs.tasks.Ranking(loss=keras.losses.BinaryCrossentropy(from_logits=True, reduction="sum"))
        self.mean_loss = keras.metrics.Mean(name="loss")
        self._build_layers()

    def _build_layers(self) -> None:
        """Makes all variables, as `DistributedFit` asks."""
        dim, token_dim = self.config.item_dim, self.config.embedding_dim
        matched = 2 + (self.image_feature in ("simscore", "cluster_id"))
        pooled = matched + 2 * (self.image_feature == "simscore")
        self.text.build(None)
        for name in HISTORIES:
            self.age[name].build(None)
            shapes = [(None, None, dim), (None, None, dim), (None, None), (None, None, None, matched)]
            self.attention[name].build(*shapes)
        self.mlp_candidate.build((None, None, dim + token_dim + len(HISTORIES) * (dim + pooled)))
        self.mlp_page.build((None, self.users.output_dim + token_dim + len(HISTORIES)))
        units = self.config.mlp_units
        for layer, width in zip([*self.mlp_rest, self.mlp_logit], units, strict=True):
            layer.build((None, None, width))
        self.task.build(None)
        self.built = True

    def call(self, page: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Scores pages; see the class."""
        present = page["item"] != PADDING
        return {"ctr": tf.where(present, tf.sigmoid(self.logits(page, training) + self._correction), 0.0)}

    @tf.function(reduce_retracing=True)
    def score(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """`call`, compiled."""
        return self(page)

    def logits(self, page: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """Log-odds of a click on pages like those it trains on, not corrected for their `negative_rate`.

        Shape `(batch, candidates)`; meaningless at padded candidates.
        """
        unknown_item, unknown_user = (tf.constant(n, tf.int64) for n in (self.sizes.items, self.sizes.users))
        rows = {name: page[name] for name in ("item", *(f"{name}_item" for name in HISTORIES))}
        present = {name: row != PADDING for name, row in rows.items()}
        rows = {name: tf.where(present[name], row, unknown_item) for name, row in rows.items()}

        titles, vectors = self._embed_items(rows, training)
        query = self.text(hash_tokens(page["query"], self.config.token_buckets, self.config.title_tokens))
        candidate = [vectors["item"], titles * query[:, None, :]]
        about_page = [self.users(tf.where(page["user"] < 0, unknown_user, page["user"]), training=training), query]
        for name in HISTORIES:
            steps, mask = f"{name}_item", present[f"{name}_item"]
            minutes = tf.maximum(page["timestamp"][:, None] - page[f"{name}_time"], 0) // _MINUTE
            age = tf.cast(tf.math.log(tf.cast(minutes + 1, tf.float32)) / np.log(2.0), tf.int32)
            keys = vectors[steps] + self.age[name](tf.minimum(age, _AGE_BUCKETS - 1))
            pairs, pooled = self._match(rows["item"], rows[steps], mask)
            candidate += [self.attention[name](vectors["item"], keys, mask, pairs), pooled]
            about_page.append(tf.math.log1p(tf.reduce_sum(tf.cast(mask, tf.float32), axis=1, keepdims=True)))

        hidden = self.mlp_candidate(tf.concat(candidate, axis=-1))
        hidden = tf.nn.relu(hidden + self.mlp_page(tf.concat(about_page, axis=-1))[:, None, :])
        for layer in self.mlp_rest:
            hidden = layer(hidden)
        return self.mlp_logit(hidden)[..., 0]

    def _embed_items(self, rows: dict[str, tf.Tensor], training: bool) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """Title embeddings of the candidates, and the item vectors of every group of rows."""
        distinct, position = tf.unique(tf.concat([tf.reshape(row, (-1,)) for row in rows.values()], axis=0))
        titles, vectors = self.items(distinct, training=training)
        positions = tf.split(position, [tf.size(row) for row in rows.values()])
        positions = {name: tf.reshape(p, tf.shape(rows[name])) for name, p in zip(rows, positions, strict=True)}
        vectors = {name: tf.gather(vectors, p) for name, p in positions.items()}
        return tf.gather(titles, positions["item"]), vectors

    def _match(self, items: tf.Tensor, steps: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Compares candidates with steps: `(batch, candidates, steps, n)`, pooled `(batch, candidates, m)`."""
        pairs = [matches.same_id(items, steps, mask & (steps != self.sizes.items))]
        id_tables = [self.items.category] + ([self.items.cluster] if self.image_feature == "cluster_id" else [])
        for table in id_tables:
            step_ids = tf.gather(table.value, steps)
            pairs.append(matches.same_id(tf.gather(table.value, items), step_ids, mask & (step_ids != 0)))
        mask = mask[:, None, :]
        pooled = [matches.mean_match(match, mask) for match in pairs]
        if self.image_feature == "simscore":
            images = tf.gather(self.items.image.value, items), tf.gather(self.items.image.value, steps)
            has_image = [tf.reduce_any(image != 0, axis=-1) for image in images]
            mask = mask & has_image[0][:, :, None] & has_image[1][:, None, :]
            similarity = matches.cosine(*images)
            pairs.append(similarity)
            pooled += [matches.mean_of_largest(similarity, mask, count) for count in (1, _LARGEST)]
            pooled.append(matches.mean_match(similarity, mask))
        return tf.stack(pairs, axis=-1), tf.stack(pooled, axis=-1)

    def compute_loss(self, page: dict[str, tf.Tensor], training: bool = False) -> tf.Tensor:
        """This replica's part of the mean log loss over all candidates of the global batch."""
        present = tf.cast(page["item"] != PADDING, tf.float32)
        clicked = tf.cast(page["clicked"] == 1, tf.float32)
        logits = self.logits(page, training)
        loss = self.task(clicked[..., None], logits[..., None], sample_weight=present, training=training)
        count = tf.reduce_sum(present)
        self.mean_loss.update_state(tf.math.divide_no_nan(loss, count), sample_weight=count)
        # Keras' optimizers sum gradients over replicas, which may hold different numbers of candidates.
        context = tf.distribute.get_replica_context()
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, count) if context is not None else count
        return tf.math.divide_no_nan(loss, total)

    @property
    def metrics(self) -> list[keras.Metric]:
        """What `fit` shows and resets: the mean log loss over all replicas."""
        return [self.mean_loss]

    def train_step(self, page: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """One optimizer step; returns the means so far in the epoch, over all replicas."""
        super().train_step(page)
        return self.get_metrics_result()


def load_ranker(run: Path, option: str = "--model") -> Ranker:
    """Loads the ranker that `models.train_ctr` wrote.

    Args:
        run: the run directory.
        option: the command-line option that named it, for errors.

    Raises:
        CommandError: the directory holds no ranker.
    """
    metadata = read_metadata(RankerMetadata, run, option, "models.train_ctr")
    config = load_config(TrainingConfig, str(Path(run) / CONFIG_FILE)).ranker
    sizes = load_config(FeatureSizes, str(Path(run) / SIZES_FILE))
    ranker = Ranker(config, sizes, metadata.image_feature, metadata.negative_rate)
    ranker.load_weights(Path(run) / WEIGHTS_FILE)
    return ranker
