import keras
import numpy as np
import pytest
import tensorflow as tf

from models.pretraining.clip import Clip
from models.pretraining.mask_clip import MaskClip, mask_pictures
from models.pretraining.title_contrast import TitleContrast
from models.text.bert import Bert
from models.text.encoder import TextEncoder
from tests.models.courier_batch import DIM, Table, draw_batch, loss_of
from tests.models.pretraining.test_title_contrast import reference as contrast_reference

BATCH = draw_batch(4, titles=True)


def make(kind=MaskClip, **options):
    keras.utils.set_random_seed(0)
    titles = TitleContrast(TextEncoder(Bert(12, 1, 8, 2, positions=4), DIM))
    return kind(Table(), titles, **options)


def gradients(model, batch=BATCH):
    tensors = {name: tf.constant(value) for name, value in batch.items()}
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([weight.value for weight in model.weights if weight.dtype == "float32"])
        loss = model.compute_loss(x=tensors, y_pred=model(tensors, training=True))
    of = lambda layer: tape.gradient(loss, [weight.value for weight in layer.weights])  # noqa: E731
    return of


def test_without_its_weight_it_is_clip():
    assert float(loss_of(make(distillation_weight=0.0), BATCH)) == pytest.approx(float(loss_of(make(Clip), BATCH)))


def test_distances_are_of_pictures_and_of_masked_tokens_alone():
    model = make(hidden_dim=6, distillation_weight=0.5)
    y_pred = {name: np.asarray(value) for name, value in model(BATCH).items()}
    counted, masked = y_pred["counted"], y_pred["masked"] & y_pred["counted"][:, None]
    assert 0 < masked.sum() < (BATCH["tokens"][counted] >= 0).sum()
    expected = y_pred["picture_distance"][counted].mean() + y_pred["token_distance"][masked].mean()
    together, alone = float(loss_of(model, BATCH)), float(loss_of(make(Clip), BATCH))
    assert together == pytest.approx(alone + 0.5 * expected, rel=1e-4)
    reported = model.get_metrics_result()
    assert float(reported["picture_distillation"] + reported["title_distillation"]) == pytest.approx(expected, rel=1e-4)


def cosines(one, other):
    return (one * other).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)


def head(layer, vectors):
    first, first_bias, second, second_bias = layer.get_weights()
    return np.maximum(vectors @ first + first_bias, 0) @ second + second_bias


@pytest.mark.parametrize("pages", [1, 4])
@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_loss_is_that_of_clip_and_the_mean_distances_to_the_teachers(pages, weight):
    """All of it masked, so that what the students see is known: one colour, and one token at each place."""
    batch = draw_batch(pages, titles=True)
    model = make(hidden_dim=6, distillation_weight=weight, mask_share=1.0)
    rng = np.random.default_rng(0)
    for teacher in (model.picture_teacher, model.text_teacher):
        teacher.set_weights([value + rng.normal(0, 0.3, value.shape) for value in teacher.get_weights()])
    made = {name: np.asarray(value) for name, value in model(batch).items()}
    tokens, counted, grid = batch["tokens"], made["counted"], model.grid
    painted = mask_pictures(batch["pictures"], np.ones((len(tokens), grid**2), bool), grid)
    target = np.asarray(model.picture_teacher.table.embeddings)[batch["pictures"][:, 0, 0, 0]]
    predicted = np.asarray(model.encoder.table.embeddings)[np.asarray(painted)[:, 0, 0, 0]]
    pictures = 1 - cosines(head(model.picture_head, predicted), target)

    bert = model.titles.text_encoder.bert
    shown = np.broadcast_to(np.asarray(model.mask_token), (*tokens.shape, bert.width))
    states = np.asarray(bert.contextualize(np.ascontiguousarray(shown), tokens >= 0))
    titles = 1 - cosines(head(model.token_head, states), np.asarray(model.text_teacher.bert.states(tokens)))
    measured = (tokens >= 0) & counted[:, None]
    expected = contrast_reference(made["view_1"], made["view_2"], tokens, counted, model.titles.temperature, True)
    expected += weight * (pictures[counted].mean() + titles[measured].mean())
    assert float(loss_of(model, batch)) == pytest.approx(expected, rel=1e-4)


def test_nothing_masked_leaves_titles_out_and_all_masked_pictures_are_alike():
    assert not np.asarray(make(mask_share=0.0)(BATCH)["masked"]).any()
    everything = make(mask_share=1.0)(BATCH)
    np.testing.assert_array_equal(everything["masked"], BATCH["tokens"] >= 0)
    painted = mask_pictures(BATCH["pictures"], np.ones((30, 4), bool), 2)
    assert len(np.unique(np.asarray(painted).reshape(30, -1), axis=0)) == 1


def test_cells_are_painted_where_they_are():
    picture = np.zeros((1, 5, 4, 3), np.uint8)
    painted = np.asarray(mask_pictures(picture, np.array([[0, 1, 1, 0]], bool), 2))[0, ..., 0] > 0
    assert painted.tolist() == [[False, False, True, True]] * 3 + [[True, True, False, False]] * 2


def test_teachers_have_no_gradient_and_students_do():
    model = make(hidden_dim=6)
    of = gradients(model)
    for teacher in (model.picture_teacher, model.text_teacher):
        assert all(gradient is None or not np.any(tf.convert_to_tensor(gradient)) for gradient in of(teacher))
    for student in (model.picture_head, model.token_head):
        assert all(np.abs(gradient).max() > 0 for gradient in of(student)[::2])  # kernels


@pytest.mark.parametrize("momentum", [0.0, 0.75, 1.0])
def test_teachers_follow_by_the_momentum(momentum):
    model = make(momentum=momentum)
    before = [teacher.get_weights() for teacher, _ in model._teachers()]
    for _, student in model._teachers():
        student.set_weights([weight + 1 for weight in student.get_weights()])
    model.finish_step(None)
    for (teacher, _), old in zip(model._teachers(), before, strict=True):
        for slow, was in zip(teacher.get_weights(), old, strict=True):
            np.testing.assert_allclose(slow, was + 1 - momentum, rtol=1e-5, atol=1e-5)
