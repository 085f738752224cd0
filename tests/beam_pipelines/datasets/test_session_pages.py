import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines.datasets.session_pages import cut_sessions

rows = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 40), st.integers(0, 3), st.integers(0, 1)), min_size=1)


@settings(max_examples=200, deadline=None)
@given(rows, st.integers(0, 10))
def test_sessions_are_as_told_one_row_at_a_time(rows, gap):
    user, time, item, feed = (list(column) for column in zip(*rows, strict=True))
    ids = [pa.chunked_array([[str(value) for value in column]]) for column in (user, item)]
    pages = cut_sessions(ids[0], np.array(time), ids[1], gap, np.array(feed))
    expected, last = [], None
    for row in sorted((u, t, f, i) for u, t, i, f in rows):
        if last is None or row[0] != last[0] or row[1] - last[1] > gap or (row[1] > last[1] and row[2] != last[2]):
            expected.append([])
        expected[-1].append(row)
        last = row
    found = [(user[row], time[row], feed[row], item[row]) for row in pages.order]
    assert found == [row for page in expected for row in page]
    assert list(pages.page) == [number for number, page in enumerate(expected) for _ in page]
    assert list(pages.position) == [place for page in expected for place in range(len(page))]
    names = pages.ids(ids[0], np.array(time)).to_pylist()
    assert len(set(names)) == len(expected) == len(pages.start)
    assert names == [f"{page[0][0]}-{page[0][1]}" for page in expected for _ in page]
