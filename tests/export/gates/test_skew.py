import pytest

from export.client.predict_client import PredictClient
from export.gates.loopback_server import LoopbackServer
from export.gates.skew import altered_pages, check_skew
from export.gates.version_check import VersionError
from export.version.inputs import request_inputs
from export.version.reference_pages import ReferencePages
from tests.export.toy_ranker import ITEM_IDS


def test_skew_is_found_on_every_way_to_the_scores(toy_endpoint, toy_run, ranker):
    records = toy_run.example_records()
    altered = altered_pages(records, len(ITEM_IDS))
    assert len(altered) == 16
    pages = ReferencePages.of(ranker, toy_run.row_ids(), records + altered)
    inputs = request_inputs(ranker)
    with PredictClient(toy_endpoint.listening.grpc, timeout=60) as client:
        server = LoopbackServer(toy_endpoint.listening, client)
        largest = check_skew(server, pages, inputs)
        assert len(largest) == 4
        assert max(largest.values()) <= 1e-6
        shifted = [*pages.outputs[:20], {"ctr": pages.outputs[20]["ctr"] + 2e-6}, *pages.outputs[21:]]
        with pytest.raises(VersionError, match=r"gRPC serving_default, page 20: ctr is off by [12]\..e-06"):
            check_skew(server, pages._replace(outputs=shifted), inputs)
        other = [*pages.records[:20], pages.records[19], *pages.records[21:]]
        with pytest.raises(VersionError, match="gRPC tf_example, page 20: ctr"):
            check_skew(server, pages._replace(records=other), inputs)
