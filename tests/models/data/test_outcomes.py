import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.data.dataset import Dataset
from models.data.outcomes import count_outcomes, learnable_outcomes
from models.data.pages import page_batches
from models.ranker.ranker import Ranker
from tests.models.tiny_dataset import write_tiny_dataset


def test_outcomes_are_counted_by_page_and_by_user(tmp_path):
    dataset = Dataset(write_tiny_dataset(tmp_path, items=60, pages=80).data)
    early, _ = dataset.pages("train").split(0.7)
    clicked, user = [], []
    for page in page_batches(dataset, "train", early.lengths(), batch_size=1, window=early.window).as_numpy_iterator():
        clicked.append(page["clicked"][page["item"] != -1] == 1)
        user.append(int(page["user"][0]))
    by_user = [np.concatenate([c for c, u in zip(clicked, user, strict=True) if u == each]) for each in set(user)]
    found = count_outcomes(early)
    assert found.candidates == sum(map(len, clicked))
    assert found.clicks == sum(map(np.sum, clicked))
    assert found.mixed_pages == sum(c.any() and not c.all() for c in clicked)
    assert found.mixed_users == sum(c.any() and not c.all() for c in by_user)
    assert (found.conversions, found.visits) == (0, 0)
    assert found.one_class() is None
    assert found._replace(candidates=0, clicks=0).one_class() == "no candidate"


@pytest.mark.parametrize(("rate", "common"), [(1.0, "clicked candidates only"), (0.0, "no clicked candidate")])
def test_one_class_teaches_nothing(tmp_path, rate, common):
    pages = Dataset(write_tiny_dataset(tmp_path, items=60, pages=20, click_rates=(rate, rate)).data).pages("train")
    for refuse in (learnable_outcomes, Ranker.adapt):
        with pytest.raises(
            InputError, match=rf"the 20 train pages to learn on, of .*data, have {common}: nothing tells"
        ):
            refuse(pages)
