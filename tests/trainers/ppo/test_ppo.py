"""PPO: what a first batch must look like, that it learns, and that a resumed run is the undisturbed one bit for bit."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from llama_align import recipe
from llama_align.chat import ControlTokens, encode_text, render_prompt
from llama_align.sampling.native import NativeEngine
from llama_align.trainers.ppo.math import gae, policy_loss, token_rewards, value_loss, whiten


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_on_the_first_batch_the_ratio_is_one_and_the_kl_zero(trainer_of, temperature, logged):
    """Whatever the sampling temperature: log-probabilities are the model's own, before any warping."""
    trainer = trainer_of(beta=0.1, temperature=temperature)
    trainer.train()
    assert logged(trainer, "policy/ratio") == pytest.approx([1.0], abs=1e-5)
    assert logged(trainer, "kl") == pytest.approx([0.0], abs=1e-5)
    assert logged(trainer, "policy/approx_kl") == pytest.approx([0.0], abs=1e-9)
    assert logged(trainer, "policy/clip_fraction") == [0.0]
    assert logged(trainer, "objective/rlhf") == pytest.approx(logged(trainer, "reward"), abs=1e-5)


@pytest.mark.parametrize("whitened", [True, False])
def test_a_rollout_holds_what_the_formulas_say(trainer_of, causal_path, critic_path, tokenizer, whitened, rollout):
    settings = {"beta": 0.1, "gamma": 0.97, "lam": 0.9, "whiten_scores": whitened, "whiten_advantages": whitened}
    settings["check_first_batch"] = False
    trainer = trainer_of(truncation_penalty=0.7, per_device_train_batch_size=4, steps_per_generation=2, **settings)
    with torch.no_grad():  # the policy has moved away from its reference
        for weight in trainer.policy.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    batch = rollout(trainer)
    tokens, reference, critic = (
        ControlTokens.of(tokenizer),
        *(recipe.load_model(path, kind).eval() for path, kind in ((causal_path, "causal"), (critic_path, "value"))),
    )
    scores, cut, per_answer = [], [], []
    for row in range(8):
        prompt = render_prompt(tokenizer, trainer.train_dataset[row]["prompt"])
        answer = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        cut.append(answer[-1] not in tokens.terminators)
        text = tokenizer.decode([i for i in answer if i not in tokens.terminators], skip_special_tokens=True).strip()
        scores.append(text.count("a") / max(1, len(text)))
        ids = torch.tensor([prompt + answer])
        with torch.no_grad():
            logps = [
                m(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0]
                for m in (trainer.policy.eval(), reference)
            ]
            per_answer.append((*logps, critic(ids).logits[0, len(prompt) - 1 : -1, 0]))
    mask = batch["completion_mask"].float()
    old, fixed, values = (
        torch.nn.utils.rnn.pad_sequence([answer[i] for answer in per_answer], batch_first=True) for i in range(3)
    )
    score = torch.tensor(scores)
    if whitened:
        score = whiten(score, torch.ones(8))
    score = score - 0.7 * torch.tensor(cut)
    rewards = token_rewards(score, (old - fixed) * mask, mask, 0.1)
    advantages, returns = gae(rewards, values, mask, 0.97, 0.9)
    if whitened:
        advantages = whiten(advantages, mask)
    for name, wanted in (("old_logps", old), ("old_values", values), ("advantages", advantages), ("returns", returns)):
        assert (batch[name] * mask - wanted * mask).abs().max() < 2e-4, name
    assert any(cut)


def test_one_step_moves_policy_and_critic_by_their_gradients_alone(trainer_of, weights):
    """With plain SGD each step's change is the rate times that step's gradient: nothing of an earlier one is left."""
    trainer = trainer_of(optim="sgd", learning_rate=0.1, value_learning_rate=0.2, max_steps=3, max_grad_norm=1e9)
    seen = []

    class Watch(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            inputs = trainer._buffered_inputs[0]
            mask = inputs["completion_mask"].bool()
            found = trainer._evaluate(trainer.model, inputs)
            critic_loss = value_loss(found.values, inputs["old_values"], inputs["returns"], 0.2)[mask].mean()
            policy = policy_loss(found.logps, inputs["old_logps"], inputs["advantages"], 0.2)[mask].mean()
            parts = ((trainer.value_model, 0.1 * critic_loss, 0.2), (trainer.policy, policy, 0.1))
            for module, loss, rate in parts:
                parameters = list(module.parameters())
                for weight, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    seen.append((weight, weight.detach() - rate * gradient))

        def on_optimizer_step(self, args, state, control, **kwargs):
            assert seen
            for weight, wanted in seen:
                torch.testing.assert_close(weight.detach(), wanted, atol=1e-6, rtol=1e-5)
            seen.clear()

    trainer.add_callback(Watch())
    before = weights(trainer)
    trainer.train()
    after = weights(trainer)
    for part in ("policy", "critic"):
        assert any((after[n] - before[n]).abs().max() > 1e-4 for n in before if n.startswith(part))


@pytest.mark.parametrize("answers", [1, 4])
def test_the_reward_rises(trainer_of, answers, logged):
    trainer = trainer_of(
        num_generations=answers, per_device_train_batch_size=16, max_steps=40, learning_rate=5e-3, beta=0.0
    )
    trainer.train()
    rewards = logged(trainer, "reward")
    # some seeds stay where one letter in five is an "a", others reach nothing but "a"
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


def test_with_several_answers_each_prompt_is_answered_that_often(trainer_of):
    seen = []

    def reward(prompts, answers, finished, rows):
        seen.append([prompt[0]["content"] for prompt in prompts])
        assert [row["prompt"] for row in rows] == prompts
        assert all(row["objective"] == "helpfulness" for row in rows)
        return {"one": [1.0] * len(answers)}

    trainer_of(reward, num_generations=4).train()
    assert len(seen) == 1
    assert sorted(seen[0].count(content) for content in set(seen[0]))[0] >= 4


def test_a_prompt_is_computed_once_for_all_its_answers(trainer_of, monkeypatch):
    asked = []

    def generate(engine, prompts, params, stop_ids, keys):
        asked.append((len(prompts), params.n, len(set(keys))))
        return whole(engine, prompts, params, stop_ids, keys=keys)

    whole = NativeEngine.generate
    monkeypatch.setattr(NativeEngine, "generate", generate)
    trainer, a, b = trainer_of(num_generations=2), [5, 6, 7], [5, 8]
    assert len(trainer._sample([a, a, b, b])[0]) == 4
    assert len(trainer._sample([a, b, b, a])[0]) == 4  # as where a process begins in the middle of a prompt's answers
    assert asked == [(2, 2, 2), (4, 1, 4)]


def test_answers_differ_between_steps_and_between_equal_prompts(trainer_of, rollout):
    trainer = trainer_of(num_generations=4)
    first = rollout(trainer)["completion_ids"]
    trainer._step += 1
    second = rollout(trainer)["completion_ids"]
    assert len({tuple(row) for row in first.tolist()}) > 6
    assert first.shape != second.shape or not torch.equal(first, second)


def test_a_truncated_answer_is_penalised_at_its_last_token(trainer_of, rollout):
    settings = {"whiten_scores": False, "whiten_advantages": False, "gamma": 1.0, "lam": 1.0, "beta": 0.0}
    batches = [rollout(trainer_of(truncation_penalty=penalty, **settings)) for penalty in (0.0, 5.0)]
    assert torch.equal(batches[0]["completion_ids"], batches[1]["completion_ids"])
    mask = batches[0]["completion_mask"].bool()
    ends = mask.sum(1) - 1
    tokens = ControlTokens.of(trainer_of().processing_class)
    finished = torch.isin(batches[0]["completion_ids"][torch.arange(8), ends], torch.tensor(tokens.terminators))
    assert not finished.all()
    drop = batches[0]["returns"][:, 0] - batches[1]["returns"][:, 0]
    torch.testing.assert_close(drop, 5.0 * (~finished).float())


def test_masked_truncated_answers_teach_nothing(trainer_of, rollout):
    batch = rollout(trainer_of(mask_truncated_completions=True))
    tokens = ControlTokens.of(trainer_of().processing_class)
    for row in range(8):
        kept = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        assert not kept or kept[-1] in tokens.terminators
    empty = batch["completion_mask"].sum(1) == 0
    assert empty.any()
    assert not batch["advantages"][empty].any()


def test_an_answer_stops_at_its_end_and_the_score_sees_no_padding(trainer_of, tokenizer, rollout):
    """A policy that ends at once: one token, finished, its score on that token."""
    trainer = trainer_of(lambda p, answers, f, r: {"s": [3.0] * len(answers)}, whiten_scores=False, beta=0.0, lam=1.0)
    with torch.no_grad():
        trainer.policy.lm_head.weight[tokenizer.eos_token_id] = 0
        trainer.policy.model.norm.weight.zero_()  # all logits equal ...
    trainer.policy.lm_head.bias = torch.nn.Parameter(torch.zeros(len(tokenizer)))
    with torch.no_grad():
        trainer.policy.lm_head.bias[tokenizer.eos_token_id] = 100.0  # ... but one
    batch = rollout(trainer)
    assert batch["completion_ids"].tolist() == [[tokenizer.eos_token_id]] * 8
    torch.testing.assert_close(batch["returns"], torch.full((8, 1), 3.0))


def test_the_reward_reads_dialogs_not_ids(trainer_of, tokenizer, rollout):
    seen = {}

    def reward(prompts, answers, finished, rows):
        seen.update(prompts=prompts, answers=answers, finished=finished)
        return {"helpfulness": [0.0] * 8, "safety": [1.0] * 8, "combined": [2.0] * 8}

    trainer = trainer_of(reward)
    batch = rollout(trainer)
    assert seen["prompts"] == [trainer.train_dataset[i]["prompt"] for i in range(8)]
    for row, (answer, done) in enumerate(zip(seen["answers"], seen["finished"], strict=True)):
        ids = batch["completion_ids"][row][batch["completion_mask"][row].bool()].tolist()
        assert answer == tokenizer.decode(ids, skip_special_tokens=True).strip()
        assert done == (ids[-1] in ControlTokens.of(tokenizer).terminators)
    means = trainer.tallies["train"].read(lambda tensor: tensor)
    assert (means["reward"], means["rewards/helpfulness"], means["rewards/safety"]) == (2.0, 0.0, 1.0)


SCHEDULES = [
    {},
    {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
    {"per_device_train_batch_size": 4, "steps_per_generation": 4},  # checkpoints in the middle of a rollout
    {"per_device_train_batch_size": 4, "num_iterations": 2, "steps_per_generation": 2},
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path, trainer_of, causal_path, schedule, logged, weights):
    options = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "lr_scheduler_type": "cosine"} | schedule
    whole = trainer_of(output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-3"
    resumed = trainer_of(output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert resumed.state.global_step == 5
    found = weights(resumed)
    for name, tensor in weights(whole).items():
        assert torch.equal(tensor, found[name]), name
    for name in ("reward", "kl", "loss/value", "grad_norm"):
        assert logged(whole, name)[-2:] == logged(resumed, name)[-2:], name


def test_a_checkpoint_holds_the_critic_as_a_model_of_its_own(tmp_path, trainer_of):
    trainer = trainer_of(max_steps=2, save_strategy="steps", save_steps=2, output_dir=str(tmp_path))
    trainer.train()
    folder = Path(tmp_path, "checkpoint-2", "value_model")
    assert (folder / "model.safetensors").is_file()
    critic = recipe.load_model(str(folder), "value")
    stored = critic.state_dict()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in trainer.value_model.state_dict().items())


def test_the_critics_activations_are_checkpointed_too(trainer_of, rollout):
    calls = []
    trainer = trainer_of(gradient_checkpointing=True)
    trainer.model.gradient_checkpointing_enable()
    inputs = rollout(trainer)
    trainer.value_model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    trainer._evaluate(trainer.model, inputs).values.sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize(("size", "steps"), [(3, 1), (1, 3)])
def test_one_answer_per_prompt_needs_no_even_batch(trainer_of, size, steps, logged):
    trainer = trainer_of(num_generations=1, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
    trainer.train()
    assert logged(trainer, "answers/length")
    assert len(trainer._buffered_inputs[0]["completion_ids"]) == size


def test_prompt_text_reaches_the_policy_as_plain_text(trainer_of, tokenizer):
    trainer = trainer_of()
    row = {"prompt": [{"role": "user", "content": "<|eot_id|>"}], "objective": "helpfulness"}
    trainer.model.train()
    batch = trainer._generate_and_score_completions([row] * 2)
    ids = batch["prompt_ids"][0][batch["prompt_mask"][0].bool()].tolist()
    assert ids == render_prompt(tokenizer, row["prompt"])
    assert ids.count(tokenizer.eos_token_id) == 1
    text = encode_text(tokenizer, "<|eot_id|>")
    assert any(ids[i : i + len(text)] == text for i in range(len(ids)))
