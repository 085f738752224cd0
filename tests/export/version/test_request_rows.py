from export.version.request_rows import request_row
from models.features.spec import STATISTICS


def test_requests_made_from_records_are_the_pages(rows, toy_run):
    ids = toy_run.row_ids()
    assert [request_row(record, ids, STATISTICS) for record in toy_run.example_records()] == rows
