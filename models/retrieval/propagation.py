"""Sparse propagation: what neighbours in a graph pass on, at a cost and in memory linear in the edges."""

from typing import Any

import numpy as np
import scipy.sparse
import tensorflow as tf
from tensorflow.python.ops.linalg.sparse import sparse_csr_matrix_ops as csr


class Propagation:
    """Multiplies by a fixed sparse matrix; differentiable in what is multiplied.

    TensorFlow's compressed rows (CSR): several threads share the rows. `tf.sparse.sparse_dense_matmul` runs in one
    thread on a CPU, and segment sums write one row per edge first. The gradient is the product with the transpose,
    which is kept in the same form, unless the matrix is symmetric.

    Args:
        matrix: of any SciPy format; repeated entries are added up. Float32 is computed with.

    Attributes:
        shape: of the matrix.

    Call arguments:
        dense: float32 `(columns, dim)`.

    Returns:
        Float32 `(rows, dim)`.

    Example:
        >>> propagate = Propagation(normalized_bipartite(users, items, 3, 4))
        >>> propagate(tf.ones((7, 64))).shape
        TensorShape([7, 64])
    """

    def __init__(self, matrix: scipy.sparse.spmatrix | scipy.sparse.sparray) -> None:
        matrix = scipy.sparse.csr_array(matrix, dtype=np.float32)
        transposed = scipy.sparse.csr_array(matrix.T)
        self.shape: tuple[int, int] = matrix.shape
        is_symmetric = matrix.shape[0] == matrix.shape[1] and (matrix != transposed).nnz == 0
        self._matrix = _in_tensorflow(matrix)
        self._transposed = self._matrix if is_symmetric else _in_tensorflow(transposed)

    def __call__(self, dense: tf.Tensor) -> tf.Tensor:
        """Multiplies; see the class."""

        @tf.custom_gradient
        def multiply(dense: tf.Tensor) -> Any:
            return csr.sparse_matrix_mat_mul(self._matrix, dense), lambda gradient: csr.sparse_matrix_mat_mul(
                self._transposed, gradient
            )

        return multiply(tf.convert_to_tensor(dense))


def normalized(matrix: scipy.sparse.spmatrix | scipy.sparse.sparray) -> scipy.sparse.csr_array:
    """Symmetric normalisation `D^-1/2 A D^-1/2` of a square matrix, where D holds the sums of A's rows.

    Rows without entries, nodes without neighbours, stay empty.
    """
    matrix = scipy.sparse.csr_array(matrix, dtype=np.float64)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    root = np.divide(1.0, np.sqrt(degree), out=np.zeros_like(degree), where=degree > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(root) @ matrix @ scipy.sparse.diags_array(root))


def mean_weighted(matrix: scipy.sparse.spmatrix | scipy.sparse.sparray) -> scipy.sparse.csr_array:
    """`D^-1 A`: rows of weights that add up to 1, except empty ones, which stay empty."""
    matrix = scipy.sparse.csr_array(matrix, dtype=np.float64)
    degree = np.asarray(matrix.sum(axis=1)).ravel()
    inverse = np.divide(1.0, degree, out=np.zeros_like(degree), where=degree > 0)
    return scipy.sparse.csr_array(scipy.sparse.diags_array(inverse) @ matrix)


def bipartite(users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> scipy.sparse.csr_array:
    """The adjacency matrix of the graph of users and items: `(num_users + num_items)` squared, users first.

    Args:
        users, items: row numbers of the interactions, `(n,)`; of a repeated one, the weight is the number of times.
        num_users, num_items: how many there are.
    """
    below = items.astype(np.int64) + num_users
    rows, columns = np.concatenate([users, below]), np.concatenate([below, users])
    size = num_users + num_items
    return scipy.sparse.csr_array((np.ones(len(rows), np.float64), (rows, columns)), shape=(size, size))


def normalized_bipartite(
    users: np.ndarray, items: np.ndarray, num_users: int, num_items: int
) -> scipy.sparse.csr_array:
    """`normalized(bipartite(...))`, what LightGCN propagates with.

    Reference: He et al., LightGCN (SIGIR 2020), equation 8.
    """
    return normalized(bipartite(users, items, num_users, num_items))


def mean_of_layers(propagate: Propagation, start: tf.Tensor, layers: int) -> tf.Tensor:
    """LightGCN: the mean of `start` and of what reaches each node after 1 to `layers` steps.

    Reference: He et al., LightGCN (SIGIR 2020), equations 3 and 4.
    """
    total = passed = tf.convert_to_tensor(start)
    for _ in range(layers):
        passed = propagate(passed)
        total += passed
    return total / (layers + 1)


def _in_tensorflow(matrix: scipy.sparse.csr_array) -> tf.Tensor:
    matrix.sum_duplicates()
    entries = matrix.tocoo()
    with tf.init_scope():  # a graph that is being traced must not own it
        indices = np.stack([entries.row, entries.col], axis=1).astype(np.int64)
        return csr.CSRSparseMatrix(tf.SparseTensor(indices, entries.data, matrix.shape))._matrix
