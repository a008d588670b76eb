"""What PPO takes as a reward and as a prompt."""

import pytest
import torch
from datasets import Dataset

from llama_align import recipe
from llama_align.chat import encode_text
from llama_align.rewards.models import RewardModel, RewardModels, llama2_reward
from llama_align.trainers.ppo.rewards import Scorer


def read(trainer) -> dict[str, float]:
    return trainer.tallies["train"].read(lambda tensor: tensor)


def test_a_function_may_return_plain_numbers(trainer_of, rollout):
    def length(prompts, answers, finished, rows):
        return [len(answer) for answer in answers]

    trainer = trainer_of(length)
    rollout(trainer)
    means = read(trainer)
    assert means["reward"] == means["rewards/length"] > 0


def test_a_function_reads_a_call_as_text():
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"name": "code_interpreter", "arguments": {"code": "x"}}],
    }

    def said(prompts, answers, finished, rows):
        return [len(answer) if answer.startswith("<|python_tag|>") else 0 for answer in answers]

    _, combined_B = Scorer(said, 0.15)([[]] * 2, [call, "x"], [True] * 2, [{}] * 2, "cpu")
    assert combined_B.tolist() == [len("<|python_tag|>x"), 0]


def test_of_helpfulness_and_safety_llama_2s_combination_is_the_default(trainer_of, rollout):
    helpful, safe = [1.0] * 8, [-3.0, 2.0] * 4  # sigmoid(-3) is below 0.15, sigmoid(2) above

    def reward(prompts, answers, finished, rows):
        return {"helpfulness": helpful, "safety": safe}

    for options, threshold in (({}, 0.15), ({"safety_threshold": 0.01}, 0.01)):
        trainer = trainer_of(reward, whiten_scores=False, **options)
        rollout(trainer)
        wanted = llama2_reward(torch.tensor(helpful), torch.tensor(safe), torch.zeros(8).bool(), threshold)
        assert read(trainer)["reward"] == pytest.approx(wanted.mean().item())


def test_of_any_others_the_sum_is_optimised(trainer_of, rollout, checkpoint, tokenizer):
    scores = {"helpfulness": [1.0] * 8, "safety": [-3.0] * 8, "style": [0.5] * 8, "brevity": [0.25] * 8}

    def reward_of(trainer):
        rollout(trainer)
        return read(trainer)["reward"]

    assert reward_of(trainer_of(lambda *_: scores)) == pytest.approx(-3.0 + 0.75)
    assert reward_of(trainer_of(lambda *_: scores | {"combined": [7.0] * 8})) == pytest.approx(7.0)
    assert reward_of(trainer_of(lambda *_: {"a": [1.0] * 8, "b": [2.0] * 8})) == pytest.approx(3.0)
    model = RewardModel(recipe.load_model(checkpoint("reward", seed=4), "reward"), tokenizer)
    trainer = trainer_of({"a": model, "b": model})
    rollout(trainer)
    means = read(trainer)
    assert means["reward"] == pytest.approx(means["rewards/a"] + means["rewards/b"], rel=1e-6)


def test_reward_models_that_were_loaded_before_follow_the_trainers_threshold(trainer_of, checkpoint, tokenizer):
    model = RewardModel(recipe.load_model(checkpoint("reward", seed=4), "reward"), tokenizer)
    loaded = RewardModels({"helpfulness": model, "safety": model}, threshold=0.15)
    assert trainer_of(loaded, safety_threshold=0.4).scorer.reward.threshold == 0.4
    with pytest.raises(ValueError, match="reward: found str, expected a function or reward models"):
        trainer_of("runs/reward")
    with pytest.raises(ValueError, match="models: found none"):
        trainer_of({})


def test_without_a_kl_term_no_kl_is_logged(trainer_of, rollout):
    for beta in (0.0, 0.1):
        trainer = trainer_of(beta=beta)
        rollout(trainer)
        assert ("kl" in read(trainer)) == (beta > 0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([1.0] * 7, r"reward <lambda>: found \(7,\), expected 8 scores"),
        ([float("nan")] * 8, "reward <lambda>: found nan for"),
    ],
)
def test_scores_that_cannot_be_learned_from_are_refused(trainer_of, rollout, found, message):
    with pytest.raises(ValueError, match=message):
        rollout(trainer_of(lambda *_: found))


def test_reward_models_read_with_tokenizers_of_their_own(trainer_of, rollout, checkpoint, tokenizer, llama2_tokenizer):
    ids = {name: getattr(llama2_tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    other = recipe.load_model(checkpoint("reward", seed=5, vocab_size=len(llama2_tokenizer), **ids), "reward")
    models = {
        "helpfulness": RewardModel(recipe.load_model(checkpoint("reward", seed=4), "reward"), tokenizer),
        "safety": RewardModel(other, llama2_tokenizer),
    }
    trainer = trainer_of(models)
    batch = rollout(trainer)
    means = read(trainer)
    prompts = [trainer.train_dataset[i]["prompt"] for i in range(8)]
    answers, finished = [], []
    for ids, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True):
        kept = ids[mask.bool()].tolist()
        finished.append(kept[-1] in trainer.tokens.terminators)
        answers.append(tokenizer.decode(kept, skip_special_tokens=True).strip())
    for name, model in models.items():
        wanted = torch.tensor(model.score(prompts, answers, finished)).mean().item()
        assert means[f"rewards/{name}"] == pytest.approx(wanted, abs=1e-5), name
    alone = trainer_of(models["safety"])
    rollout(alone)
    assert read(alone)["reward"] == pytest.approx(means["rewards/safety"])


def test_a_prompt_that_is_text_is_continued(trainer_of, rollout, tokenizer):
    seen = {}

    def reward(prompts, answers, finished, rows):
        seen.update(prompts=prompts, answers=answers)
        return [0.0] * len(answers)

    trainer = trainer_of(reward, rows=Dataset.from_list([{"prompt": f"bado {n} kilu"} for n in range(16)]))
    batch = rollout(trainer)
    ids = batch["prompt_ids"][3][batch["prompt_mask"][3].bool()].tolist()
    assert ids == [tokenizer.bos_token_id, *encode_text(tokenizer, "bado 3 kilu")]
    assert seen["prompts"][3] == "bado 3 kilu"
    kept = batch["completion_ids"][3][batch["completion_mask"][3].bool()].tolist()
    # as it was written, spaces included
    assert seen["answers"][3] == tokenizer.decode(kept, skip_special_tokens=True)
    trainer.train()


def test_text_is_refused_where_the_reward_reads_dialogs(trainer_of, rollout, critic_path, tokenizer):
    model = RewardModel(recipe.load_model(critic_path, "reward"), tokenizer)
    trainer = trainer_of(model, rows=Dataset.from_list([{"prompt": "bado"}] * 16))
    with pytest.raises(ValueError, match="reward: found prompts of plain text, expected conversations"):
        rollout(trainer)
