import pytest

from beam_pipelines.command import CommandError
from models.config import load_config
from models.ctr.config import TrainingConfig


def test_overrides_reach_into_sections_and_keep_the_rest():
    config = load_config(TrainingConfig, None, ["epochs=3", "ranker.lengths.click=9", "ranker.mlp_units=[8, 4]"])
    assert (config.epochs, config.ranker.lengths.click, config.ranker.mlp_units) == (3, 9, (8, 4))
    assert config.ranker.lengths.pay == TrainingConfig().ranker.lengths.pay


def test_yaml_round_trip(tmp_path):
    config = load_config(TrainingConfig, None, ["learning_rate=1", "ranker.attention_normalization=softmax"])
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert load_config(TrainingConfig, str(tmp_path / "config.yaml")) == config
    assert load_config(TrainingConfig, str(tmp_path / "config.yaml"), ["epochs=1"]).epochs == 1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=3", "unknown key epoch .known: .*epochs"),
        ("ranker.dim=3", "unknown key ranker.dim .known: .*item_dim"),
        ("ranker.lengths.click=-1", "ranker.lengths.click: .*Received: -1"),
        ("epochs=many", "epochs: .*Received: 'many'"),
        ("epochs=1.5", "epochs: "),
        ("epochs=true", "epochs: "),
        ("ranker.attention_normalization=mean", "ranker.attention_normalization: "),
        ("epochs", "--set: expected key=value. Received: epochs"),
        ("epochs.x=1", "configuration: epochs"),
        ("epochs=[", "not valid YAML"),
    ],
)
def test_errors_name_the_key(override, message):
    with pytest.raises(CommandError, match=message):
        load_config(TrainingConfig, None, [override])


def test_a_missing_file_lists_the_presets(tmp_path):
    with pytest.raises(CommandError, match="--config: no file nowhere and no preset of that name"):
        load_config(TrainingConfig, "nowhere")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(CommandError, match="must be a mapping"):
        load_config(TrainingConfig, str(tmp_path / "list.yaml"))
