import sys

import pytest

from beam_pipelines.format.errors import InputError
from models.retrieval.bpr import Bpr
from models.retrieval.methods import METHODS, find_method


def test_methods_are_found_by_name_and_by_place():
    assert {name: find_method(name) for name in METHODS} == METHODS
    assert find_method("models.retrieval.bpr:Bpr") is Bpr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bqr", "must be one of bpr.*, or MODULE:CLASS. Received: bqr"),
        ("nowhere.at_all:Model", "nowhere.at_all:Model cannot be imported: No module named 'nowhere'"),
        ("models.retrieval.bpr:Bqr", "cannot be imported: .*no attribute 'Bqr'"),
        ("models.retrieval.bpr:BprConfig", "is no class derived from Recommender"),
    ],
)
def test_others_are_refused(name, message):
    with pytest.raises(InputError, match=message):
        find_method(name)
    assert "nowhere" not in sys.modules
