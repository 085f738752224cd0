import pytest

from beam_pipelines.datasets.kuairand import main
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.datasets.test_kuairand_logs import make_source
from tests.beam_pipelines.datasets.test_kuairand_logs_official import make


def test_the_command_writes_logs_and_says_what_is_in_them(tmp_path, capsys):
    source = make_source(tmp_path / "source")
    arguments = ["--output", str(tmp_path / "logs"), "--source"]
    closing = main([*arguments, str(source)])
    printed = capsys.readouterr().out
    assert "impressions that repeat a user, video and time: 1\n" in printed
    assert "long views without a click, no conversions: 1\n" in printed
    assert "before their first impression: 1\n" in printed
    assert "5 pages with 9 candidates, 4 of them clicked, 4 earlier clicks" in closing
    assert "inferred pages" in closing
    clicked = ["--clicked", "long_view", "--source", str(source), "--output", str(tmp_path / "long_views")]
    assert "9 candidates, 3 of them clicked" in main(clicked)
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        main([*arguments, str(source)])
    with pytest.raises(
        CommandError, match=r"^--source: no directory or archive .*nowhere; downloading KuaiRand-Pure makes it"
    ):
        main([*arguments, str(tmp_path / "nowhere")])


def test_the_publishers_archive_and_what_of_it_is_not_read(tmp_path, capsys):
    source = make(tmp_path / "KuaiRand-Pure.tar.gz")
    assert "5 pages with 6 candidates" in main(["--source", str(source), "--output", str(tmp_path / "logs")])
    printed = capsys.readouterr().out
    assert "not read: log_random_4_22_to_5_08_pure.csv, video_features_statistic_pure.csv\n" in printed
    assert "rows of log_standard_4_08_to_4_21_pure.csv: 3\n" in printed
    options = ["--source", str(source), "--output", str(tmp_path / "both"), "--random-exposure", "pages"]
    assert "7 pages with 9 candidates" in main(options)
    assert "not read: video_features_statistic_pure.csv\n" in capsys.readouterr().out
