import hashlib
import json

import pytest

from beam_pipelines.format.digests import file_sha256
from beam_pipelines.format.errors import ArtifactError
from beam_pipelines.format.manifest import FORMAT, File, Manifest, Source, Split, Table, Window, ids_sha256
from beam_pipelines.format.records import SCHEMA_HASH


@pytest.fixture
def dataset(tmp_path):
    for name in ("pages/train-0", "pages/train-1", "items", "users"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode() * 10)
    shards = [File.of(tmp_path, f"pages/train-{n}", 5) for n in range(2)]
    split = Split(
        pages=10,
        impressions=40,
        clicks=4,
        window=Window(first=10, last=20),
        negative_rate=1.0,
        history_lengths={"click": [10]},
        shards=shards,
    )
    tables = {
        n: Table(file=File.of(tmp_path, n, 3), ids_sha256=ids_sha256(["a", "b", "c"])) for n in ("items", "users")
    }
    Manifest(
        format=FORMAT,
        schema_hash=SCHEMA_HASH,
        features=[],
        notice="",
        options={"image_side": 256},
        sources=[Source(path="impressions.parquet", bytes=1, sha256="00")],
        splits={"train": split},
        pretraining=None,
        **tables,
        images=None,
        max_candidates=8,
        counters={"rows.impressions": 40},
    ).write(tmp_path)
    return tmp_path


def change(dataset, **fields):
    path = dataset / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def verify(dataset):
    manifest = Manifest.read(dataset)
    manifest.verify(dataset, manifest.splits["train"].shards)


def test_reading_gives_what_was_written(dataset):
    verify(dataset)
    manifest = Manifest.read(dataset)
    manifest.write(dataset)
    assert Manifest.read(dataset) == manifest
    assert Manifest.read(dataset).digest() == manifest.digest()
    assert manifest.splits["train"].shards[0].sha256 == file_sha256(dataset / "pages/train-0")


@pytest.mark.parametrize(
    "tamper", [lambda b: b[:-1], lambda b: b + b"x", lambda b: b[:3] + b"X" + b[4:], lambda b: b""]
)
def test_a_tampered_shard_is_named(dataset, tamper):
    shard = dataset / "pages/train-1"
    shard.write_bytes(tamper(shard.read_bytes()))
    with pytest.raises(ArtifactError, match=r"train-1 is not the file that manifest.json lists"):
        verify(dataset)


def test_a_missing_shard_is_named(dataset):
    (dataset / "pages/train-0").unlink()
    with pytest.raises(ArtifactError, match=r"train-0 is missing, but manifest.json lists it"):
        verify(dataset)


def test_an_added_shard_is_not_read(dataset):
    (dataset / "pages/train-2").write_bytes(b"more")
    verify(dataset)
    assert [shard.path for shard in Manifest.read(dataset).splits["train"].shards] == ["pages/train-0", "pages/train-1"]


def test_a_directory_without_manifest_is_no_dataset(tmp_path):
    with pytest.raises(ArtifactError, match="is not a page dataset"):
        Manifest.read(tmp_path)


def test_another_schema_or_format_is_refused(dataset):
    change(dataset, schema_hash="0123")
    with pytest.raises(ArtifactError, match=rf"schema 0123, this version reads {SCHEMA_HASH}"):
        Manifest.read(dataset)
    change(dataset, format="page-dataset/0")
    with pytest.raises(ArtifactError, match="format is page-dataset/0"):
        Manifest.read(dataset)


@pytest.mark.parametrize(
    ("fields", "where"),
    [({"notice": None}, "notice"), ({"extra": 1}, "extra"), ({"splits": {"train": {}}}, "splits.train.pages")],
)
def test_a_damaged_manifest_names_the_field(dataset, fields, where):
    change(dataset, **fields)
    with pytest.raises(ArtifactError, match=f"manifest.json: {where}: "):
        Manifest.read(dataset)
    (dataset / "manifest.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"manifest.json: the file: "):
        Manifest.read(dataset)


def test_the_digest_changes_with_the_content(dataset):
    before = Manifest.read(dataset).digest()
    change(dataset, counters={"rows.impressions": 41})
    assert Manifest.read(dataset).digest() != before


def test_windows_overlap_when_they_share_a_moment():
    window = Window(first=10, last=20)
    shared = [Window(first=a, last=b) for a, b in [(0, 10), (20, 30), (12, 13), (0, 99), (10, 20)]]
    apart = [Window(first=a, last=b) for a, b in [(0, 9), (21, 30)]]
    assert all(window.overlaps(w) and w.overlaps(window) for w in shared)
    assert not any(window.overlaps(w) or w.overlaps(window) for w in apart)


def test_a_manifest_of_before_keeps_the_digest_that_artifacts_remember(dataset):
    path = dataset / "manifest.json"
    before = json.loads(path.read_text())
    for name in ("joins", "columns"):
        del before[name]
    for name in ("lines", "rows", "rejected"):
        del before["sources"][0][name]
    path.write_text(json.dumps(before))
    compact = json.dumps(before, separators=(",", ":"), ensure_ascii=False)
    assert Manifest.read(dataset).digest() == hashlib.sha256(compact.encode()).hexdigest()


def test_id_digests_see_boundaries():
    assert ids_sha256(["ab", "c"]) != ids_sha256(["a", "bc"])
    assert ids_sha256(["a", "b"]) != ids_sha256(["b", "a"])
