import json
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_pipelines.format.manifest import ids_sha256
from beam_pipelines.shell.command import CommandError
from export import saved_model
from export.version.base_path import published_versions
from models.ranker.run import EXAMPLE_PAGES_FILE, ITEMS_FILE, RANKER_FILE, RankerRun
from tests.export.toy_ranker import ITEM_IDS


def test_versions_count_on_from_the_largest(toy_run, toy_base_path):
    assert published_versions(toy_base_path).keys() == {2, 10, 11}
    assert [path.name for path in toy_base_path.glob(".*")] == [".30.incomplete-1"]
    for version, text in (("11", "has a version 11"), ("40", "has a version 40"), ("0", "must be between 1 and")):
        with pytest.raises(CommandError, match=f"--version.*{text}"):
            saved_model.main(["--model", str(toy_run.path), "--base-path", str(toy_base_path), "--version", version])


def refused(run, base_path, *options):
    """The error of an export that publishes nothing and leaves nothing behind."""
    with pytest.raises(CommandError) as caught:
        saved_model.main(["--model", str(run), "--base-path", str(base_path), *options])
    assert not base_path.exists() or list(base_path.iterdir()) == []
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def run_copy(toy_run, tmp_path):
    return shutil.copytree(toy_run.path, tmp_path / "run")


def test_a_ranker_that_gives_nan_is_not_published(run_copy, tmp_path):
    ranker = RankerRun(run_copy).ranker()
    ranker.members[0].heads["ctr"].bias.assign([np.nan])
    ranker.save(run_copy / RANKER_FILE)
    text = "is not published, it fails the gate `finite scores in process`: .* values of ctr are not finite"
    assert re.search(text, refused(run_copy, tmp_path / "serving"))


def test_what_the_export_reads_is_checked_first(run_copy, sample_dataset, tmp_path):
    base_path = tmp_path / "serving"
    assert "--model: no directory" in refused(tmp_path / "none", base_path)
    assert "--skew-pages must be at least 1. Received: 0" in refused(run_copy, base_path, "--skew-pages", "0")
    assert "--data: " in refused(run_copy, base_path, "--data", str(sample_dataset))
    assert re.search("--report: .* is no report; models", refused(run_copy, base_path, "--report", str(tmp_path)))
    (run_copy / EXAMPLE_PAGES_FILE).rename(tmp_path / "kept")
    assert f"no pages in {EXAMPLE_PAGES_FILE}" in refused(run_copy, base_path)
    (tmp_path / "kept").rename(run_copy / EXAMPLE_PAGES_FILE)
    items = pq.read_table(run_copy / ITEMS_FILE)
    pq.write_table(items.take(list(range(len(items)))[::-1]), run_copy / ITEMS_FILE)
    assert "is not the table that the ranker was trained with" in refused(run_copy, base_path)
    (run_copy / ITEMS_FILE).unlink()
    assert f"has no {ITEMS_FILE}" in refused(run_copy, base_path)


def test_an_id_that_the_asset_files_cannot_hold_is_named(run_copy, tmp_path):
    ids = [*ITEM_IDS[:-1], "two\nlines"]
    items = pq.read_table(run_copy / ITEMS_FILE)
    pq.write_table(items.set_column(0, "item_id", pa.array(ids)), run_copy / ITEMS_FILE)
    metadata = json.loads((run_copy / "metadata.json").read_text())
    (run_copy / "metadata.json").write_text(json.dumps({**metadata, "item_ids_sha256": ids_sha256(ids)}))
    assert "'two\\nlines' holds a line break" in refused(run_copy, tmp_path / "serving")


def test_an_export_that_is_killed_publishes_nothing(toy_run, tmp_path):
    base_path = tmp_path / "serving"
    command = [
        sys.executable,
        "-m",
        "export.saved_model",
        "--model",
        str(toy_run.path),
        "--base-path",
        str(base_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(base_path.glob(".1.incomplete*/1/saved_model.pb")):
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
    assert len(list(base_path.iterdir())) == 1
    assert published_versions(base_path) == {}
