"""A first batch that is not what PPO's equations say stops the run, and says what is wrong with it."""

import pytest
import torch

from llama_align.trainers.heads import attach_head
from llama_align.trainers.ppo import trainer as ppo
from llama_align.trainers.ppo.checks import FirstBatchChecks, FirstBatchError
from llama_align.trainers.ppo.math import gae, token_rewards


def checks(half: bool = False) -> FirstBatchChecks:
    return FirstBatchChecks(half, lambda tensor: tensor)


def test_a_sound_batch_passes_whatever_warps_the_sampling(trainer_of):
    trainer = trainer_of(temperature=0.7, top_k=20, top_p=0.9, repetition_penalty=1.2, beta=0.1)
    trainer.train()
    assert trainer._unchecked == set()


def test_log_probabilities_of_the_warped_distribution_are_found(trainer_of, rollout):
    trainer = trainer_of(temperature=0.5)
    for network in (trainer.policy, trainer.ref_model):
        network.__dict__.pop("forward")
        attach_head(network, temperature=0.5, outputs=("log_probs", "entropy"))  # as TRL's trainers do
    with pytest.raises(FirstBatchError, match=r"log-probabilities: found a largest .* warp \(temperature 0.5"):
        rollout(trainer)


def test_another_reference_is_found(trainer_of, rollout):
    trainer = trainer_of()
    with torch.no_grad():
        trainer.policy.model.norm.weight.mul_(1.5)
    with pytest.raises(FirstBatchError, match=r"KL at step 0: found .* loaded anew from '.*causal"):
        rollout(trainer)
    rollout(trainer_of(check_first_batch=False))


def test_a_policy_that_differs_between_rollout_and_loss_is_found(trainer_of, rollout):
    trainer = trainer_of()
    batch = rollout(trainer)
    with torch.no_grad():
        trainer.policy.model.norm.weight.mul_(1.05)
    with pytest.raises(FirstBatchError, match="ratio before the first step: found a largest difference"):
        trainer._compute_loss(trainer.model, batch)


def score_after_the_answer(score_B, kl_BT, mask_BT, coefficient):
    """Where TRL's PPOTrainer puts the score of a short answer: at the first padding token."""
    rewards_BT = token_rewards(0 * score_B, kl_BT, mask_BT, coefficient)
    end_B = mask_BT.sum(1).long().clamp(max=mask_BT.shape[1] - 1)
    rewards_BT[torch.arange(len(score_B)), end_B] += score_B
    return rewards_BT


def test_a_score_that_is_not_on_the_last_kept_token_is_found(trainer_of, rollout, monkeypatch):
    monkeypatch.setattr(ppo, "token_rewards", score_after_the_answer)
    trainer = trainer_of(lambda p, answers, f, r: [float(len(a)) for a in answers])
    trainer.max_completion_length = 30  # long enough that answers end
    with pytest.raises(FirstBatchError, match=r"rewards: found \d+ tokens on this process with another reward"):
        rollout(trainer)


def test_advantages_at_padding_are_found(trainer_of, rollout, monkeypatch):
    monkeypatch.setattr(ppo, "gae", lambda r, v, mask, *rest: gae(r, v + 1, torch.ones_like(mask), *rest))
    trainer = trainer_of(whiten_advantages=False)
    trainer.max_completion_length = 30
    with pytest.raises(FirstBatchError, match="advantages: found numbers at padding"):
        rollout(trainer)


def batch_of(ids, mask) -> dict:
    batch = {"completion_ids": torch.tensor(ids), "completion_mask": torch.tensor(mask)}
    return batch | dict.fromkeys(("advantages", "returns", "old_values"), torch.zeros(batch["completion_ids"].shape))


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        ([[5, 9, 6, 0]], [[1, 1, 1, 0]], "found tokens kept after a terminator"),
        ([[5, 6, 7, 9]], [[1, 0, 1, 1]], "found padding before or between tokens"),
        ([[5, 6, 7, 9]], [[0, 1, 1, 1]], "found padding before or between tokens"),
    ],
)
def test_answers_of_another_form_are_found(ids, mask, message):
    batch = batch_of(ids, mask)
    with pytest.raises(FirstBatchError, match=message):
        checks().rollout(batch, torch.zeros(1, 4), torch.zeros(1), torch.zeros(1, 4), 0.1, (9,))
    sound = batch_of([[5, 6, 9, 0]], [[1, 1, 1, 0]])
    checks().rollout(sound, torch.tensor([[0.0, 0, 2, 0]]), torch.tensor([2.0]), torch.zeros(1, 4), 0.1, (9,))


def test_the_bound_is_of_the_largest_difference_in_float32_and_of_the_mean_in_half():
    ones = torch.ones(1, 10)
    one_off = torch.zeros(1, 10)
    one_off[0, 3] = 0.3  # an unlikely token, which bfloat16 rounds this far
    checks(half=True).ratio(one_off, torch.zeros(1, 10), ones)
    with pytest.raises(FirstBatchError, match=r"largest difference of 0\.3, expected at most 0\.001"):
        checks().ratio(one_off, torch.zeros(1, 10), ones)
    with pytest.raises(FirstBatchError, match=r"mean difference of 0\.1, expected at most 0\.05"):
        checks(half=True).ratio(0.1 * ones, torch.zeros(1, 10), ones)
    with pytest.raises(FirstBatchError, match="nan"):
        checks(half=True).ratio(one_off * float("nan"), torch.zeros(1, 10), ones)


def test_nothing_at_prompt_or_padding_is_learned_from(trainer_of, rollout):
    """Other tokens at padding, other numbers there, more padding before the prompt: the same loss and gradients."""
    trainer = trainer_of(max_completion_length=30, check_first_batch=False, beta=0.1)
    batch = rollout(trainer)
    padding = batch["completion_mask"] == 0
    assert padding.any()
    draw = torch.Generator().manual_seed(0)
    other = {name: tensor.clone() for name, tensor in batch.items()}
    other["completion_ids"][padding] = torch.randint(10, 300, (int(padding.sum()),), generator=draw)
    front = other["prompt_mask"] == 0
    other["prompt_ids"][front] = torch.randint(10, 300, (int(front.sum()),), generator=draw)
    for name in ("advantages", "returns", "old_values", "old_logps"):
        other[name][padding] = torch.randn(int(padding.sum()), generator=draw)
    for name, filler in (("prompt_ids", 7), ("prompt_mask", 0)):
        other[name] = torch.nn.functional.pad(other[name], (3, 0), value=filler)
    found = []
    for inputs in (batch, other):
        trainer.model.zero_grad()
        loss = trainer._compute_loss(trainer.model, inputs)
        loss.backward()
        found.append([loss.detach(), *(weight.grad.clone() for weight in trainer.model.parameters())])
    assert any(tensor.abs().max() > 0 for tensor in found[0][1:])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-7)
