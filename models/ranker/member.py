"""What a ranker learns: from what is known of a page to the log-odds of its candidates."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.features.embeddings import FeatureEmbeddings
from models.features.item_table import ItemValues
from models.features.spec import FeatureSizes
from models.layers.history_encoder import HistoryEncoder
from models.layers.id_embedding import IdEmbedding
from models.layers.multi_head_target_attention import MultiHeadTargetAttention
from models.layers.target_attention import TargetAttention
from models.layers.text_embedding import TextEmbedding
from models.ranker.config import ImageFeature, RankerConfig
from models.ranker.item_tower import ItemTower

_MINUTE = 60_000
_AGE_BUCKETS = 24  # powers of two of minutes: the last one begins at 16 years


class History(NamedTuple):
    """What is known of a history of a batch of pages.

    Attributes:
        place: of each step's item among the distinct items, `(batch, steps)`.
        mask: bool `(batch, steps)`, which steps are none of the padding.
        age: milliseconds of each step before the page, `(batch, steps)`.
        pairs: how each candidate compares with each step, `(batch, candidates, steps)` each.
        pooled: what that says of the whole history, `(batch, candidates, any)` each.
    """

    place: tf.Tensor
    mask: tf.Tensor
    age: tf.Tensor
    pairs: list[tf.Tensor]
    pooled: list[tf.Tensor]


class KnownPages(NamedTuple):
    """What is known of a batch of pages, before anything is learned of it.

    Attributes:
        items: of the distinct items.
        place: of each candidate among the distinct items, `(batch, candidates)`.
        mask: bool `(batch, candidates)`, which candidates are none of the padding.
        numbers: of the candidates, `(batch, candidates, n)`; `None` without any.
        users: column to its values, `(batch,)` or `(batch, tokens)`.
        query: its tokens `(batch, tokens)`; `None` if it is not read.
        histories: by name.
    """

    items: ItemValues
    place: tf.Tensor
    mask: tf.Tensor
    numbers: tf.Tensor | None
    users: dict[str, tf.Tensor]
    query: tf.Tensor | None
    histories: dict[str, History]


class RankerMember(keras.layers.Layer):
    """A network of its own from what is known of pages to log-odds, one of the members that a `Ranker` averages.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the feature tables.
        image_feature: how pictures enter.
        histories: names of those that are read.
        numbers: int. Length of the candidates' numbers.
        pairs, pooled: int. How many comparisons with each step, and with each whole history, `History` has.
        heads: names of the logits.

    Call arguments:
        known: the pages.
        training: whether dropout and moving statistics are those of training.

    Output: name of the logit to its values `(batch, candidates)`; meaningless at padded candidates.
    """

    def __init__(
        self,
        config: RankerConfig,
        sizes: FeatureSizes,
        image_feature: ImageFeature,
        *,
        histories: list[str],
        numbers: int,
        pairs: int,
        pooled: int,
        heads: list[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        features, attention = config.features, config.attention
        self.recent_steps = attention.recent_steps
        tables = [*features.item.values(), *features.user.values()]
        self.text = None
        if features.query or any(feature.type == "text" for feature in tables):
            self.text = TextEmbedding(config.token_buckets, config.embedding_dim, name="text")
            self.text.build(None)
        self.items = ItemTower(config, sizes, image_feature, self.text, name="items")
        self.users = FeatureEmbeddings(features.user, sizes.user, config.embedding_dim, self.text, name="users")
        self.title = next((name for name, feature in features.item.items() if feature.type == "text"), None)

        dim = config.item_dim
        query_dim = config.embedding_dim if features.query else 0
        candidate_dim = dim + numbers + (query_dim if self.title else 0) + len(histories) * pooled
        page_dim = self.users.output_dim + query_dim + len(histories)
        self.age = None
        if histories and (attention.recent_steps or attention.histories != "none"):
            # How old a step is and, each history having its own rows, what the user did.
            self.age = IdEmbedding(len(histories) * _AGE_BUCKETS - 1, dim, name="age")
            self.age.build()
        self.attention = None
        self.encoders: dict[str, HistoryEncoder] = {}
        keys = (None, None, dim)
        self.recent_attention: dict[str, TargetAttention] = {}
        for name in histories if attention.recent_steps else []:
            self.recent_attention[name] = TargetAttention(
                attention.units,
                attention.normalization,
                attention.activation,
                pair_features=pairs,
                name=f"{name}_recent_attention",
            )
            self.recent_attention[name].build(keys, keys)
            candidate_dim += dim
        if attention.histories == "target_attention" and histories:
            # One for all histories: the age embedding tells it which history a step is of.
            self.attention = MultiHeadTargetAttention(
                attention.heads, attention.head_dim, pair_features=pairs, name="attention"
            )
            self.attention.build(keys, [keys])
            candidate_dim += len(histories) * attention.heads * attention.head_dim
        elif attention.histories == "self_attention":
            for name in histories:
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
        self.heads = {head: keras.layers.Dense(1, name=f"{head}_logit") for head in heads}
        for layer in self.heads.values():
            layer.build((None, None, units[-1]))
        self.built = True

    def call(self, known: KnownPages, training: bool = False) -> dict[str, tf.Tensor]:
        """Predicts; see the class."""
        features, of_distinct = self.items(known.items, training=training)
        vectors = tf.gather(of_distinct, known.place)
        candidate, about_page = [vectors], [*self.users(known.users, training=training).values()]
        if known.numbers is not None:
            candidate.append(known.numbers)
        if known.query is not None:
            query = self.text(known.query)
            about_page.append(query)
            if self.title is not None:
                candidate.append(tf.gather(features[self.title], known.place) * query[:, None, :])
        keys = {}
        for number, (name, history) in enumerate(known.histories.items()):
            candidate += history.pooled
            about_page.append(tf.math.log1p(tf.reduce_sum(tf.cast(history.mask, tf.float32), axis=1, keepdims=True)))
            if self.age is not None:
                age = self.age(number * _AGE_BUCKETS + _age_bucket(history.age))
                keys[name] = tf.gather(of_distinct, history.place) + age
        newest = self.recent_steps
        for name, attention in self.recent_attention.items():
            history = known.histories[name]
            candidate.append(
                attention(
                    vectors,
                    keys[name][:, :newest],
                    history.mask[:, :newest],
                    [pair[:, :, :newest] for pair in history.pairs],
                    query_mask=known.mask,
                    training=training,
                )
            )
        if self.attention is not None:
            masks, pairs = ([getattr(known.histories[name], of) for name in keys] for of in ("mask", "pairs"))
            candidate.append(self.attention(vectors, [*keys.values()], masks, pairs, training=training))
        for name, encoder in self.encoders.items():
            about_page.append(encoder(keys[name], known.histories[name].mask))
        return self._mlp(tf.concat(candidate, axis=-1), tf.concat(about_page, axis=-1), training)

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


def _age_bucket(milliseconds: tf.Tensor) -> tf.Tensor:
    minutes = tf.cast(tf.maximum(milliseconds, 0) // _MINUTE + 1, tf.float32)
    return tf.minimum(tf.cast(tf.math.log(minutes) / np.log(2.0), tf.int32), _AGE_BUCKETS - 1)
