import pickle
from pathlib import Path

import pytest

from beam_pipelines.format.errors import InputError
from beam_pipelines.format.location import as_location, is_remote, is_within, storage_errors


def test_a_path_is_local_and_a_uri_is_not():
    assert as_location("artifacts/dataset") == Path("artifacts/dataset")
    assert as_location(Path("/data")) == Path("/data")
    assert as_location("file:///data/my%20logs") == Path("/data/my logs")
    remote = as_location("memory://shop/logs/")
    assert is_remote(remote)
    assert str(remote / "items.csv") == "memory://shop/logs/items.csv"
    assert as_location(remote) is remote


def test_the_host_of_a_hadoop_cluster_stays_in_the_uri():
    location = as_location("webhdfs://hadoop@name-node:9870/logs/2026-03")
    parts = location / "items", pickle.loads(pickle.dumps(location)) / "items", as_location(str(location)) / "items"
    assert {str(part) for part in parts} == {"webhdfs://hadoop@name-node:9870/logs/2026-03/items"}
    assert {part.fs.url for part in parts} == {"http://name-node:9870/webhdfs/v1"}


def test_what_cannot_be_opened_is_said_in_one_line():
    with pytest.raises(InputError, match=r"^nosuch://a/b: .*nosuch"):
        as_location("nosuch://a/b")
    with pytest.raises(InputError, match=r"pip install 'courier-ranking\[gcp\]'"):
        as_location("gs://shop/logs")
    with pytest.raises(InputError, match="pass it as text"):
        as_location(Path("s3://shop/logs"))


def test_a_location_lies_within_another(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    assert is_within(tmp_path / "link" / "a", tmp_path)
    assert not is_within(tmp_path, tmp_path / "a")
    logs = as_location("memory://shop/logs")
    assert is_within(logs, logs)
    assert is_within(logs / "a", logs)
    assert not is_within(as_location("memory://shop/logs2"), logs)
    assert not is_within(tmp_path, logs)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (FileNotFoundError("no bucket"), "memory://a/b: not found (no bucket)"),
        (PermissionError("403"), "memory://a/b: access denied (403)"),
        (RuntimeError("first\nsecond"), "memory://a/b: RuntimeError: first"),
    ],
)
def test_what_a_store_raises_names_the_location(raised, said):
    with pytest.raises(InputError) as error, storage_errors(as_location("memory://a/b")):
        raise raised
    assert str(error.value) == said
    with pytest.raises(type(raised)), storage_errors(Path("a")):
        raise raised
