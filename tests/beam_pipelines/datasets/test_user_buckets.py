import numpy as np
import pyarrow as pa
import pytest

from beam_pipelines.datasets import user_buckets


@pytest.mark.parametrize(("in_memory", "tables"), [(1000, 1), (100, 5), (7, 5)])
def test_all_rows_come_by_user_in_their_order(tmp_path, monkeypatch, in_memory, tables):
    monkeypatch.setattr(user_buckets, "IN_MEMORY", in_memory)
    monkeypatch.setattr(user_buckets, "BUCKETS", 5)
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", n) for n, user in enumerate(rng.integers(0, 40, 300))]
    batches = [
        pa.record_batch({"user_id": [user for user, _ in part], "n": [n for _, n in part]})
        for part in (rows[first : first + 20] for first in range(0, 300, 20))
    ]
    found = [table.to_pylist() for table in user_buckets.user_buckets(iter(batches), tmp_path)]
    assert len(found) == tables
    users = [{row["user_id"] for row in table} for table in found]
    assert sum(map(len, users)) == len(set.union(*users)) == 40
    for user in set.union(*users):
        mine = [row["n"] for table in found for row in table if row["user_id"] == user]
        assert mine == [n for name, n in rows if name == user]
    assert list(tmp_path.iterdir()) == []


def test_no_rows_make_no_table(tmp_path):
    assert list(user_buckets.user_buckets([], tmp_path)) == []
