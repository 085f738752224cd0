"""Multi-head target attention: each candidate looks at the whole of a long history that its page shares."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from models.layers.matches import tier_of, tier_sums

_MASKED = -1e9


@keras.saving.register_keras_serializable(package="courier")
class MultiHeadTargetAttention(keras.layers.Layer):
    """Exact scaled dot-product attention of candidates over all steps of their page's histories.

    One set of weights attends to each history by itself. Head `h` of candidate `c` gives
    `sum_t softmax_t(logit[h, c, t]) (k_t @ V_h)` with

    `logit[h, c, t] = (q_c @ Q_h + b_h) . (k_t @ K_h) / sqrt(head_dim) + sum_f w[f, h] pair_f[c, t]`.

    Where a history has far more steps than its page has candidates, as in training, no step is projected: `(q_c @ Q_h +
    b_h) @ K_h^T` is a vector that meets the steps as they are, and the values are projected after they are summed. To
    rank a page of many candidates the steps are projected first, since a head is smaller than a step. Both are the same
    sums in another order. Time and memory are `O(batch * heads * candidates * steps)`.

    Keys have no bias, which softmax would not see. Values have none, so that an empty history gives zeros, and there is
    no projection of the concatenated heads: the layer that reads them has one.

    Two options let the similarity `s` of the pictures of candidate and step do more than a pair can. Both act on logits
    and sums of the whole page, so that no key or value of a pair is made:

    - `similarity_aware`: `q . k` becomes `(1 + g_h s) q . k`, so that what has been learned of two items counts as much
      as they look alike. It is the reference's `b1 a + b2 s / tau + b3 a s / tau`: `b1` is a scale of the query kernel,
      `b2 / tau` the weight of `s` as a pair, and `g = b3 / tau`, which begins at 0.
    - `similarity_buckets`: keys and values are `k @ K + E[bucket(s)]` and `k @ V + F[bucket(s)]`. `q . E` is a small
      table of each candidate, and what `F` adds is the attention that falls into each bucket, times `F`.

    Padded steps contribute exactly nothing, to values and to gradients. The softmax is computed in the variables' type,
    under mixed precision too.

    Args:
        heads: int. Number of heads.
        head_dim: int. Size of a head's queries, keys and values.
        pair_features: int. Number of tensors in `pairs`.
        similarity_aware: whether similarity scales the products of queries and keys.
        similarity_buckets: int. Buckets of the similarity that have a key and a value, 3 or more; 0 for none.

    Call arguments:
        query: candidates, shape `(batch, candidates, query_dim)`.
        keys: of each history its steps, shape `(batch, steps, key_dim)`; also the values that are summed.
        mask: of each history, bool `(batch, steps)`, false at padding, where `keys` may hold anything, and `pairs` any
            finite numbers.
        pairs: of each history, `pair_features` tensors that tell something about a candidate and a step, such as
            whether they are of the same category: each of shape `(batch, candidates, steps)`.
        similarity: of each history, cosines in standard deviations from their mean, 0 where a picture is missing,
            `(batch, candidates, steps)`, anything at padding; needed by either option.
        training: whether to assume few candidates, instead of counting them.

    Output shape: `(batch, candidates, histories * heads * head_dim)`, one history after the other.

    Example:

    >>> attention = MultiHeadTargetAttention(heads=2, head_dim=4)
    >>> attention(tf.ones((2, 3, 6)), [tf.ones((2, 5, 6))], [tf.ones((2, 5), tf.bool)]).shape
    TensorShape([2, 3, 8])

    Reference: Vaswani et al., Attention Is All You Need (NeurIPS 2017), section 3.2; as the exact search of long
    histories in Pi et al., Search-based User Interest Modeling with Lifelong Sequential Behavior Data for Click-Through
    Rate Prediction (CIKM 2020), section 3.3. The options: MUSE (arXiv 2512.07216), SA-TA; DMF (arXiv 2510.11066), DTA.
    """

    def __init__(
        self,
        heads: int,
        head_dim: int,
        pair_features: int = 0,
        similarity_aware: bool = False,
        similarity_buckets: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value, least in (
            ("heads", heads, 1),
            ("head_dim", head_dim, 1),
            ("pair_features", pair_features, 0),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}. Received: {name}={value}")
        if similarity_buckets and similarity_buckets < 3:
            raise ValueError(f"`similarity_buckets` must be 0, or at least 3. Received: {similarity_buckets}")
        self.heads = heads
        self.head_dim = head_dim
        self.pair_features = pair_features
        self.similarity_aware = similarity_aware
        self.similarity_buckets = similarity_buckets

    def build(self, query_shape: Any, keys_shape: Any) -> None:
        """Makes the weights; the heads lie side by side in the last axis of a kernel."""
        width = self.heads * self.head_dim
        # `autocast`: half precision would round the logits.
        self.query_kernel = self.add_weight(name="query_kernel", shape=(query_shape[-1], width), autocast=False)
        self.query_bias = self.add_weight(name="query_bias", shape=(width,), initializer="zeros", autocast=False)
        self.key_kernel = self.add_weight(name="key_kernel", shape=(keys_shape[0][-1], width), autocast=False)
        self.value_kernel = self.add_weight(name="value_kernel", shape=(keys_shape[0][-1], width), autocast=False)
        self.pair_kernel = self.add_weight(
            name="pair_kernel",
            shape=(self.pair_features, self.heads),
            initializer="zeros",
            trainable=self.pair_features > 0,  # an empty one has no gradient
            autocast=False,
        )
        if self.similarity_aware:
            self.similarity_kernel = self.add_weight(
                name="similarity_kernel", shape=(self.heads,), initializer="zeros", autocast=False
            )
        if self.similarity_buckets:
            shape = (self.heads, self.similarity_buckets, self.head_dim)
            self.bucket_keys, self.bucket_values = (
                self.add_weight(name=name, shape=shape, initializer="zeros", autocast=False)
                for name in ("bucket_keys", "bucket_values")
            )
        self.built = True

    def call(
        self,
        query: tf.Tensor,
        keys: Sequence[tf.Tensor],
        mask: Sequence[tf.Tensor],
        pairs: Sequence[Sequence[tf.Tensor]] | None = None,
        similarity: Sequence[tf.Tensor] | None = None,
        training: bool = False,
    ) -> tf.Tensor:
        """Attends; see the class."""
        batch, candidates = tf.shape(query)[0], tf.shape(query)[1]
        rows = batch * candidates
        query, keys, biases = self._prepare(query, keys, mask, pairs)
        histories, heads, head_dim, dim = len(keys), self.heads, self.head_dim, keys[0].shape[-1]
        key_kernel, value_kernel = (
            tf.reshape(kernel.value, (dim, heads, head_dim)) for kernel in (self.key_kernel, self.value_kernel)
        )

        if self.similarity_aware or self.similarity_buckets:
            similarity = self._needed(similarity)
            of_histories = zip(keys, mask, biases, similarity, strict=True)
            values = tf.stack([self._attend_by_similarity(query, *each) for each in of_histories], axis=2)
            values = tf.reshape(values, (batch, candidates, histories * heads * head_dim))
            return tf.cast(values, self.compute_dtype)

        def by_candidate() -> tf.Tensor:
            vectors = tf.matmul(query, tf.transpose(key_kernel, (1, 2, 0)))
            vectors = tf.transpose(tf.reshape(vectors, (heads, batch, candidates, dim)), (1, 0, 2, 3))
            vectors = tf.reshape(vectors, (batch, heads * candidates, dim))
            summed = [_attend(vectors, k, k, *each) for k, *each in zip(keys, mask, biases, strict=True)]
            summed = tf.reshape(tf.stack(summed), (histories, batch, heads, candidates, dim))
            summed = tf.reshape(tf.transpose(summed, (2, 1, 3, 0, 4)), (heads, rows * histories, dim))
            values = tf.matmul(summed, tf.transpose(value_kernel, (1, 0, 2)))
            return tf.transpose(tf.reshape(values, (heads, rows, histories, head_dim)), (1, 2, 0, 3))

        def by_step() -> tf.Tensor:
            pages = batch * heads
            vectors = tf.transpose(tf.reshape(query, (heads, batch, candidates, head_dim)), (1, 0, 2, 3))
            vectors = tf.reshape(vectors, (pages, candidates, head_dim))
            summed = []
            for k, m, bias in zip(keys, mask, biases, strict=True):
                projected_keys, projected_values = (
                    tf.reshape(tf.einsum("btd,dhe->bhte", k, kernel), (pages, tf.shape(k)[1], head_dim))
                    for kernel in (key_kernel, value_kernel)
                )
                step_mask = tf.repeat(m, heads, axis=0)
                summed.append(_attend(vectors, projected_keys, projected_values, step_mask, bias))
            summed = tf.reshape(tf.stack(summed), (histories, batch, heads, candidates, head_dim))
            return tf.transpose(summed, (1, 3, 0, 2, 4))

        # To project the steps costs `dim * head_dim` each and saves every candidate `dim - head_dim`.
        many = candidates * (dim - head_dim) > dim * head_dim
        values = by_candidate() if training or dim <= head_dim else tf.cond(many, by_step, by_candidate)
        values = tf.reshape(values, (batch, candidates, histories * heads * head_dim))
        return tf.cast(values, self.compute_dtype)

    def attention_weights(
        self,
        query: tf.Tensor,
        keys: Sequence[tf.Tensor],
        mask: Sequence[tf.Tensor],
        pairs: Sequence[Sequence[tf.Tensor]] | None = None,
        similarity: Sequence[tf.Tensor] | None = None,
    ) -> list[tf.Tensor]:
        """How much each step counts for each candidate.

        Args:
            query, keys, mask, pairs, similarity: as in the call.

        Returns:
            Of each history `(batch, heads, candidates, steps)`: weights that add up to 1, or to 0 for a history without
            steps. The projected keys, summed by them, are the output, apart from what `similarity_buckets` add.
        """
        batch, candidates = tf.shape(query)[0], tf.shape(query)[1]
        query, keys, biases = self._prepare(query, keys, mask, pairs)
        if self.similarity_aware or self.similarity_buckets:
            similarity = self._needed(similarity)
        else:
            similarity = [tf.zeros((batch, candidates, tf.shape(steps)[1]), query.dtype) for steps in keys]
        return [self._weights(query, *each)[0] for each in zip(keys, mask, biases, similarity, strict=True)]

    def _prepare(
        self,
        query: tf.Tensor,
        keys: Sequence[tf.Tensor],
        mask: Sequence[tf.Tensor],
        pairs: Sequence[Sequence[tf.Tensor]] | None,
    ) -> tuple[tf.Tensor, list[tf.Tensor], list[tf.Tensor | None]]:
        """The scaled queries of heads `(heads, batch * candidates, head_dim)`, keys with zeros at padding, and biases.

        Raises:
            ValueError: the pairs are not as many as the layer has weights for.
        """
        pairs = pairs or [()] * len(keys)
        for of_history in pairs:
            if len(of_history) != self.pair_features:
                raise ValueError(
                    f"`pairs` must hold pair_features={self.pair_features} tensors for each history. "
                    f"Received: {len(of_history)}"
                )
        query, keys, pairs = tf.nest.map_structure(
            lambda x: tf.cast(x, self.variable_dtype), (query, [*keys], [[*each] for each in pairs])
        )
        rows = tf.shape(query)[0] * tf.shape(query)[1]
        # Candidates of all pages in one matrix, and then heads before them: products of many small matrices are slow.
        query = tf.matmul(tf.reshape(query, (rows, query.shape[-1])), self.query_kernel.value) + self.query_bias.value
        query = tf.reshape(query / math.sqrt(self.head_dim), (rows, self.heads, self.head_dim))
        keys = [_without_padding(*each) for each in zip(keys, mask, strict=True)]
        return tf.transpose(query, (1, 0, 2)), keys, [self._biases(of_history) for of_history in pairs]

    def _needed(self, similarity: Sequence[tf.Tensor] | None) -> Sequence[tf.Tensor]:
        if similarity is None:
            raise ValueError("`similarity` must be given for similarity_aware and similarity_buckets.")
        return similarity

    def _attend_by_similarity(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, biases: tf.Tensor | None, similarity: tf.Tensor
    ) -> tf.Tensor:
        """Attends to one history with the options of similarity: `(batch, candidates, heads, head_dim)`.

        Args:
            query, keys, mask, biases, similarity: as of `_weights`.
        """
        heads, head_dim, dim = self.heads, self.head_dim, keys.shape[-1]
        batch, candidates, steps = tf.unstack(tf.shape(similarity))
        value_kernel = tf.transpose(tf.reshape(self.value_kernel.value, (dim, heads, head_dim)), (1, 2, 0))
        weights, tier = self._weights(query, keys, mask, biases, similarity)
        summed = tf.matmul(tf.reshape(weights, (batch, heads * candidates, steps)), keys)
        summed = tf.reshape(summed, (batch, heads, candidates, dim))
        values = tf.matmul(summed, value_kernel, transpose_b=True)
        if tier is not None:
            values += tf.matmul(tier_sums(weights, tier, self.similarity_buckets), self.bucket_values.value)
        return tf.transpose(values, (0, 2, 1, 3))

    def _weights(
        self, query: tf.Tensor, keys: tf.Tensor, mask: tf.Tensor, biases: tf.Tensor | None, similarity: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Weights of the steps of one history, and the bucket of each similarity, if there are any.

        Args:
            query: `(heads, batch * candidates, head_dim)`.
            keys: `(batch, steps, dim)`, zeros at padding.
            mask: bool `(batch, steps)`.
            biases: `(batch, heads, candidates * steps)`, or `None`.
            similarity: `(batch, candidates, steps)`.

        Returns:
            Both `(batch, heads, candidates, steps)`.
        """
        heads, head_dim, dim = self.heads, self.head_dim, keys.shape[-1]
        batch, candidates, steps = tf.unstack(tf.shape(similarity))
        key_kernel = tf.transpose(tf.reshape(self.key_kernel.value, (dim, heads, head_dim)), (1, 2, 0))

        def by_page(values: tf.Tensor) -> tf.Tensor:
            values = tf.reshape(values, (heads, batch, candidates, values.shape[-1]))
            return tf.transpose(values, (1, 0, 2, 3))

        similarity = tf.where(mask[:, None, :], tf.cast(similarity, query.dtype), 0)
        vectors = tf.reshape(by_page(tf.matmul(query, key_kernel)), (batch, heads * candidates, dim))
        logits = tf.reshape(tf.matmul(vectors, keys, transpose_b=True), (batch, heads, candidates, steps))
        tier = None
        if self.similarity_buckets:
            tier = tf.broadcast_to(tier_of(similarity, self.similarity_buckets)[:, None], tf.shape(logits))
            table = by_page(tf.matmul(query, self.bucket_keys.value, transpose_b=True))
            logits += tf.gather(table, tier, batch_dims=3)
        if self.similarity_aware:
            logits *= 1 + self.similarity_kernel.value[:, None, None] * similarity[:, None]
        if biases is not None:
            logits += tf.reshape(biases, tf.shape(logits))
        present = mask[:, None, None, :]
        weights = tf.nn.softmax(tf.where(present, logits, tf.cast(_MASKED, logits.dtype)))
        return tf.where(present, weights, 0), tier  # an empty history has weights, on padding

    def _biases(self, pairs: Sequence[tf.Tensor]) -> tf.Tensor | None:
        """What pairs of a history add to logits, `(batch, heads, candidates * steps)`; `None` without any."""
        if not pairs:
            return None
        stacked = tf.stack(pairs, axis=1)
        batch, features, candidates, steps = tf.unstack(tf.shape(stacked))
        return tf.matmul(
            self.pair_kernel.value, tf.reshape(stacked, (batch, features, candidates * steps)), transpose_a=True
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "heads": self.heads,
            "head_dim": self.head_dim,
            "pair_features": self.pair_features,
            "similarity_aware": self.similarity_aware,
            "similarity_buckets": self.similarity_buckets,
        }


@tf.custom_gradient
def _without_padding(keys: tf.Tensor, mask: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    """`keys` with zeros at padding. What `_attend` says of their gradient is zero there already."""
    # `where`, not a product: padding may hold anything, NaN included.
    return tf.where(mask[..., None], keys, 0), lambda on_keys: (on_keys, None)


def _attend(
    query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, mask: tf.Tensor, biases: tf.Tensor | None
) -> tf.Tensor:
    """`softmax(query @ keys^T + biases) @ values`, over the steps of the mask; zeros if there are none.

    Nothing else is as large as `(n, rows, steps)`, so that every pass over it counts. The mask costs none: it is one
    more column of the keys, which each query multiplies with one. The gradient of the softmax needs the sum of its
    weights times their gradients. That is the product of the output with its own gradient, which is small, and saves
    two passes (Dao et al., FlashAttention, NeurIPS 2022, appendix B).

    Args:
        query: shape `(n, rows, dim)`.
        keys: shape `(n, steps, dim)`, zeros at padding.
        values: shape `(n, steps, value_dim)`, zeros at padding.
        mask: bool `(n, steps)`.
        biases: of `n * rows * steps` elements in this order, or `None`.
    """

    @tf.custom_gradient
    def attend(query: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, *biases: tf.Tensor) -> tuple:
        padding = tf.cast(tf.where(mask, 0.0, _MASKED), keys.dtype)[..., None]
        logits = tf.matmul(
            tf.concat([query, tf.ones_like(query[..., :1])], axis=-1),
            tf.concat([keys, padding], axis=-1),
            transpose_b=True,
        )
        for bias in biases:
            logits += tf.reshape(bias, tf.shape(logits))
        weights = tf.nn.softmax(logits)
        sums = tf.matmul(weights, values)

        def gradient(on_sums: tf.Tensor) -> tuple:
            on_weights = tf.matmul(on_sums, values, transpose_b=True)
            on_logits = weights * (on_weights - tf.reduce_sum(on_sums * sums, axis=-1, keepdims=True))
            # An empty history has weights, on padding.
            on_sums = tf.where(tf.reduce_any(mask, axis=1)[:, None, None], on_sums, 0)
            return (
                tf.matmul(on_logits, keys),
                tf.matmul(on_logits, query, transpose_a=True),
                tf.matmul(weights, on_sums, transpose_a=True),
                *(tf.reshape(on_logits, tf.shape(bias)) for bias in biases),
            )

        return sums, gradient

    return attend(query, keys, values, *([] if biases is None else [biases]))
