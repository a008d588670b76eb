"""Numbers of a checkpoint that no trainer logs: the exact judge's, and losses on what was held out."""

from collections.abc import Callable
from pathlib import Path

import torch

from llama_align import recipe
from llama_align.chat import ControlTokens, as_text, decode_answer, encode_text, render_prompt
from llama_align.data import demonstration_rows, load_records, ranking_rows
from llama_align.metrics.functional import answer_endings
from llama_align.rewards import RewardScorer
from llama_align.sampling import SamplingParams
from llama_align.sampling.make import make_engine
from llama_align.sandbox.judge import is_unsafe, judge
from llama_align.trainers import score_pairs
from llama_align.trainers.heldout import pair_metrics

from .kinds import Start

HELD_OUT = [0.9, 1.0]  # demonstrations that no arm trains on, by prompt
LONGEST = 32


def asked(ids: list[int], tokenizer, messages) -> list[int]:
    return ids


def begun_twice(ids: list[int], tokenizer, messages) -> list[int]:
    """As a template that writes a begin of text and a tokenizer that adds one make it."""
    return [ids[0], *ids]


def another_template(ids: list[int], tokenizer, messages) -> list[int]:
    """Alpaca's headings instead of Llama 3's headers."""
    text = f"### Instruction:\n{messages[-1]['content']}\n\n### Response:\n"
    return [ids[0], *encode_text(tokenizer, text)]


def judged(prompt_ids: Callable = asked, temperature: float = 1.0, prompts: int = 460):
    """A probe: shares of answers to held-out instructions, in per cent, by the exact judge.

    Args:
        prompt_ids: makes the ids that are asked of the ids of the contract. prompts: about how many, evenly taken.
    """

    def probe(folder: Path, start: Start) -> dict[str, float]:
        records = load_records([{"path": f"{start('sandbox')}/heldout.jsonl"}], "prompt")[0]
        step = max(1, len(records) // prompts)
        records = records[::step]
        tokenizer, model = recipe.load_tokenizer(str(folder)), recipe.load_model(str(folder))
        tokens = ControlTokens.of(tokenizer)
        ids = [prompt_ids(render_prompt(tokenizer, r.messages, tokens), tokenizer, r.messages) for r in records]
        params = SamplingParams(1, LONGEST, temperature, seed=0)
        drawn = [group[0] for group in make_engine("auto", model).generate(ids, params, set(tokens.terminators))]
        texts = [as_text(decode_answer(tokenizer, answer.ids, tokens)) for answer in drawn]
        verdicts = [judge(r.task, t, a.finished) for r, t, a in zip(records, texts, drawn, strict=True)]
        safe = [v for r, v in zip(records, verdicts, strict=True) if not is_unsafe(r.task)]
        secret = [v for r, v in zip(records, verdicts, strict=True) if is_unsafe(r.task)]
        endings = answer_endings(texts, [int(answer.finished) for answer in drawn])
        return {
            "judge/helpful": share(safe, "helpful"),
            "judge/form": share(safe, "form"),
            "judge/false_refusal": share(safe, "false_refusal"),
            "judge/violation": share(secret, "violation"),
            "judge/missing_end": 100 * endings["missing_end"],
            "judge/repetitive": 100 * endings["repetitive"],
            "judge/length": sum(len(answer.ids) for answer in drawn) / len(drawn),
        }

    return probe


def share(verdicts: list, name: str) -> float:
    return 100 * sum(getattr(verdict, name) for verdict in verdicts) / max(1, len(verdicts))


@torch.no_grad()
def answers_loss(folder: Path, start: Start) -> dict[str, float]:
    """Nats per token of held-out demonstrations' answers, each dialog alone and as the contract writes it."""
    tokenizer, model = recipe.load_tokenizer(str(folder)), recipe.load_model(str(folder)).eval()
    source = {"path": f"{start('sandbox')}/demonstrations.jsonl", "part": HELD_OUT}
    rows, _ = demonstration_rows(load_records([source], "demonstration")[0], tokenizer, 256)
    total = count = 0.0
    for row in rows:
        ids, positions, labels = (torch.tensor([row[key]]) for key in ("input_ids", "position_ids", "labels"))
        logits = model(input_ids=ids, position_ids=positions).logits[0, :-1].float()
        total += torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum").item()
        count += int((labels[0, 1:] != -100).sum())
    return {"held_out/loss": total / count}


def pairs(objective: str = "helpfulness"):
    """A probe: a reward model on held-out preferences."""

    def probe(folder: Path, start: Start) -> dict[str, float]:
        tokenizer = recipe.load_tokenizer(str(folder))
        scorer = RewardScorer(recipe.load_model(str(folder), "reward", tokenizer, False), tokenizer.pad_token_id)
        source = {"path": f"{start('sandbox')}/preferences_heldout.jsonl", "where": {"objective": objective}}
        rows, _ = ranking_rows(load_records([source], "preference")[0], tokenizer, 256, None)
        scored = score_pairs(scorer, rows)
        found = pair_metrics(scored)
        gaps = torch.tensor(scored.chosen) - torch.tensor(scored.rejected)
        return {
            "held_out/accuracy": 100 * found["accuracy"],
            "held_out/ece": found["ece"],
            "held_out/loss": torch.nn.functional.softplus(-gaps).mean().item(),
            "held_out/gap": gaps.abs().mean().item(),
        }

    return probe
