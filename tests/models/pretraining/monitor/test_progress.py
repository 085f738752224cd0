import re

import keras
import numpy as np
import pytest

from beam_pipelines.shell.progress import shown_progress
from models.pretraining.monitor.collapse import CollapseWarning, collapse_loss
from models.pretraining.monitor.progress import Progress
from tests.models.scripted_model import fit_scripted


class Measured(keras.callbacks.Callback):
    def __init__(self, **values):
        super().__init__()
        self.values = values

    def on_epoch_end(self, epoch, logs=None):
        logs.update({name: values[epoch] for name, values in self.values.items()})


TRAINING = {
    "loss": [6, 5, 4, 3],
    "page_view_loss": [4, 3, 2, 1],
    "click_sequence_loss": [2, 2, 2, 2],
    "valid_rows": [np.e**4] * 4,
    "positive_similarity": [0.5] * 4,
    "negative_similarity": [0.25] * 4,
    "pictures": [100] * 4,
}


def test_a_library_prints_nothing(capsys):
    fit_scripted(TRAINING, callbacks=[Progress(seconds=0.0)], epochs=2)
    assert capsys.readouterr().out == ""


def test_each_epoch_is_one_line(capsys):
    measured = Measured(
        val_loss=[5.0, 4.5],
        val_similarity_gauc=[0.6, 0.55],
        val_effective_rank=[7.25] * 2,
        images_per_second=[1234] * 2,
    )
    with shown_progress():
        fit_scripted(TRAINING, callbacks=[measured, Progress()], epochs=2)
    first, second = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"epoch 1/2: loss 5\.5000 \(page view 3\.5000, click sequence 2\.0000; collapsed: page view 4\.00\), "
        r"similarity 0\.50 of positives, 0\.25 of negatives, 1,234 images/s, validation loss 5\.0000, "
        r"similarity GAUC 0\.6000, effective rank 7\.2, took 0:0\d, 0:0\d left",
        first,
    )
    assert "similarity GAUC 0.5500, effective" in second
    assert "left" not in second


def test_long_epochs_have_lines_inside_with_the_means_since_the_line_before(capsys):
    with shown_progress():
        fit_scripted(TRAINING, callbacks=[Progress(seconds=0.0)], epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].split(",")[0] for line in lines] == ["epoch 1/2"] * 3 + ["epoch 2/2"] * 3
    assert "step 1/2, loss 6.0000 (page view 4.0000" in lines[0]
    assert "step 2/2, loss 5.0000 (page view 3.0000" in lines[1]
    assert re.search(r" [\d,]+ images/s", lines[1])
    assert "left" in lines[1]


def test_a_terminal_shows_one_line_in_place(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    with shown_progress():
        fit_scripted(TRAINING, callbacks=[Progress(seconds=0.0)], epochs=2)
    out = capsys.readouterr().out
    assert out.count("\n") == 2  # one per epoch
    inside = [line for line in out.split("\r\x1b[K") if "step" in line]
    assert len(inside) == 4
    assert max(map(len, inside)) <= 39


def fit_with_losses(losses, capsys, rank=None, rows=100):
    training = {"page_view_loss": losses, "valid_rows": [rows] * len(losses)}
    measured = [] if rank is None else [Measured(val_effective_rank=[rank], val_mean_cosine=[0.99])]
    with shown_progress():
        fit_scripted(training, callbacks=[*measured, CollapseWarning()])
    return capsys.readouterr().err


@pytest.mark.parametrize("steps", [1, 7, 40])
def test_a_loss_that_stays_at_ln_of_the_valid_rows_is_a_collapse(steps, capsys):
    collapsed = np.log(100)
    out = fit_with_losses(collapsed * np.linspace(0.992, 1.008, steps), capsys)
    assert out.startswith("warning: epoch 1 looks like a collapse: the page-view loss stayed at 4.")
    assert "all alike have 4.61 (ln of 100 candidates)" in out


def test_a_loss_that_only_passes_it_is_none(capsys):
    collapsed = np.log(100)
    assert fit_with_losses(collapsed * np.linspace(1.1, 0.9, 40), capsys) == ""  # the mean is the same
    assert fit_with_losses([collapsed] * 36 + [0.9 * collapsed] * 4, capsys) == ""


def test_a_small_effective_rank_is_a_collapse(capsys):
    out = fit_with_losses([1.0] * 10, capsys, rank=1.2)
    assert "spread over 1.20 directions (mean cosine 0.990)" in out
    assert fit_with_losses([1.0] * 10, capsys, rank=1.6) == ""


def test_the_loss_of_a_collapse():
    assert collapse_loss({"valid_rows": 100.0}) == pytest.approx(np.log(100))
    assert collapse_loss({"valid_rows": 9.0, "val_valid_rows": 5.0}, "val_") == pytest.approx(np.log(5))
    assert collapse_loss({"loss": 1.0}) is None
    assert collapse_loss({"valid_rows": 0.0}) is None
