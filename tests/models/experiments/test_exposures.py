import json
import multiprocessing
import re

import pytest

from beam_pipelines.format.errors import ArtifactError, InputError
from models.experiments.exposures import ExposureLog, read_exposures
from tests.models.experiments.shop import EXPERIMENT, START

GOOD = {"experiment": "pictures", "arm": "control", "user_id": "a", "page_id": "p", "timestamp": START, "version": 1}
OTHER = GOOD | {"arm": "pictures", "user_id": "b"}


def write(path, *entries):
    path.write_text("".join((entry if isinstance(entry, str) else json.dumps(entry)) + "\n" for entry in entries))
    return [path]


def append(path, arm, lines):
    with ExposureLog(path) as log:
        for n in range(lines):
            log.append("pictures", arm, f"{arm} {n} ü\n", f"{arm}-{n}", START + n, None)


def append_together(barrier, *arguments):
    barrier.wait()
    append(*arguments)


def test_processes_append_whole_lines(tmp_path):
    path = tmp_path / "exposures.jsonl"
    context = multiprocessing.get_context("spawn")  # a process with TensorFlow's threads must not fork
    barrier = context.Barrier(2, timeout=120)
    writers = [
        context.Process(target=append_together, args=(barrier, path, arm, 300)) for arm in ("control", "pictures")
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    found = read_exposures([path], EXPERIMENT)
    assert (found.lines, found.unfinished, len(found.page_ids)) == (600, 0, 600)
    assert sorted(found.user_ids.to_pylist()) == sorted(
        f"{a} {n} ü\n" for n in range(300) for a in ("control", "pictures")
    )


def test_a_line_that_was_not_finished_stays_alone(tmp_path):
    path = tmp_path / "exposures.jsonl"
    append(path, "control", 150)
    path.write_bytes(path.read_bytes()[:-9])
    append(path, "pictures", 150)
    with pytest.warns(UserWarning, match="1 of 300 lines of the exposures are no JSON objects"):
        found = read_exposures([path], EXPERIMENT)
    assert (found.lines, found.unfinished, len(found.user_ids)) == (299, 1, 299)


def test_the_first_exposure_of_a_user_and_of_a_page_counts(tmp_path):
    later = GOOD | {"timestamp": START + 5, "page_id": "q"}
    foreign = OTHER | {"experiment": "another", "user_id": "c"}
    paths = write(tmp_path / "one", later, foreign, OTHER) + write(tmp_path / "two", GOOD, GOOD | {"page_id": ""})
    found = read_exposures(paths, EXPERIMENT)
    assert found.user_ids.to_pylist() == ["a", "b"]
    assert (found.arm.tolist(), found.first.tolist(), found.lines) == ([0, 1], [START, START], 4)
    times = dict(zip(found.page_ids.to_pylist(), found.page_times.tolist(), strict=True))
    assert times == {"q": START + 5, "p": START}


@pytest.mark.parametrize(
    ("entries", "kind", "text"),
    [
        ([GOOD, GOOD | {"arm": "pictures"}], InputError, "1 of 1 users are in two arms of pictures (one is 'a', "),
        ([GOOD], InputError, "no user is in arm pictures of pictures; 1 are in the others"),
        ([GOOD, OTHER | {"arm": "C"}], InputError, "line 2: arm 'C' is none of pictures, which has control, pictures"),
        ([GOOD | {"experiment": "x"}], InputError, "none is of the experiment pictures; they are of x"),
        ([], InputError, "none is of the experiment pictures; the files are empty"),
        ([GOOD, "{"], ArtifactError, "1 of 2 lines are no JSON objects; at most 1 % may be"),
        ([GOOD | {"user_id": 7}], ArtifactError, "line 1: user_id must be text. Received: 7"),
        ([GOOD | {"user_id": ""}], ArtifactError, "line 1: user_id must be text. Received: ''"),
        ([GOOD | {"timestamp": START // 1000}], ArtifactError, "line 1: timestamp must be epoch milliseconds"),
    ],
)
def test_what_cannot_be_used_is_named(tmp_path, entries, kind, text):
    with pytest.raises(kind, match=re.escape(text)):
        read_exposures(write(tmp_path / "log", *entries), EXPERIMENT)
    with pytest.raises(ArtifactError, match=r"none: .* cannot be read|none cannot be read"):
        read_exposures([tmp_path / "none"], EXPERIMENT)
