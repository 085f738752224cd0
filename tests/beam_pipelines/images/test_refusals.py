from collections import Counter

from beam_pipelines.images.refusals import BadImageError, describe_refusals


def test_refusals_are_described_in_one_line():
    counts = Counter({"missing": 1, "unsupported TIFF": 3, "ambiguous": 2})
    examples = {
        "missing": [("x" * 200, "")],
        "unsupported TIFF": [("a.tif", ""), ("b.jpg", "")],
        "ambiguous": [("0.Jpg", "'0.jpg' or '0.JPG'")],
    }
    assert describe_refusals(counts, examples) == (
        "3 unsupported TIFF: 'a.tif', 'b.jpg', convert to JPEG, PNG or WebP; "
        "2 ambiguous: '0.Jpg' ('0.jpg' or '0.JPG'), name one of the files exactly; "
        f"1 missing: '{'x' * 79}…'"
    )


def test_a_detail_is_one_line():
    error = BadImageError("unreadable", ValueError("first\nsecond"))
    assert (str(error), error.reason, error.detail) == ("unreadable", "unreadable", "first")
    assert BadImageError("missing").detail == ""
