import pytest

from tests.beam_pipelines.logs.log_files import IMPRESSIONS, ITEMS, write


@pytest.fixture
def logs(tmp_path):
    write(tmp_path / "impressions.parquet", IMPRESSIONS)
    write(tmp_path / "items.parquet", ITEMS)
    return tmp_path
