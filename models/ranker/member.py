"""The network of a ranker: from what is known of pages to the log-odds of their candidates."""

from typing import Any, NamedTuple, Protocol

import keras
import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs

from models.features.embeddings import FeatureEmbeddings
from models.features.spec import FeatureSizes
from models.layers.history_encoder import HistoryEncoder
from models.layers.id_embedding import IdEmbedding
from models.layers.multi_head_target_attention import MultiHeadTargetAttention
from models.layers.position_bias import PositionBias
from models.layers.target_attention import TargetAttention
from models.layers.text_embedding import TextEmbedding
from models.ranker.config import RankerConfig
from models.ranker.item_table import ItemValues
from models.ranker.item_tower import ItemTower

_MINUTE = 60_000
_AGE_BUCKETS = 24  # powers of two of minutes: the last one begins at 16 years


class HistoryInputs(NamedTuple):
    """What is known of one history of a batch of pages.

    Attributes:
        positions: where each step's item is among the distinct items, `(batch, steps)`.
        mask: bool `(batch, steps)`, false at padding.
        age: milliseconds of each step before the page, `(batch, steps)`.
        pairs: how each candidate compares with each step, `(batch, candidates, steps)` each.
        pooled: what that says of the whole history, `(batch, candidates, any)` each.
        similarity: standardised cosines of the first vectors that pictures are compared by, `(batch, candidates,
            steps)`; `None` if they are not.
    """

    positions: tf.Tensor
    mask: tf.Tensor
    age: tf.Tensor
    pairs: list[tf.Tensor]
    pooled: list[tf.Tensor]
    similarity: tf.Tensor | None


class PageInputs(NamedTuple):
    """What is known of a batch of pages, before anything is learned of it.

    Attributes:
        page: the pages themselves.
        items: what is known of the distinct items.
        positions: where each candidate is among the distinct items, `(batch, candidates)`.
        mask: bool `(batch, candidates)`, false at padding.
        dense: dense features of the candidates, `(batch, candidates, n)`; `None` without any.
        users: column to its values, `(batch,)` or `(batch, tokens)`.
        query: its tokens `(batch, tokens)`; `None` if it is not read.
        histories: by name.
    """

    page: dict[str, tf.Tensor]
    items: ItemValues
    positions: tf.Tensor
    mask: tf.Tensor
    dense: tf.Tensor | None
    users: dict[str, tf.Tensor]
    query: tf.Tensor | None
    histories: dict[str, HistoryInputs]


class AttentionWeights(NamedTuple):
    """How much each step of a history counts for each candidate of a batch of pages; 0 at padded steps.

    Attributes:
        recent: by the activation unit, of the newest steps, `(batch, candidates, newest)`; these weights need not add
            up to 1, and may be negative. `None` without such a unit.
        whole: by the heads of target attention, `(batch, heads, candidates, steps)`; they add up to 1. `None` without
            target attention.
    """

    recent: tf.Tensor | None
    whole: tf.Tensor | None


class Towers(Protocol):
    """Makes the towers of a member; a `Ranker` does."""

    def item_tower(self, text: TextEmbedding | None) -> ItemTower:
        """The item tower."""

    def candidate_tower(self) -> keras.layers.Layer | None:
        """A layer of more candidate features; see `Ranker.candidate_tower`."""

    def page_tower(self) -> keras.layers.Layer | None:
        """A layer of more page features; see `Ranker.page_tower`."""


class RankerMember(keras.layers.Layer):
    """The network from what is known of pages to log-odds; a `Ranker` averages those of its members.

    Args:
        config: the architecture, its features resolved.
        sizes: sizes of the feature tables.
        towers: what makes the towers.
        example_page: any page; it tells how long the features of the page and candidate towers are.
        histories: names of those that are read.
        dense_dim: int. Length of the candidates' dense features.
        pair_features: int. Number of comparisons of a candidate with a step.
        pooled_dim: int. Length of the comparison with a whole history.
        heads: names of the logits.

    Call arguments:
        inputs: the pages.
        training: whether dropout, moving statistics and positions are those of training.

    Output: name of the logit to its values, float32 `(batch, candidates)`; meaningless at padded candidates.
    """

    def __init__(
        self,
        config: RankerConfig,
        sizes: FeatureSizes,
        towers: Towers,
        example_page: dict[str, tf.Tensor],
        *,
        histories: list[str],
        dense_dim: int,
        pair_features: int,
        pooled_dim: int,
        heads: list[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # of what is not learned, before it is scaled
        features, attention, policy = config.features.spec(), config.attention, self.dtype_policy
        self.recent_steps = attention.recent_steps
        table_features = [*features.item.values(), *features.user.values()]
        self.text = None
        if features.query or any(feature.type == "text" for feature in table_features):
            self.text = TextEmbedding(config.token_buckets, config.embedding_dim, name="text", dtype=policy)
            self.text.build(None)
        self.items = towers.item_tower(self.text)
        self.users = FeatureEmbeddings(
            features.user,
            sizes.user,
            config.embedding_dim,
            self.text,
            config.largest_embedding,
            name="users",
            dtype=policy,
        )
        self.derived_inputs = config.derived_inputs
        texts = [name for name, feature in features.item.items() if feature.type == "text"]
        self.title = next(iter(texts if config.derived_inputs and features.query else []), None)

        dim = config.item_dim or self.items.output_dim
        query_dim = config.embedding_dim if features.query else 0
        candidate_dim = dim + dense_dim + (query_dim if self.title else 0) + len(histories) * pooled_dim
        page_dim = self.users.output_dim + query_dim + (len(histories) if config.derived_inputs else 0)
        self.extra_candidate_tower = towers.candidate_tower()
        if self.extra_candidate_tower is not None:
            candidate_dim += _output_dim(self.extra_candidate_tower, example_page, "candidate_tower", rank=3)
        self.extra_page_tower = towers.page_tower()
        if self.extra_page_tower is not None:
            page_dim += _output_dim(self.extra_page_tower, example_page, "page_tower", rank=2)
        self.age = None
        self.reads_steps = bool(histories) and (attention.recent_steps > 0 or attention.histories != "none")
        if self.reads_steps and config.derived_inputs:
            # How old a step is and, each history having its own rows, what the user did.
            self.age = IdEmbedding(len(histories) * _AGE_BUCKETS - 1, dim, name="age", dtype=policy)
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
                pair_features=pair_features,
                name=f"{name}_recent_attention",
                dtype=policy,
            )
            self.recent_attention[name].build(keys, keys)
            candidate_dim += dim
        if attention.histories == "target_attention" and histories:
            # One for all histories: the age embedding tells it which history a step is of.
            self.attention = MultiHeadTargetAttention(
                attention.heads,
                attention.head_dim,
                pair_features,
                attention.similarity_aware,
                attention.similarity_buckets,
                name="attention",
                dtype=policy,
            )
            self.attention.build(keys, [keys])
            candidate_dim += len(histories) * attention.heads * attention.head_dim
        elif attention.histories == "self_attention":
            for name in histories:
                self.encoders[name] = HistoryEncoder(
                    dim, attention.heads, attention.head_dim, name=f"{name}_encoder", dtype=policy
                )
                self.encoders[name].build(keys)
                page_dim += dim

        self.cross = [tfrs.layers.dcn.Cross(name=f"cross_{n}", dtype=policy) for n in range(config.cross_layers)]
        for layer in self.cross:
            layer.build((None, None, candidate_dim + page_dim))
        # The first layer of the MLP on [candidate, page], with the part of the page computed once per page, unless
        # cross layers have mixed the two.
        units = config.mlp_units
        self.mlp_candidate = keras.layers.Dense(units[0], name="mlp_candidate", dtype=policy)
        self.mlp_candidate.build((None, None, candidate_dim + (page_dim if self.cross else 0)))
        self.mlp_page = None
        if page_dim and not self.cross:
            self.mlp_page = keras.layers.Dense(units[0], use_bias=False, name="mlp_page", dtype=policy)
            self.mlp_page.build((None, page_dim))
        self.mlp_rest = [
            keras.layers.Dense(width, activation="relu", name=f"mlp_{n}", dtype=policy)
            for n, width in enumerate(units[1:], 1)
        ]
        for layer, width in zip(self.mlp_rest, units, strict=False):
            layer.build((None, None, width))
        self.mlp_dropout = [
            keras.layers.Dropout(config.mlp_dropout, name=f"mlp_dropout_{n}", dtype=policy) for n in range(len(units))
        ]
        for layer in self.mlp_dropout:
            layer.build(None)
        # Half precision would round log-odds.
        self.heads = {head: keras.layers.Dense(1, name=f"{head}_logit", dtype="float32") for head in heads}
        for layer in self.heads.values():
            layer.build((None, None, units[-1]))
        self.position_bias = None
        if config.position_bias:
            self.position_bias = PositionBias(config.position_bias, name="position_bias", dtype="float32")
            self.position_bias.build()
        self.built = True

    def call(self, inputs: PageInputs, training: bool = False) -> dict[str, tf.Tensor]:
        """Predicts; see the class."""
        item_features, item_vectors = self.items(inputs.items, training=training)
        candidates = tf.gather(item_vectors, inputs.positions)
        by_candidate, by_page = [candidates], [*self.users(inputs.users, training=training).values()]
        if inputs.dense is not None:
            by_candidate.append(inputs.dense)
        if inputs.query is not None and self.text is not None:
            query = self.text(inputs.query)
            by_page.append(query)
            if self.title is not None:
                by_candidate.append(tf.gather(item_features[self.title], inputs.positions) * query[:, None, :])
        if self.extra_candidate_tower is not None:
            by_candidate.append(self.extra_candidate_tower(inputs.page))
        if self.extra_page_tower is not None:
            by_page.append(self.extra_page_tower(inputs.page))
        for history in inputs.histories.values():
            by_candidate += history.pooled
            if self.derived_inputs:
                by_page.append(tf.math.log1p(tf.reduce_sum(tf.cast(history.mask, tf.float32), axis=1, keepdims=True)))
        keys = self._keys(inputs, item_vectors)
        for name, attention in self.recent_attention.items():
            recent = self._recent(keys[name], inputs.histories[name])
            by_candidate.append(attention(candidates, *recent, query_mask=inputs.mask, training=training))
        if self.attention is not None:
            by_candidate.append(self.attention(candidates, *self._whole(keys, inputs), training=training))
        for name, encoder in self.encoders.items():
            by_page.append(encoder(keys[name], inputs.histories[name].mask))
        pages = self._concat(by_page) if by_page else None
        logits = self._mlp(self._concat(by_candidate), pages, training)
        if self.position_bias is not None and training:
            logits["ctr"] += self.position_bias(inputs.page["position"])
        return logits

    def attention_weights(self, inputs: PageInputs) -> dict[str, AttentionWeights]:
        """How much each step of each history counts for each candidate.

        Args:
            inputs: the pages.
        """
        _, item_vectors = self.items(inputs.items)
        candidates = tf.gather(item_vectors, inputs.positions)
        keys = self._keys(inputs, item_vectors)
        recent = {
            name: attention.attention_weights(candidates, *self._recent(keys[name], inputs.histories[name]))
            for name, attention in self.recent_attention.items()
        }
        whole: dict[str, tf.Tensor] = {}
        if self.attention is not None:
            whole = dict(
                zip(keys, self.attention.attention_weights(candidates, *self._whole(keys, inputs)), strict=True)
            )
        return {name: AttentionWeights(recent.get(name), whole.get(name)) for name in inputs.histories}

    def _keys(self, inputs: PageInputs, item_vectors: tf.Tensor) -> dict[str, tf.Tensor]:
        """What attention sees of the steps of each history, `(batch, steps, dim)`; nothing if no layer reads steps."""
        keys = {}
        for number, (name, history) in enumerate(inputs.histories.items() if self.reads_steps else ()):
            keys[name] = tf.gather(item_vectors, history.positions)
            if self.age is not None:
                keys[name] += self.age(number * _AGE_BUCKETS + _age_bucket(history.age))
        return keys

    def _recent(self, keys: tf.Tensor, history: HistoryInputs) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        """Keys, mask and pairs of the newest steps of a history."""
        newest = self.recent_steps
        return keys[:, :newest], history.mask[:, :newest], [pair[:, :, :newest] for pair in history.pairs]

    def _whole(self, keys: dict[str, tf.Tensor], inputs: PageInputs) -> tuple[Any, ...]:
        """Keys, masks, pairs and similarities of all histories, as the attention to whole histories takes them."""
        histories = [inputs.histories[name] for name in keys]
        similarity = None
        if self.attention is not None and (self.attention.similarity_aware or self.attention.similarity_buckets):
            similarity = [history.similarity for history in histories]
        return [*keys.values()], [h.mask for h in histories], [h.pairs for h in histories], similarity

    def id_embeddings(self) -> list[IdEmbedding]:
        """What it learns of single items, users, categories and so on; not of ages."""
        layers = self._flatten_layers(include_self=False)
        return [layer for layer in layers if isinstance(layer, IdEmbedding) and layer is not self.age]

    def _concat(self, features: list[tf.Tensor]) -> tf.Tensor:
        return tf.concat([tf.saturate_cast(feature, self.compute_dtype) for feature in features], axis=-1)

    def _mlp(self, candidates: tf.Tensor, pages: tf.Tensor | None, training: bool) -> dict[str, tf.Tensor]:
        """The logits of `(batch, candidates, dim)` and `(batch, dim)`, `None` if nothing is known of pages."""
        shape = tf.shape(candidates)
        if self.cross:
            inputs = crossed = candidates
            if pages is not None:
                pages = tf.broadcast_to(pages[:, None, :], (shape[0], shape[1], pages.shape[-1]))
                inputs = crossed = tf.concat([candidates, pages], axis=-1)
            for layer in self.cross:
                crossed = layer(inputs, crossed)
            candidates = crossed
        # Candidates of all pages in one matrix: a product of a three-dimensional tensor is a dozen operations.
        hidden = self.mlp_candidate(tf.reshape(candidates, (-1, candidates.shape[-1])))
        if self.mlp_page is not None:
            by_page = tf.reshape(hidden, (shape[0], shape[1], hidden.shape[-1])) + self.mlp_page(pages)[:, None, :]
            hidden = tf.reshape(by_page, (-1, hidden.shape[-1]))
        hidden = self.mlp_dropout[0](tf.nn.relu(hidden), training=training)
        for layer, dropout in zip(self.mlp_rest, self.mlp_dropout[1:], strict=True):
            hidden = dropout(layer(hidden), training=training)
        return {name: tf.reshape(layer(hidden), shape[:2]) for name, layer in self.heads.items()}


def _output_dim(tower: keras.layers.Layer, page: dict[str, tf.Tensor], hook: str, rank: int) -> int:
    """Builds a tower on a page of one candidate; returns the length of its features."""
    shape = tuple(tower(page).shape)
    if len(shape) != rank or shape[:-1] != (1,) * (rank - 1):
        expected = "(batch, dim)" if rank == 2 else "(batch, candidates, dim)"
        raise ValueError(
            f"`{hook}` must return a layer from a page to features of shape {expected}. "
            f"Received, for one page of one candidate: {shape}"
        )
    return shape[-1]


def _age_bucket(milliseconds: tf.Tensor) -> tf.Tensor:
    minutes = tf.cast(tf.maximum(milliseconds, 0) // _MINUTE + 1, tf.float32)
    return tf.minimum(tf.cast(tf.math.log(minutes) / np.log(2.0), tf.int32), _AGE_BUCKETS - 1)
