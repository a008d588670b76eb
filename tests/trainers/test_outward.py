"""Options of what leaves a run: refused where they would publish a pickle, a token or a Space."""

import pytest

from llama_align.trainers import HerdSFTConfig


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"hub_token": "x"}, "hub_token: found one, expected none"),
        ({"hub_strategy": "all_checkpoints"}, "hub_strategy: found all_checkpoints, expected end"),
        ({"report_to": "wandb"}, "report_to: found wandb, expected tracker: wandb"),
        ({"report_to": ["trackio"]}, "report_to: found trackio, expected tracker: trackio"),
        ({"report_to": "all"}, "report_to: found all, expected tracker: one of"),
        ({"tracker": "neptune"}, "tracker: found 'neptune', expected one of"),
    ],
)
def test_what_would_leave_is_refused_by_name(options, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        HerdSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, **options)


def test_a_tracker_and_another_integration_do_not_go_together(tmp_path, monkeypatch):
    monkeypatch.setattr("llama_align.trainers.outward.check_tracker", lambda name: None)
    with pytest.raises(
        ValueError, match="report_to: found mlflow beside tracker: tensorboard, expected one of the two"
    ):
        HerdSFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, tracker="tensorboard", report_to="mlflow")
