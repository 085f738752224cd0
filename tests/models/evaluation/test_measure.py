import numpy as np
import pytest

from models.evaluation.measure import measure
from models.metrics.auc import auc
from models.metrics.log_loss import log_loss
from tests.models.evaluation.scored import scored


def test_other_predictions_are_measured_on_what_is_known():
    each = scored()["ranker0"]
    known = np.arange(len(each.ctr)) % 3 > 0
    each = each._replace(
        converted=np.where(known, each.converted, -1), ctcvr=each.ctr * 0.5, dwell=np.float32(20) * each.ctr
    )
    metrics = measure(each, 0.5)
    label = (each.clicked & (each.converted == 1))[known]
    assert metrics["ctcvr"]["auc"] == auc(each.ctcvr[known], label)
    assert (metrics["ctcvr"]["candidates"], metrics["ctcvr"]["conversions"]) == (known.sum(), label.sum())
    weight = np.where(each.clicked, 0.5, 1.0)[known]  # those clicked and not converted are all there
    losses = [log_loss(each.ctcvr[known][[n]], label[[n]]) for n in range(known.sum())]
    assert metrics["ctcvr"]["log_loss"] == pytest.approx(np.average(losses, weights=weight))
    error = np.log1p(each.dwell) - np.log1p(each.dwell_label)
    assert metrics["dwell"]["mean_absolute_log_error"] == pytest.approx(np.abs(error[each.clicked]).mean())
    assert 0.5 < metrics["dwell"]["xauc"] < 1
    visits = measure(each._replace(long_visit=each.ctr, long_visit_seconds=7.0))["long_visit"]
    is_long = each.clicked & (each.dwell_label >= 7)
    assert visits["long_visits"] == is_long.sum() > 0
    assert visits["auc"] == auc(each.ctr, is_long)
    assert measure(each._replace(dwell=each.dwell_label))["dwell"]["xauc"] == 1
    nobody = measure(each.select(np.zeros(len(known), bool)))
    assert np.isnan([nobody["auc"], nobody["ctcvr"]["auc"], nobody["dwell"]["xauc"], nobody["ece"]]).all()


def test_nan_scores_are_an_error():
    scores = scored()["ranker1"]
    with pytest.raises(ValueError, match="must not be NaN"):
        measure(scores._replace(ctr=np.where(np.arange(len(scores.ctr)) == 3, np.nan, 0.5)))
