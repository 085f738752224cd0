import json

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models import join_rankers
from models.join_rankers import main
from models.ranker.run import RankerRun
from tests.models.ranker.ranker_pages import inputs_of
from tests.models.untrained_run import CONFIG, write_untrained_run

TWO = CONFIG.model_copy(update={"members": 2})


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs")
    return [
        write_untrained_run(path / str(seed), tiny.data, tiny.clusters, seed, config)
        for seed, config in enumerate((CONFIG, TWO))
    ]


def logits(run, page):
    return run.ranker().logits(inputs_of(page))["ctr"].numpy()


def test_a_joined_ranker_is_the_mean_over_all_members(runs, tiny, page, tmp_path):
    run = join_rankers(tiny.data, [run.path for run in runs], tmp_path / "joined")
    one, two = (logits(each, page) for each in runs)
    np.testing.assert_allclose(logits(run, page), (one + 2 * two) / 3, rtol=1e-5, atol=1e-6)
    assert run.config().ranker == CONFIG.model_copy(update={"members": 3, **_resolved(runs[0])})
    assert run.ranker().calibrator.kind == "platt"
    assert 0 < run.metadata.validation["auc"] < 1
    assert run.metadata == runs[0].metadata.model_copy(update={"validation": run.metadata.validation})
    assert run.example_records() == runs[0].example_records()
    np.testing.assert_array_equal(run.training_counts(), runs[0].training_counts())


def _resolved(run):
    return {name: getattr(run.config().ranker, name) for name in ("features", "lengths")}


def test_the_command_writes_it_and_says_so(runs, tiny, tmp_path):
    words = ["--data", tiny.data, "--runs", *(run.path for run in runs), "--output", tmp_path / "joined"]
    line = main([str(word) for word in words])
    auc = RankerRun(tmp_path / "joined").metadata.validation["auc"]
    assert line == f"wrote a ranker of 3 members to {tmp_path / 'joined'}: validation AUC {auc:.4f}"


def with_metadata(run, path, **changes):
    """A copy of a run whose metadata says something else."""
    path.mkdir()
    for file in run.path.iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | changes))
    return path


def test_what_does_not_belong_together_is_refused_and_nothing_is_written(runs, tiny, tmp_path):
    output, first = tmp_path / "joined", runs[0].path
    wider = write_untrained_run(
        tmp_path / "wider", tiny.data, tiny.clusters, 1, CONFIG.model_copy(update={"mlp_units": (9, 8)})
    )
    elsewhere = with_metadata(runs[1], tmp_path / "elsewhere", dataset_digest="other")
    for others, message in (
        ([], "`runs` must be two or more. Received: 1"),
        ([wider.path], r"wider cannot join .*0, for their ranker.mlp_units differs. Received: \[9, 8\] and \[8, 8\]"),
        ([elsewhere], "elsewhere cannot join .*0, for their dataset_digest differs. Received: other"),
    ):
        with pytest.raises(InputError, match=message):
            join_rankers(tiny.data, [first, *others], output)
    with pytest.raises(InputError, match=r"`data` must be the dataset that .*elsewhere learned on"):
        join_rankers(tiny.data, [elsewhere, first], output)
    assert not output.exists()


def test_what_members_share_must_be_the_same(tiny, tmp_path):
    quantiles = {"ctr_7d": {"type": "number", "transform": "buckets", "buckets": 4}}
    features = CONFIG.features.model_validate({"candidate": quantiles})
    config = CONFIG.model_copy(update={"features": features})
    runs = [write_untrained_run(tmp_path / str(seed), tiny.data, None, seed, config) for seed in range(2)]
    with pytest.raises(InputError, match="for members share ctr_7d_embedding/embeddings, and theirs differ"):
        join_rankers(tiny.data, runs, tmp_path / "joined")
