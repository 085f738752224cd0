import numpy as np
import pyarrow as pa

from models.evaluation.slices import by_category, by_count, by_item_age
from tests.models.evaluation.scored import DAY


def test_kinds_of_candidates():
    items = pa.table(
        {
            "category": ["b", None, "a", "a"],
            "published_at": pa.array([399 * DAY, None, 0, 401 * DAY], pa.int64()),
        }
    )
    item = np.array([2, 3, 0, 2, 1])
    category = by_category(items, item)
    assert category.values[0] == "a"  # the most frequent
    assert [category.values[n] for n in category.number] == ["a", "a", "b", "a", "(none)"]
    age = by_item_age(items, item, np.full(5, 400 * DAY))
    assert age.values == ("0-6 days", "365 days or more", "unknown")
    assert [age.values[n] for n in age.number] == [*age.values[1::-1], "0-6 days", "365 days or more", "unknown"]
    steps = by_count("steps", np.array([0, 1, 2, 3, 4, 7, 8, 1000, -1]))
    expected = ["0", "1", "2-3", "2-3", "4-7", "4-7", "8-15", "512-1023", "0"]
    assert [steps.values[n] for n in steps.number] == expected
    days = [0, 6, 7, 29, 30, 89, 90, 364, 365]
    ages = by_item_age(pa.table({"published_at": [0]}), np.zeros(9, int), np.array(days) * DAY)
    assert ages.number.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]
