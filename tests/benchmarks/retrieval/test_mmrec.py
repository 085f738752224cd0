import gzip

import numpy as np
import pytest
import yaml

from beam_pipelines.format.errors import InputError
from benchmarks.retrieval.mmrec import SETTINGS, best_epoch, write_data, write_setting
from benchmarks.retrieval.tiktok import SETTINGS as OURS


def metrics(recall, ndcg):
    names = (
        f"{name}@{k}: {value:.4f}" for name, value in (("recall", recall), ("ndcg", ndcg)) for k in (5, 10, 20, 50)
    )
    return "    ".join(names) + "    "


def epoch(number, validation, test):
    parts = (("valid", validation), ("test", test))
    lines = (f"01 Jan 00:00    INFO {part} result: \n{metrics(*values)}\n" for part, values in parts)
    return f"01 Jan 00:00    INFO epoch {number} training [time: 1.00s, train loss: 1.0]\n" + "".join(lines)


def test_the_epoch_is_the_best_one_on_validation():
    log = epoch(0, (0.1, 0.2), (0.3, 0.4)) + epoch(1, (0.2, 0.1), (0.5, 0.6)) + epoch(2, (0.15, 0.3), (0.9, 0.9))
    found = best_epoch(log + "01 Jan 00:00    INFO epoch 3 training")
    assert found["epochs"] == 3
    assert found["validation"]["recall@20"] == 0.2
    assert found["test"] == {"recall@20": 0.5, "recall@50": 0.5, "ndcg@50": 0.6, "ndcg@20": 0.6}


def test_a_log_without_a_result_is_an_error():
    with pytest.raises(InputError, match="no result"):
        best_epoch("Traceback")


def test_both_sides_have_as_many_settings():
    assert {name: len(settings) for name, (_, settings) in SETTINGS.items()} == {
        name: len(settings) for name, settings in OURS.items() if name != "dualgnn"
    }


def test_the_interactions_are_written_as_they_are(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    rows = [(4, 7, 0), (4, 8, 1), (2, 8, 0), (2, 7, 2)]
    with gzip.open(source / "tiktok.inter.csv.gz", "wt") as file:
        file.write("userID,itemID,x_label\n" + "".join(f"{user},{item},{label}\n" for user, item, label in rows))
    vectors = np.arange(6, dtype=np.float16).reshape(2, 3)
    for kind in ("image", "audio"):
        np.save(source / f"{kind}_feat.npy", vectors)
    checkout = tmp_path / "checkout"
    (checkout / "src/configs/dataset").mkdir(parents=True)
    write_data(source, checkout)
    config = yaml.safe_load((checkout / "src/configs/dataset/tiktok.yaml").read_text())
    folder = checkout / "data/tiktok"
    head, *lines = (folder / config["inter_file_name"]).read_text().splitlines()
    columns = [config[f"{name}_FIELD"] for name in ("USER_ID", "ITEM_ID", "TIME")]
    assert head == "\t".join([*columns, "x_label"])
    assert sorted((int(user), int(item), int(label)) for user, item, _, label in map(str.split, lines)) == sorted(rows)
    for name in ("vision_feature_file", "text_feature_file"):
        np.testing.assert_array_equal(np.load(folder / config[name]), vectors.astype(np.float32))


def test_one_setting_replaces_the_grid(tmp_path):
    folder = tmp_path / "src/configs/model"
    folder.mkdir(parents=True)
    path = folder / "MGCN.yaml"
    path.write_text(yaml.safe_dump({"n_layers": 1, "cl_loss": [0.001, 0.01], "hyper_parameters": ["cl_loss"]}))
    write_setting(tmp_path, "mgcn", 0, quick=True)
    write_setting(tmp_path, "mgcn", 1, quick=True)
    assert yaml.safe_load(path.read_text()) == {
        "n_layers": 1,
        "cl_loss": [0.001],
        "hyper_parameters": ["cl_loss"],
        "use_gpu": False,
        "epochs": 2,
        "stopping_step": 10,
    }


def test_another_grid_is_an_error(tmp_path):
    folder = tmp_path / "src/configs/model"
    folder.mkdir(parents=True)
    (folder / "BPR.yaml").write_text(yaml.safe_dump({"hyper_parameters": ["reg_weight", "dropout"]}))
    with pytest.raises(InputError, match="dropout"):
        write_setting(tmp_path, "bpr", 0)
