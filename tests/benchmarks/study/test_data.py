import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.study.data import write_few_users, write_fewer_pages

UNTIL = 500


@pytest.fixture
def logs(tmp_path):
    path = tmp_path / "logs"
    (path / "images").mkdir(parents=True)
    (path / "logs.json").write_text("{}\n")
    rng = np.random.default_rng(0)
    page = np.repeat(np.arange(200), 5)
    user = (page * 7) % 90
    tables = {
        "impressions": {
            "page_id": [f"p{n}" for n in page],
            "user_id": [f"u{n}" for n in user],
            "item_id": [f"i{n}" for n in rng.integers(0, 50, len(page))],
            "timestamp": page * 5,
            "position": np.tile(np.arange(5), 200),
            "clicked": rng.integers(0, 2, len(page)),
            "converted": rng.integers(0, 2, len(page)),
        },
        "events": {"user_id": ["u1"], "item_id": ["i1"], "timestamp": [1], "event": ["pay"]},
        "users": {"user_id": [f"u{n}" for n in range(90)]},
        "items": {"item_id": [f"i{n}" for n in range(60)]},
    }
    for name, columns in tables.items():
        pq.write_table(pa.table(columns), path / f"{name}.parquet")
    return path


def read(path, name):
    return pq.read_table(path / f"{name}.parquet").to_pylist()


@pytest.mark.parametrize("part", [1, 4])
def test_fewer_pages_leave_histories_as_they_are(logs, tmp_path, part):
    write_fewer_pages(logs, tmp_path / "fewer", part, UNTIL)
    before, after = read(logs, "impressions"), read(tmp_path / "fewer", "impressions")
    late = [row for row in before if row["timestamp"] > UNTIL]
    assert [row for row in after if row["timestamp"] > UNTIL] == late
    early = {row["page_id"] for row in after if row["timestamp"] <= UNTIL}
    assert len(early) == pytest.approx(101 / part, abs=8)

    def done(path):
        rows = [(row["user_id"], row["item_id"], row["timestamp"], row["event"]) for row in read(path, "events")]
        for row in read(path, "impressions"):
            known = (row["user_id"], row["item_id"], row["timestamp"])
            rows += [(*known, event) for label, event in (("clicked", "click"), ("converted", "pay")) if row[label]]
        return sorted(rows)

    assert done(tmp_path / "fewer") == done(logs)


def test_few_users_keep_all_that_they_saw_and_did(logs, tmp_path):
    write_few_users(logs, tmp_path / "few", 30)
    users = {row["user_id"] for row in read(tmp_path / "few", "users")}
    assert len(users) == 30
    for name in ("impressions", "events"):
        assert read(tmp_path / "few", name) == [row for row in read(logs, name) if row["user_id"] in users]
    rows = read(tmp_path / "few", "impressions") + read(tmp_path / "few", "events")
    assert {row["item_id"] for row in read(tmp_path / "few", "items")} == {row["item_id"] for row in rows}
