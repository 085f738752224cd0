import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from models.retrieval.propagation import Propagation, bipartite, mean_of_layers, normalized, normalized_bipartite
from tests.models.retrieval.drawn_interactions import draw_interactions


def dense_normalized(matrix):
    degree = matrix.sum(axis=1)
    with np.errstate(divide="ignore"):
        root = np.where(degree > 0, degree**-0.5, 0)
    return root[:, None] * matrix * root[None, :]


def graph(users=30, items=24, seed=0):
    train = draw_interactions(users, items, seed=seed).train
    dense = np.zeros((users + items, users + items))
    dense[train.users, users + train.items] = 1
    return train, dense + dense.T


@pytest.mark.parametrize(("users", "items"), [(30, 24), (9, 60), (3, 12)])
def test_normalisation_is_that_of_dense_numpy(users, items):
    train, dense = graph(users, items)
    np.testing.assert_array_equal(bipartite(train.users, train.items, users, items).toarray(), dense)
    sparse = normalized_bipartite(train.users, train.items, users, items).toarray()
    np.testing.assert_allclose(sparse, dense_normalized(dense), atol=1e-12)
    np.testing.assert_allclose(sparse, sparse.T)
    assert np.linalg.eigvalsh(sparse).max() == pytest.approx(1)
    assert sparse[dense.sum(axis=1) == 0].sum() == 0  # and is a number


def test_the_weights_of_a_graph_count():
    dense = np.array([[0, 3.0, 1], [3, 0, 0], [1, 0, 0]])
    np.testing.assert_allclose(normalized(scipy.sparse.csr_array(dense)).toarray(), dense_normalized(dense))


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize(("columns", "symmetric"), [(4, False), (7, False), (7, True)])
def test_product_and_gradient_are_those_of_the_dense_matrix(columns, symmetric, in_graph):
    random = np.random.default_rng(1)
    matrix = random.normal(size=(7, columns)) * (random.random((7, columns)) < 0.4)
    matrix = matrix + matrix.T if symmetric else matrix
    propagate = Propagation(scipy.sparse.coo_array(matrix))
    assert propagate.shape == matrix.shape
    x, weight = (random.normal(size=(n, 3)).astype(np.float32) for n in (matrix.shape[1], 7))

    def value_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            product = propagate(x)
            loss = tf.reduce_sum(product * weight)
        return product, tape.gradient(loss, x)

    product, gradient = (tf.function(value_and_gradient) if in_graph else value_and_gradient)(tf.constant(x))
    np.testing.assert_allclose(product, matrix @ x, atol=1e-5)
    np.testing.assert_allclose(gradient, matrix.T @ weight, atol=1e-5)


def test_layers_are_averaged_and_none_leaves_everything():
    train, dense = graph()
    adjacency = dense_normalized(dense)
    propagate = Propagation(normalized_bipartite(train.users, train.items, 30, 24))
    start = np.random.default_rng(0).normal(size=(54, 5)).astype(np.float32)
    np.testing.assert_array_equal(mean_of_layers(propagate, tf.constant(start), 0), start)
    expected = (start + adjacency @ start + adjacency @ adjacency @ start) / 3
    np.testing.assert_allclose(mean_of_layers(propagate, tf.constant(start), 2), expected, atol=1e-6)


def test_another_order_of_nodes_gives_the_same_in_that_order():
    train, _ = graph()
    order = np.random.default_rng(3).permutation(24)
    start = np.random.default_rng(0).normal(size=(54, 5)).astype(np.float32)
    places = np.concatenate([np.arange(30), 30 + order])
    one = Propagation(normalized_bipartite(train.users, np.argsort(order)[train.items], 30, 24))(start[places])
    other = Propagation(normalized_bipartite(train.users, train.items, 30, 24))(start)
    np.testing.assert_allclose(one, tf.gather(other, places), atol=1e-6)
