"""Reward models: Llama 2's margins, the ranking loss by hand, where a score is read, accuracy as sums over counts."""

import math

import pytest
import torch

from llama_align import recipe
from llama_align.chat.dialects import EOT, PAD
from llama_align.data import GRADES, full_rows, preference_rows
from llama_align.rewards.scoring import RewardScorer
from llama_align.trainers import HerdRewardConfig, HerdRewardTrainer, margin_table, pair_metrics, score_pairs
from llama_align.trainers.heldout import no_better_than_length
from llama_align.trainers.reward import ranking_loss


@pytest.fixture(scope="module")
def reward_path(checkpoint):
    return checkpoint("reward")


@pytest.fixture
def trainer_of(reward_path, tokenizer, settings, preferences):
    def make(count: int = 8, margin="small", processing_class=None, **changes) -> HerdRewardTrainer:
        rows = preference_rows(preferences(count), tokenizer, 160, margin_table(margin))[0]
        return HerdRewardTrainer(
            model=recipe.load_model(reward_path, "reward"),
            args=HerdRewardConfig(**settings | {"per_device_train_batch_size": 8, "margin": margin} | changes),
            train_dataset=full_rows(rows),
            processing_class=processing_class or tokenizer,
        )

    return make


def scores_of(path: str, sequences) -> list[float]:
    """Each sequence alone, read at its last token."""
    model = recipe.load_model(path, "value").eval()
    with torch.no_grad():
        return [model(torch.tensor([ids])).logits[0, -1, 0].item() for ids in sequences]


def test_margins_are_those_of_llama_2():
    assert margin_table("none") == dict.fromkeys(GRADES, 0.0)
    assert list(margin_table("small").items()) == [
        ("significantly_better", 1.0),
        ("better", 2 / 3),
        ("slightly_better", 1 / 3),
        ("negligibly_better", 0.0),
    ]
    assert list(margin_table("large").values()) == [3.0, 2.0, 1.0, 0.0]
    own = {grade: i for i, grade in enumerate(GRADES)}
    assert margin_table(own) == own


def test_margins_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="margin: found 'huge', expected one of none, small, large"):
        margin_table("huge")
    with pytest.raises(ValueError, match=r"margin: found grades \['better'\], expected exactly significantly_better"):
        margin_table({"better": 1.0})


def test_ranking_loss_by_hand():
    chosen, rejected, margin = torch.tensor([2.0, -1.0]), torch.tensor([0.5, 1.0]), torch.tensor([1.0, 0.0])
    wanted = [math.log(1 + math.exp(-0.5)), math.log(1 + math.exp(2.0))]
    assert ranking_loss(chosen, rejected, margin).tolist() == pytest.approx(wanted)
    assert ranking_loss(chosen.bfloat16(), rejected.bfloat16(), margin).dtype == torch.float32
    far = ranking_loss(torch.tensor([-300.0]), torch.tensor([300.0]), torch.tensor([3.0]))
    assert far.item() == pytest.approx(603.0)


@pytest.mark.parametrize("columns", [(0,), (0, 1), (2,)])
def test_scores_of_another_shape_than_margins_are_refused(columns):
    tensors = [torch.zeros(4) for _ in range(3)]
    for column in columns:
        tensors[column] = tensors[column][:, None]
    with pytest.raises(ValueError, match="expected three equal ones"):
        ranking_loss(*tensors)


@pytest.mark.parametrize("margin", ["none", "small", "large"])
@pytest.mark.parametrize("centred", [None, 0.01])
def test_the_loss_equals_a_hand_computation(trainer_of, reward_path, margin, centred):
    trainer = trainer_of(margin=margin, center_rewards_coefficient=centred)
    rows = list(trainer.train_dataset)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows)).item()
    chosen = scores_of(reward_path, [row["chosen_ids"] for row in rows])
    rejected = scores_of(reward_path, [row["rejected_ids"] for row in rows])
    table = list(margin_table(margin).values())
    terms = [
        math.log1p(math.exp(-(c - r - table[row["grade"]]))) + (centred or 0) * (c + r) ** 2
        for c, r, row in zip(chosen, rejected, rows, strict=True)
    ]
    assert loss == pytest.approx(sum(terms) / len(terms), rel=1e-4)


def test_a_tokenizer_that_pads_with_its_end_does_not_move_the_score(trainer_of, reward_path, tokenizer):
    """pad == eos is how many tokenizers come: the last token of an answer would be taken for padding."""
    from copy import deepcopy

    careless = deepcopy(tokenizer)
    careless.pad_token = EOT
    trainer = trainer_of(processing_class=careless)
    rows = list(trainer.train_dataset)
    batch = trainer.data_collator(rows)
    with torch.no_grad():
        out = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    alone = scores_of(reward_path, [row[key] for row in rows for key in ("chosen_ids", "rejected_ids")])
    assert out.tolist() == pytest.approx(alone, abs=1e-5)
    assert careless.pad_token == PAD


def test_accuracy_by_grade_is_a_sum_over_counts(trainer_of, reward_path, preferences, tokenizer):
    """Batches of 3 out of 14 pairs hold different numbers of each grade: a mean of batch means would be wrong."""
    trainer = trainer_of(
        14,
        learning_rate=0.0,
        per_device_train_batch_size=3,
        max_steps=-1,
        num_train_epochs=1,
        logging_steps=5,
        per_device_eval_batch_size=4,
    )
    rows = list(trainer.train_dataset)
    chosen = scores_of(reward_path, [row["chosen_ids"] for row in rows])
    rejected = scores_of(reward_path, [row["rejected_ids"] for row in rows])
    right = [c > r for c, r in zip(chosen, rejected, strict=True)]
    trainer.train()
    logs = [trainer.state.log_history[0], trainer.evaluate(trainer.train_dataset)]
    for prefix, logged in zip(("", "eval_"), logs, strict=True):
        assert logged[f"{prefix}accuracy"] == pytest.approx(sum(right) / 14)
        assert logged[f"{prefix}score/chosen"] == pytest.approx(sum(chosen) / 14, abs=1e-5)
        assert logged[f"{prefix}score/rejected"] == pytest.approx(sum(rejected) / 14, abs=1e-5)
        for number, grade in enumerate(GRADES):
            of_grade = [hit for hit, row in zip(right, rows, strict=True) if row["grade"] == number]
            assert logged[f"{prefix}accuracy/{grade}"] == pytest.approx(sum(of_grade) / len(of_grade))


def test_a_batch_cut_into_eight_gives_the_same_weights(trainer_of):
    weights = []
    for rows, steps in ((8, 1), (1, 8)):
        trainer = trainer_of(per_device_train_batch_size=rows, gradient_accumulation_steps=steps, optim="sgd")
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert any((weights[0][name] - before[name]).abs().max() > 1e-4 for name in before)
    assert all((tensor - weights[1][name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


def test_seven_rows_in_two_batches_of_a_step_weigh_the_same(trainer_of):
    weights, losses = [], []
    for rows, steps in ((7, 1), (4, 2)):
        trainer = trainer_of(
            7, per_device_train_batch_size=rows, gradient_accumulation_steps=steps, optim="sgd", max_grad_norm=0.0
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert all((tensor - weights[1][name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


def test_a_model_that_a_ruler_would_do_as_well_as_is_told():
    for accuracy, longer, told in ((0.7, 0.7, True), (0.71, 0.7, False), (0.6, 0.3, True), (0.6, 0.5, False)):
        said = no_better_than_length({"accuracy": accuracy, "longer_wins": longer})
        assert bool(said) == told
    assert "71.0% of the held-out pairs ranked right" in no_better_than_length({"accuracy": 0.71, "longer_wins": 1.0})


def test_training_learns_the_order_and_pair_metrics_see_it(trainer_of, tokenizer):
    trainer = trainer_of(max_steps=30, learning_rate=3e-3)
    trainer.train()
    scorer = RewardScorer(trainer.model, tokenizer.pad_token_id)
    metrics = pair_metrics(score_pairs(scorer, trainer.train_dataset))
    assert metrics["accuracy"] == 1.0
