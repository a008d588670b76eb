"""DPO against a plain implementation in float64: masked format tokens, NLL, references computed beforehand."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset, load_from_disk

from llama_align import recipe
from llama_align.chat import encode_answer, encode_text, render_prompt
from llama_align.data import Preference, preference_rows
from llama_align.trainers import HerdDPOConfig, HerdDPOTrainer
from llama_align.trainers.dpo import sharded_digest

from .plain import CONTENT, END, OTHER, as_ids, random_pairs

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
        Preference(prompt, "", "mete", "better", "helpfulness"),
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


@pytest.fixture
def multi_turn(tokenizer):
    return random_pairs(tokenizer, 40)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("cut", ["keep_start", "keep_end"])
def test_masks_of_several_turns_and_tools_follow_who_speaks(trainer_of, multi_turn, tokenizer, masked, cut):
    trainer = trainer_of(
        Dataset.from_list(as_ids(multi_turn)), mask_format_tokens=masked, max_length=60, truncation_mode=cut
    )
    batch = trainer.data_collator(list(trainer.train_dataset))
    window = slice(None, 60) if cut == "keep_start" else slice(-60, None)
    kinds_seen = set()
    for number, row in enumerate([(row, side) for side in ("chosen", "rejected") for row in multi_turn]):
        kinds = [None] * len(row[0]["prompt"]) + [kind for _, kind in row[0][row[1]]]
        kinds = kinds[window]
        kinds_seen |= set(kinds)
        ratio = [kind == CONTENT if masked else kind not in (None, OTHER) for kind in kinds]
        assert batch["completion_mask"][number, : len(kinds)].bool().tolist() == ratio
        assert batch["nll_mask"][number, : len(kinds)].bool().tolist() == [kind in (CONTENT, END) for kind in kinds]
        assert batch["completion_mask"][number, len(kinds) :].sum() == 0
    assert len(kinds_seen) == 6  # every kind of token was there


def test_answers_without_content_and_cut_terminators_raise_an_alarm(trainer_of, tokenizer, caplog):
    prompt = [{"role": "user", "content": "bado"}]
    records = [
        Preference(prompt, "kilu " * 40, "kilu", "better", "helpfulness"),
        Preference(prompt, "", "mete", "better", "helpfulness"),
    ]
    rows = preference_rows(records, tokenizer, 60, too_long="cut")[0]
    with caplog.at_level("WARNING", logger="llama_align.trainers.dpo"):
        trainer = trainer_of(rows, max_length=60, per_device_train_batch_size=2)
    assert trainer.alarms == {"no_content": 1, "lost_terminator": 0.25, "chosen_falling": 0}
    assert [record.message for record in caplog.records] == [
        "1 of 4 answers have no content token: the ratio reads nothing of them",
        "1 of 4 answers lost their terminator to max_length 60",
    ]
    trainer.train()
    assert trainer.state.log_history[0]["alarms/no_content"] == 1
    assert trainer.state.log_history[0]["alarms/lost_terminator"] == 0.25


def test_data_in_order_raises_no_alarm(trainer_of, caplog):
    with caplog.at_level("WARNING", logger="llama_align.trainers.dpo"):
        trainer = trainer_of()
        trainer.train()
    assert trainer.alarms == {"no_content": 0, "lost_terminator": 0.0, "chosen_falling": 0}
    assert not caplog.records
    assert not [key for key in trainer.state.log_history[0] if key.startswith("alarms/")]


def test_chosen_answers_that_lose_probability_raise_an_alarm(trainer_of, caplog):
    """Logs as they come, one every `every` steps, of rewards that fall, recover, fall above 0, and swing below it."""

    def logged(rewards, every=1, **changes):
        caplog.clear()
        trainer = trainer_of(**changes)
        trainer.model.train()
        with caplog.at_level("WARNING", logger="llama_align.trainers.dpo"):
            for number, reward in enumerate(rewards, start=1):
                trainer.state.global_step = number * every
                trainer._metrics["train"] |= {"rewards/chosen": [reward]}
                trainer.log({"loss": 1.0})
        counts = [row.get("alarms/chosen_falling", 0) for row in trainer.state.log_history]
        assert counts[-1] == trainer.alarms["chosen_falling"]
        return counts, len(caplog.records)

    falling = [-0.1 * step for step in range(12)]
    # counted at every log, said once
    assert logged(falling, alarm_after=4) == ([0] * 4 + list(range(1, 9)), 1)
    assert logged(falling, every=2, alarm_after=4) == ([0] * 2 + list(range(1, 11)), 1)  # of steps, not of logs
    assert logged(falling[::-1], alarm_after=4) == ([0] * 12, 0)  # below the reference, and recovering
    assert logged([2 + reward for reward in falling], alarm_after=4) == ([0] * 12, 0)
    assert logged([-1.0 + 0.1 * (-1) ** step for step in range(12)], alarm_after=4) == ([0] * 12, 0)
    assert logged(falling, alarm_after=0) == ([0] * 12, 0)


def test_seven_pairs_in_two_batches_of_a_step_weigh_the_same(trainer_of):
    weights, losses = [], []
    for rows, steps in ((7, 1), (4, 2)):
        trainer = trainer_of(
            count=7, per_device_train_batch_size=rows, gradient_accumulation_steps=steps, optim="sgd", max_grad_norm=0.0
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert all((tensor - weights[1][name]).abs().max() < 1e-6 for name, tensor in weights[0].items())


def test_predict_returns_the_logits(trainer_of):
    trainer = trainer_of(count=4, per_device_eval_batch_size=4)
    found = trainer.predict(trainer.train_dataset)
    batch = trainer.data_collator(list(trainer.train_dataset))
    with torch.no_grad():
        wanted = trainer.model.eval()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert found.predictions.shape == wanted.shape
    kept = batch["attention_mask"].bool()
    torch.testing.assert_close(torch.tensor(found.predictions)[kept], wanted[kept], atol=1e-5, rtol=1e-4)


def test_a_changed_answer_is_not_read_from_the_cache(tmp_path, trainer_of, tokenizer, preferences):
    """A data set on disk keeps its fingerprint when its files are written again."""
    folder, found = tmp_path / "pairs", []
    for seed in (0, 1):
        preference_rows(preferences(6, seed), tokenizer, 160)[0].save_to_disk(tmp_path / "new")
        if folder.exists():
            state = (folder / "state.json").read_text()
            (tmp_path / "new" / "state.json").write_text(state)
            shutil.rmtree(folder)
        (tmp_path / "new").rename(folder)
        trainer = trainer_of(load_from_disk(folder), precompute_ref_log_probs=True)
        found.append(list(trainer.train_dataset["ref_chosen_logps"]))
    assert found[0] != found[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_zero3_shares_out_are_gathered_for_their_digest(monkeypatch, dtype):
    """Sharded weights are empty tensors outside of `GatheredParameters`: one digest for all of them would be stale."""
    deepspeed = pytest.importorskip("deepspeed")

    class Gathered:
        def __init__(self, weights):
            self.weights = weights

        def __enter__(self):
            for weight in self.weights:
                weight.data = weight.whole

        def __exit__(self, *_):
            for weight in self.weights:
                weight.data = weight.data.new_empty(0)

    def digest(number: float) -> str:
        model = torch.nn.Linear(3, 2, dtype=dtype)
        for i, weight in enumerate(model.parameters()):
            weight.ds_id, weight.whole = i, torch.full_like(weight.data, number)
            weight.data = weight.data.new_empty(0)
        return sharded_digest(model)

    monkeypatch.setattr(deepspeed.zero, "GatheredParameters", Gathered)
    assert digest(1.0) == digest(1.0) != digest(2.0)
    assert sharded_digest(torch.nn.Linear(3, 2)) is None


def test_computed_beforehand_is_computed_once_and_again_for_another_reference(trainer_of, monkeypatch, settings):
    calls, inner = [], HerdDPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        HerdDPOTrainer, "compute_ref_log_probs", lambda self, *args: (calls.append(1), inner(self, *args))[1]
    )
    values = []
    for change in ({}, {}, {"max_length": 50}):
        values.append(list(trainer_of(precompute_ref_log_probs=True, **change).train_dataset["ref_chosen_logps"]))
    assert len(calls) == 2  # the second run, or one that resumes, finds the first one's
    assert values[0] == values[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "DPO (sigmoid, beta 0.1), format tokens masked, plus 0.2 x NLL of the chosen answer"),
        ({"mask_format_tokens": False}, "DPO (sigmoid, beta 0.1), on all tokens of the answers, plus 0.2 x NLL"),
        ({"nll_coefficient": 0.0, "beta": 0.3}, "DPO (sigmoid, beta 0.3), format tokens masked"),
    ],
)
def test_the_card_says_what_was_switched_on(trainer_of, changes, words):
    assert trainer_of(**changes).objective.startswith(words)
    assert ("NLL" in trainer_of(**changes).objective) == ("NLL" in words)
