import gzip

import numpy as np
import pytest

from beam_pipelines.format.errors import InputError
from models.retrieval.interaction_file import read_interactions

HEADER = "userID\titemID\trating\ttimestamp\tx_label\n"


def write(path, text):
    path.write_text(text)
    return path


def test_rows_go_to_the_parts_that_they_name_and_ids_stay_texts(tmp_path):
    rows = (
        "u9\t007\t5.0\t1400000000\t0\nu10\t7\t1.0\t1400000001\t0\nu9\tx\t3.0\t1400000002\t2\nu9\t7\t4\t1400000003\t1\n"
    )
    interactions = read_interactions(write(tmp_path / "a.inter", HEADER + rows))
    assert interactions.user_ids == ["u10", "u9"]
    assert interactions.item_ids == ["007", "7", "x"]
    assert interactions.train.users.tolist() == [1, 0]
    assert interactions.train.items.tolist() == [0, 1]
    assert interactions.train.times.tolist() == [1_400_000_000_000, 1_400_000_001_000]
    assert (interactions.validation.items.tolist(), interactions.test.items.tolist()) == ([1], [2])


def test_numbers_are_ordered_by_value_and_commas_and_compression_are_found(tmp_path):
    path = tmp_path / "a.inter.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("userID,itemID,x_label\n2,10,0\n10,9,0\n2,9,1\n")
    interactions = read_interactions(path)
    assert interactions.user_ids == ["2", "10"]
    assert interactions.item_ids == ["9", "10"]
    assert interactions.train.times is None
    assert len(interactions.test) == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1\t1\t1\t1\t0\n1\t2\t1\t1\t3\n", r"a\.inter:3: x_label must be 0 .train., 1 .*Received: '3'"),
        ("1\t1\t1\t1\t0\n\t2\t1\t1\t0\n", r"a\.inter:3: userID must not be empty"),
        ("1\t1\t1\t1\n", r"a\.inter:2: malformed row"),
        ("1\t1\t1\t1.5\t0\n", r"a\.inter:2: timestamp must be a whole number"),
        ("1\t1\t1\t1\t2\n", "no row with the x_label 0"),
        ("", "no row with the x_label 0"),
    ],
)
def test_a_damaged_row_is_named_by_its_line(tmp_path, rows, message):
    with pytest.raises(InputError, match=message):
        read_interactions(write(tmp_path / "a.inter", HEADER + rows))


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(InputError, match="no column x_label"):
        read_interactions(write(tmp_path / "a.inter", "userID\titemID\n1\t1\n"))
    with pytest.raises(InputError, match="no file"):
        read_interactions(tmp_path / "b.inter")


def test_the_public_benchmarks_have_their_published_sizes(shared_data):
    baby = read_interactions(shared_data("amazon_mm") / "baby" / "baby.inter.csv.gz")
    assert (baby.num_users, baby.num_items) == (19_445, 7_050)
    assert [len(part) for part in (baby.train, baby.validation, baby.test)] == [118_551, 21_682, 20_559]
    # Of each user, a tenth validates and a tenth tests, or one each where there are fewer than ten.
    per_user = [np.bincount(part.users, minlength=baby.num_users) for part in (baby.train, baby.validation, baby.test)]
    few = sum(per_user) < 10
    assert (per_user[1][few] == 1).mean() > 0.99
    assert (per_user[2][few] == 1).mean() > 0.99
