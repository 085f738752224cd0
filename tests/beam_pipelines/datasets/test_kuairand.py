import pytest

from beam_pipelines.datasets.kuairand import main
from beam_pipelines.shell.command import CommandError
from tests.beam_pipelines.datasets.test_kuairand_logs import make_source


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
    with pytest.raises(CommandError, match="exists; pass --overwrite"):
        main([*arguments, str(source)])
    with pytest.raises(CommandError, match=r"^--source: no directory .*nowhere; downloading KuaiRand-Pure makes it"):
        main([*arguments, str(tmp_path / "nowhere")])
