"""Reward models on ranked rows: objectives, what is encoded, the safety head from training to averaging, the counts."""

import json
from xml.etree import ElementTree

import pytest
import torch
from trl import ModelConfig

from llama_align import recipe
from llama_align.averaging import average_checkpoints
from llama_align.data import GRADES, Preference, ranking_rows
from llama_align.metrics.functional import calibration, length_correlation, reward_accuracy
from llama_align.report import reward_pictures
from llama_align.rewards import RewardScorer
from llama_align.trainers import HerdRewardConfig, HerdRewardTrainer, margin_table, pair_metrics, score_pairs

from .differences import graded
from .plain import plain_reward


@pytest.fixture
def trainer_of(checkpoint, tokenizer, settings):
    paths = {labels: checkpoint("reward", **({"num_labels": labels} if labels > 1 else {})) for labels in (1, 2)}

    def make(records=None, listwise=True, margin="small", path=None, **changes) -> HerdRewardTrainer:
        records = graded(24) if records is None else records
        rows, _ = ranking_rows(records, tokenizer, 200, margin_table(margin), listwise=listwise)
        labels = 2 if changes.get("safety_coefficient") else 1
        return HerdRewardTrainer(
            model=recipe.load_model(path or paths[labels], "reward"),
            args=HerdRewardConfig(**settings | {"per_device_train_batch_size": 4, "margin": margin} | changes),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


@pytest.fixture
def scored(trainer_of, tokenizer):
    """Rows, and every score of an untrained model from a pass of its own."""
    trainer = trainer_of()
    scorer = RewardScorer(trainer.model, tokenizer.pad_token_id)
    return list(trainer.train_dataset), score_pairs(scorer, trainer.train_dataset)


def test_a_prompt_is_encoded_once_for_all_its_answers(trainer_of):
    trainer = trainer_of(per_device_train_batch_size=2)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(2)])
    seen, inner = [], trainer.model.model.forward
    trainer.model.model.forward = lambda *args, **kwargs: (seen.append(kwargs["input_ids"]), inner(*args, **kwargs))[1]
    trainer.compute_loss(trainer.model, batch)
    (ids,) = seen
    answers = [answer for i in range(2) for answer in trainer.train_dataset[i]["answers_ids"]]
    prompts = [trainer.train_dataset[i]["prompt_length"] for i in range(2)]
    own = sum(len(answer) for answer in answers) - sum(
        length * (len(trainer.train_dataset[i]["answers_ids"]) - 1) for i, length in enumerate(prompts)
    )
    assert len(answers) > 6  # more than pairs of two
    assert ids.numel() <= own  # answers that begin alike share that, too


def test_in_float64_loss_and_gradients_are_those_of_the_plain_implementation(checkpoint, tokenizer, settings):
    terms = {"margin": 0.5, "bradley_terry": 1.0, "center": 0.1}
    rows, _ = ranking_rows(graded(24), tokenizer, 200, margin_table("small"), listwise=True)
    path = checkpoint("reward", num_labels=2)
    trainer = HerdRewardTrainer(
        recipe.load_model(path, "reward", dtype=torch.float64),
        args=HerdRewardConfig(**settings, objectives=terms, safety_coefficient=0.5),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(list(rows)))
    loss.backward()
    plain = recipe.load_model(path, "reward", dtype=torch.float64)
    wanted = plain_reward(plain, rows, terms, 0.5)
    wanted.backward()
    assert loss.dtype == torch.float64
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.grad, plain.get_parameter(name).grad, atol=1e-10, rtol=0, msg=name)


def test_rows_with_and_without_a_margin_in_one_batch(trainer_of, tokenizer):
    trainer = trainer_of(margin="large")
    batch = trainer.data_collator(list(trainer.train_dataset)[:4])
    assert {0.0, 1.0, 2.0, 3.0} >= set(batch["margin"].tolist())
    assert len(set(batch["margin"].tolist())) > 1
    assert batch["grade"].min() == -1
    assert batch["margin"][batch["grade"] == -1].eq(0).all()
    pairs = [  # as other tools write them: margin and grade where known
        {"chosen_ids": [5, 6, 7], "rejected_ids": [5, 8], "margin": 2.0, "grade": 1},
        {"chosen_ids": [5, 6], "rejected_ids": [5, 9, 9], "margin": None, "grade": None},
        {"chosen_ids": [5, 6], "rejected_ids": [5, 9, 9]},
    ]
    batch = trainer.data_collator(pairs)
    assert batch["margin"].tolist() == [2.0, 0.0, 0.0]
    assert batch["grade"].tolist() == [1, -1, -1]
    assert trainer.compute_loss(trainer.model, batch).isfinite()


def test_objectives_add_up_and_unknown_ones_are_refused(trainer_of, settings):
    batches = {}
    for names in (("margin",), ("bradley_terry",), ("margin", "bradley_terry", "center")):
        trainer = trainer_of(objectives=dict.fromkeys(names, 0.5))
        trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        batches[names] = trainer.compute_loss(trainer.model, batch).item()
        trainer.log(logs := {})
        parts = {name: logs[f"loss/{name}"] for name in names}
        assert batches[names] == pytest.approx(0.5 * sum(parts.values()), rel=1e-6)
    assert batches[("margin",)] != batches[("bradley_terry",)]
    for wrong in ({"margins": 1.0}, {"center": 1.0}, {}):
        with pytest.raises(ValueError, match=r"objectives: found .* expected margin or bradley_terry"):
            HerdRewardConfig(**settings, objectives=wrong)
    with pytest.raises(ValueError, match="beside the objective center"):
        HerdRewardConfig(**settings, objectives={"margin": 1, "center": 0.1}, center_rewards_coefficient=0.1)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_what_is_logged_is_what_the_pairs_say_under_any_split(trainer_of, scored, size):
    _, whole = scored
    trainer = trainer_of(
        per_device_train_batch_size=size,
        learning_rate=0.0,
        max_steps=-1,
        num_train_epochs=1,
        logging_steps=1000,
        per_device_eval_batch_size=size,
    )
    trainer.train()
    logs = [next(row for row in trainer.state.log_history if "accuracy" in row)]
    logs.append(trainer.evaluate(trainer.train_dataset))
    batch = trainer.data_collator(list(trainer.train_dataset))
    loss = trainer.compute_loss(trainer.model, batch).item()
    assert logs[1]["eval_loss"] == pytest.approx(loss, rel=1e-5)
    lengths = [[whole.lengths[pair[side]] for pair in whole.pairs] for side in (0, 1)]
    wanted = reward_accuracy(whole.chosen, whole.rejected, whole.grades, *lengths, objectives=whole.objectives)
    gaps = [c - r for c, r in zip(whole.chosen, whole.rejected, strict=True)]
    for prefix, logged in zip(("", "eval_"), logs, strict=True):
        assert logged[f"{prefix}accuracy"] == pytest.approx(wanted["accuracy"])
        assert logged[f"{prefix}loss/margin"] == pytest.approx(loss, rel=1e-5)
        assert logged[f"{prefix}longer_wins"] == pytest.approx(wanted["longer_wins"])
        assert logged[f"{prefix}accuracy/helpfulness"] == pytest.approx(wanted["accuracy"])
        assert logged[f"{prefix}ece"] == pytest.approx(calibration(gaps)["ece"], abs=1e-4)
        found = logged[f"{prefix}length_correlation"]
        assert found == pytest.approx(length_correlation(whole.lengths, whole.scores), abs=1e-4)
        for grade in GRADES:
            assert logged[f"{prefix}accuracy/{grade}"] == pytest.approx(wanted["by_grade"][grade]["accuracy"])


def test_pair_metrics_and_their_pictures(scored, tmp_path):
    _, whole = scored
    metrics = pair_metrics(whole)
    assert set(metrics) >= {"accuracy", "longer_wins", "by_grade", "by_objective", "ece", "reliability", "scores"}
    assert metrics["n"] == len(whole.pairs)
    assert metrics["scores"]["chosen"]["n"] == len(whole.pairs)
    assert sum(row["n"] for row in metrics["by_grade"].values()) < metrics["n"]  # edited > chosen has no grade
    json.dumps(metrics, allow_nan=False)
    pictures = reward_pictures(whole.chosen, whole.rejected, metrics)
    assert set(pictures) == {"scores", "reliability", "accuracy"}
    for picture in pictures.values():
        assert picture.startswith("<svg")
        assert 'xmlns="http://www.w3.org/2000/svg"' in picture
        assert "var(--" not in picture  # the colours of a page are not there
        ElementTree.fromstring(picture)  # a picture of its own, not a piece of a page
    assert pictures == reward_pictures(whole.chosen, whole.rejected, metrics)


def test_a_safety_head_is_trained_saved_loaded_averaged_and_left_out_by_critics(trainer_of, tmp_path, tokenizer):
    paths = []
    for seed in (0, 1):
        trainer = trainer_of(
            safety_coefficient=1.0, max_steps=20, learning_rate=3e-3, seed=seed, output_dir=str(tmp_path / f"run{seed}")
        )
        before = trainer.model.score.weight.clone()
        trainer.train()
        assert ((trainer.model.score.weight - before).abs().amax(1) > 1e-3).all()  # both outputs learned
        recipe.finish(trainer, {})
        paths.append(str(tmp_path / f"run{seed}"))
    logs = [row for row in trainer.state.log_history if "loss/safety_head" in row]
    assert logs[-1]["loss/safety_head"] < logs[0]["loss/safety_head"]
    assert 0 <= logs[-1]["safety_head/accuracy"] <= 1
    average = tmp_path / "average"
    average_checkpoints(paths, average)
    recipe.load_tokenizer(paths[0]).save_pretrained(average)
    weights = [recipe.load_model(path, "reward").score.weight for path in (*paths, str(average))]
    torch.testing.assert_close(weights[2], (weights[0] + weights[1]) / 2)
    for path in (*paths, str(average)):
        model = recipe.load_model(path, "reward", new_head=False)
        assert model.config.id2label == {0: "score", 1: "safety"}
        critic = recipe.load_model(path, "value", new_head=False)
        assert critic.score.weight.shape == (1, 32)
        assert critic.config.num_labels == 1
        ids = trainer.train_dataset[0]["answers_ids"][0]
        with torch.no_grad():
            score, safety = model.eval()(torch.tensor([ids])).logits[0].tolist()
            value = critic.eval()(torch.tensor([ids])).logits[0, -1].tolist()
        assert value == pytest.approx([score], abs=1e-5)
        assert recipe.load_reward_model(path).scorer.score([ids]) == pytest.approx([score], abs=1e-5)
        assert safety != score


def test_a_model_of_other_outputs_than_asked_for_is_refused(trainer_of, checkpoint):
    two = checkpoint("reward", num_labels=2)
    with pytest.raises(ValueError, match="model: found 2 outputs, expected 1"):
        trainer_of(path=two)
    with pytest.raises(recipe.RecipeError, match="found a reward model of 2 outputs, expected 1"):
        recipe.load_model(two, "reward", num_labels=1)


def test_rows_without_a_safety_label_train_the_score_alone(trainer_of):
    ask = [{"role": "user", "content": "bado"}]
    records = [Preference(ask, f"kilu {i}", "mete", "better", "safety") for i in range(4)]
    trainer = trainer_of(records, listwise=False, safety_coefficient=1.0)
    trainer.compute_loss(trainer.model, trainer.data_collator(list(trainer.train_dataset))).backward()
    gradient = trainer.model.score.weight.grad
    assert gradient[0].abs().max() > 0
    assert gradient[1].abs().max() == 0


def test_lora_saves_both_outputs_of_the_head(checkpoint, tokenizer, settings, tmp_path):
    base = checkpoint()  # a chat model, as reward models start from
    rows, _ = ranking_rows(graded(12), tokenizer, 200, margin_table("small"), listwise=True)
    options = {"safety_coefficient": 1.0, "max_steps": 2, "output_dir": str(tmp_path / "lora")}
    trainer = HerdRewardTrainer(
        recipe.load_model(base, "reward", num_labels=2),
        args=HerdRewardConfig(**settings | options),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=recipe.lora_config(ModelConfig(use_peft=True, lora_r=2), reward=True),
    )
    trainer.train()
    recipe.finish(trainer, {})
    ids = torch.tensor([rows[0]["answers_ids"][0]])
    loaded = recipe.load_model(str(tmp_path / "lora"), "reward", new_head=False)
    with torch.no_grad():
        ours, theirs = (model.eval()(input_ids=ids).logits for model in (trainer.model, loaded))
    assert theirs.shape == (1, 2)
    torch.testing.assert_close(ours, theirs)
    score = recipe.load_reward_model(str(tmp_path / "lora")).scorer.score(ids.tolist())
    assert score == pytest.approx([ours[0, 0].item()], abs=1e-5)
