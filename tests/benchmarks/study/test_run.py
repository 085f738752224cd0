from collections import Counter

from benchmarks.study.data import StudyData
from benchmarks.study.plan import METHODS, SEEDS, tries
from benchmarks.study.run import Study, cells, independent_groups, write_figures


def test_cells_have_a_file_each_and_come_after_what_they_need():
    every = cells(SEEDS)
    order = {cell.path: number for number, cell in enumerate(every)}
    assert len(order) == len(every)
    for cell in every:
        if cell.encoder is None or cell.kind == "tuning":
            continue
        needed = []
        if cell.encoder.method in METHODS:
            needed += [
                path for path in order if path.startswith(f"hm/tuning/{cell.encoder.method}-{cell.encoder.start}-")
            ]
            assert len(needed) == 4
        if cell.kind == "rankers":
            name = f"{cell.encoder.name}-{cell.size}" if cell.size else cell.encoder.name
            needed.append(f"{cell.data}/encoders/{name}-0")
        assert all(order[path] < order[cell.path] for path in needed), cell.path


def test_one_seed_of_everything_comes_before_the_next():
    seeds = [cell.seed for cell in cells(SEEDS)]
    assert seeds == sorted(seeds)
    assert {*seeds} == {*range(SEEDS)}


def test_parts_have_three_seeds_and_settings_one():
    seeds = Counter((cell.data, cell.encoder.name, cell.size) for cell in cells(SEEDS) if cell.kind == "encoders")
    three = [("hm", "courier-random", 0), ("hm", "courier-random-hinge", 0), ("world", "courier-random", 4_000)]
    one = [("hm", "courier-random-batch_16", 0), ("hm", "courier-random-half", 0), ("hm", "as_published-published", 0)]
    one += [("world", "courier-published", 4_000), ("sample", "courier-random", 0)]
    assert [seeds[name] for name in (*three, *one)] == [3] * 3 + [1] * 5


def test_groups_need_only_what_is_in_them_or_in_the_round_before():
    every = cells(1)
    rounds = independent_groups(every)
    assert sorted(cell.path for groups in rounds for group in groups for cell in group) == sorted(
        cell.path for cell in every
    )
    tuned = {cell.path for group in rounds[0] for cell in group if cell.kind == "tuning"}
    assert tuned == {cell.path for cell in every if cell.kind == "tuning"}
    for groups in rounds:
        for group in groups:
            paths = [cell.path for cell in group]
            for cell in group:
                if cell.kind == "rankers" and cell.encoder is not None:
                    name = f"{cell.encoder.name}-{cell.size}" if cell.size else cell.encoder.name
                    assert paths.index(f"{cell.data}/encoders/{name}-0") < paths.index(cell.path)


def test_a_variant_that_changes_nothing_is_the_same_encoder(tmp_path):
    study = Study(StudyData(tmp_path, tmp_path, tmp_path, tmp_path, quick=False), tmp_path)
    for number, name in enumerate(tries("courier", "random")):
        path = tmp_path / f"hm/tuning/courier-random-{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_figures(path, {"validation": {"raw": 0.5, "whitened": 0.6 if number == 1 else 0.55}})
    changes = {
        cell.encoder.variant: study.changes(cell)
        for cell in cells(1)
        if cell.path.startswith("hm/encoders/courier-random-")
    }
    assert changes[""] == changes["temperature_0.05"] == changes["batch_64"] == ("optimizer.learning_rate=0.0003",)
    assert changes["temperature_0.1"] == ("optimizer.learning_rate=0.0003", "courier.temperature=0.1")
    assert changes["batch_16"] == ("optimizer.learning_rate=0.0003", "batch_size=16")
