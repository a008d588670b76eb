"""DPO against a plain implementation in float64: masked format tokens, NLL, references computed beforehand."""

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, load_from_disk

from llama_align import recipe
from llama_align.chat import encode_answer, encode_text, render_prompt
from llama_align.data import Preference, preference_rows
from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer

SIZES = [{"mask_format_tokens": m, "nll_coefficient": n} for m in (True, False) for n in (0.0, 0.2)]


@pytest.fixture(scope="module")
def reference_path(checkpoint):
    return checkpoint(seed=1)


@pytest.fixture
def trainer_of(causal_path, reference_path, tokenizer, settings, preferences):
    def make(rows: Dataset | None = None, count: int = 8, **changes) -> HerdDPOTrainer:
        rows = rows or preference_rows(preferences(count), tokenizer, 160)[0]
        return HerdDPOTrainer(
            recipe.load_model(causal_path),
            ref_model=recipe.load_model(reference_path),
            args=HerdDPOConfig(**settings | {"max_length": 160, "per_device_train_batch_size": 8} | changes),
            train_dataset=rows,
            processing_class=tokenizer,
        )

    return make


def token_logps(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return F.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def plain_dpo(policy, reference, tokenizer, records, mask: bool, coefficient: float, beta: float = 0.1):
    """Llama 3, section 4.1.4, one answer at a time: content tokens alone in the ratio, all of them in the NLL."""
    losses = []
    for record in records:
        prompt = render_prompt(tokenizer, record.prompt)
        ratios, nll = [], None
        for text in (record.chosen, record.rejected):
            answer = encode_answer(tokenizer, text)
            with torch.no_grad():
                fixed = token_logps(reference, prompt, answer)
            logps = token_logps(policy, prompt, answer)
            content = len(answer) - 1 if mask else len(answer)
            ratios.append((logps[:content] - fixed[:content]).sum())
            nll = -logps.mean() if nll is None else nll
        losses.append(-F.logsigmoid(beta * (ratios[0] - ratios[1])) + coefficient * nll)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", SIZES)
def test_loss_and_gradients_equal_a_plain_implementation(
    trainer_of, causal_path, reference_path, tokenizer, preferences, size
):
    trainer = trainer_of(beta=0.3, **size)
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
    loss = trainer.compute_loss(trainer.model.train(), batch)
    loss.backward()
    policy, reference = recipe.load_model(causal_path).double(), recipe.load_model(reference_path).double()
    wanted = plain_dpo(policy, reference, tokenizer, preferences(8), *size.values(), beta=0.3)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    gradients = dict(policy.named_parameters())
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(weight.grad.double(), gradients[name].grad, atol=2e-5, rtol=1e-3, msg=name)


def test_a_batch_cut_into_eight_gives_the_same_weights(trainer_of):
    weights = []
    for rows, steps in ((8, 1), (1, 8)):
        trainer = trainer_of(per_device_train_batch_size=rows, gradient_accumulation_steps=steps, optim="sgd")
        before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert any((weights[0][name] - before[name]).abs().max() > 1e-4 for name in before)
    assert all((tensor - weights[1][name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


def test_the_masks_of_the_collator(trainer_of, tokenizer, preferences):
    for mask in (True, False):
        trainer = trainer_of(mask_format_tokens=mask)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(8)])
        answers = [text for field in ("chosen", "rejected") for text in (getattr(r, field) for r in preferences(8))]
        for row, text in enumerate(answers):
            content = encode_text(tokenizer, text.strip())
            whole = batch["input_ids"][row][batch["nll_mask"][row].bool()].tolist()
            kept = batch["input_ids"][row][batch["completion_mask"][row].bool()].tolist()
            assert whole == [*content, tokenizer.eos_token_id]
            assert kept == (content if mask else whole)


def test_an_empty_answer_still_has_an_nll(trainer_of, tokenizer):
    prompt = [{"role": "user", "content": "bado"}]
    records = [
        Preference(prompt, "", "kilu", "better", "helpfulness"),
        Preference(prompt, "", "", "better", "helpfulness"),
    ]
    trainer = trainer_of(preference_rows(records, tokenizer, 160)[0], nll_coefficient=0.2)
    loss = trainer.compute_loss(trainer.model.train(), trainer.data_collator(list(trainer.train_dataset)))
    loss.backward()
    assert loss.isfinite()
    assert trainer._metrics["train"]["loss/nll"][-1] > 0
    assert all(weight.grad.isfinite().all() for weight in trainer.model.parameters())


def test_references_computed_beforehand_follow_the_mask(tmp_path, trainer_of, reference_path, tokenizer, preferences):
    """TRL's cache knows data and model only: from one data set on disk both settings must get their own numbers."""
    preference_rows(preferences(6), tokenizer, 160)[0].save_to_disk(tmp_path / "pairs")
    reference, found = recipe.load_model(reference_path).eval(), {}
    for mask in (True, False, True):
        trainer = trainer_of(load_from_disk(tmp_path / "pairs"), precompute_ref_log_probs=True, mask_format_tokens=mask)
        trainer.get_train_dataloader()
        columns = {name: list(trainer.train_dataset[name]) for name in ("ref_chosen_logps", "ref_rejected_logps")}
        for number, record in enumerate(preferences(6)):
            prompt = render_prompt(tokenizer, record.prompt)
            for name, text in zip(columns, (record.chosen, record.rejected), strict=True):
                with torch.no_grad():
                    logps = token_logps(reference, prompt, encode_answer(tokenizer, text))
                wanted = logps[:-1].sum() if mask else logps.sum()
                assert columns[name][number] == pytest.approx(wanted.item(), rel=1e-4)
        found[mask] = columns
    assert found[True] != found[False]


@pytest.mark.parametrize("size", SIZES[:2])
def test_computed_beforehand_or_on_the_way_the_loss_is_the_same(trainer_of, size):
    losses = []
    for beforehand in (True, False):
        trainer = trainer_of(precompute_ref_log_probs=beforehand, **size)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_rows_that_were_not_tokenised_and_two_nlls_are_refused(trainer_of, settings):
    with pytest.raises(ValueError, match=r"train dataset: found no column .*'chosen_ids'.*expected tokenised pairs"):
        trainer_of(Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]))
    with pytest.raises(ValueError, match=r"found 'sft' beside nll_coefficient"):
        HerdDPOConfig(**settings, loss_type=["sigmoid", "sft"])


def test_training_widens_the_margin(trainer_of):
    trainer = trainer_of(max_steps=15, learning_rate=3e-3)
    trainer.train()
    margins = [row["rewards/margins"] for row in trainer.state.log_history if "rewards/margins" in row]
    assert margins[-1] > margins[0] + 0.5
