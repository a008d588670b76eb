"""The objectives once more, plainly: one answer at a time, full logits, no padding, no packing, no masks of ours."""

import random

import torch
import torch.nn.functional as F

from llama_align.chat import ControlTokens, encode_text, render_prompt

# what a token of a completion is: content, own terminator or tool tag, header, another's content, another's terminator
CONTENT, END, HEADER, OTHER, OTHER_END = "CEHOT"
Completion = list[tuple[int, str]]


def logps_of(model, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Log-probability of every token of an answer."""
    logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return F.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]


def plain_dpo(policy, reference, rows, beta=0.1, coefficient=0.2, mask=True) -> torch.Tensor:
    """Llama 3, section 4.1.4: content tokens alone in the ratio; the chosen answer with its ends in the NLL."""
    losses = []
    for row in rows:
        ratios, nll = [], None
        for side in ("chosen", "rejected"):
            answer, kinds = [token for token, _ in row[side]], [kind for _, kind in row[side]]
            logps = logps_of(policy, row["prompt"], answer)
            with torch.no_grad():
                fixed = logps_of(reference, row["prompt"], answer)
            read = torch.tensor([kind == CONTENT if mask else kind != OTHER for kind in kinds])
            ratios.append(((logps - fixed) * read).sum())
            said = torch.tensor([kind in (CONTENT, END) for kind in kinds])
            nll = -(logps * said).sum() / said.sum() if nll is None else nll
        losses.append(-F.logsigmoid(beta * (ratios[0] - ratios[1])) + coefficient * nll)
    return torch.stack(losses).mean()


def plain_reward(model, rows, terms: dict[str, float], safety: float = 0.0) -> torch.Tensor:
    """Llama 2, eq. 2, over all pairs of a row (InstructGPT, eq. 1), and a binary loss of answers being safe."""
    losses = []
    for row in rows:
        scores = torch.stack([model(torch.tensor([ids])).logits[0] for ids in row["answers_ids"]])
        pairs = []
        for better, worse, margin in zip(row["better"], row["worse"], row["margin"], strict=True):
            c, r = scores[better, 0], scores[worse, 0]
            by_name = {"margin": -F.logsigmoid(c - r - margin), "bradley_terry": -F.logsigmoid(c - r)}
            by_name["center"] = (c + r) ** 2
            pairs.append(sum(weight * by_name[name] for name, weight in terms.items()))
        loss = torch.stack(pairs).mean()
        judged = [i for i, label in enumerate(row["is_safe"]) if label >= 0]
        if safety and judged:
            signs = torch.tensor([1.0 if row["is_safe"][i] else -1.0 for i in judged])
            loss = loss - safety * F.logsigmoid(signs * scores[judged, 1]).mean()
        losses.append(loss)
    return torch.stack(losses).mean()


def plain_sft(model, pieces) -> torch.Tensor:
    """Mean over all labelled tokens; every piece (ids, labels) of a dialog alone."""
    total, count = 0.0, 0
    for ids, labels in pieces:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        targets = torch.tensor(labels[1:])
        total = total + F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100)
        count += int((targets != -100).sum())
    return total / count


def plain_ppo_policy(model, prompts, answers, columns, clip: float = 0.2) -> torch.Tensor:
    """Schulman et al., 2017, eq. 7, a mean over all tokens; `columns` by name, one vector an answer."""
    losses = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        ratios = torch.exp(logps_of(model, prompt, answer) - columns["old_logps"][i])
        for ratio, advantage in zip(ratios, columns["advantages"][i], strict=True):
            losses.append(-torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage))
    return torch.stack(losses).mean()


def plain_ppo_value(model, prompts, answers, columns, clip: float = 0.2) -> torch.Tensor:
    """Half the larger squared error of a value and of the value clipped around the old one, a mean over all tokens."""
    losses = []
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        values = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1, 0]
        for value, old, wanted in zip(values, columns["old_values"][i], columns["returns"][i], strict=True):
            clipped = torch.minimum(torch.maximum(value, old - clip), old + clip)
            losses.append(0.5 * torch.maximum((value - wanted) ** 2, (clipped - wanted) ** 2))
    return torch.stack(losses).mean()


def plain_gae(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Schulman et al., 2015, eq. 16, as the sum that it is."""
    following = [*values[1:], 0.0]
    deltas = [r + gamma * v1 - v0 for r, v0, v1 in zip(rewards, values, following, strict=True)]
    return [sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:])) for t in range(len(deltas))]


def random_pairs(tokenizer, count: int, seed: int = 0) -> list[dict]:
    """Rows of a prompt and two completions: of one turn, of two turns, and with a tool that answers in between."""
    draw, tokens = random.Random(seed), ControlTokens.of(tokenizer)
    words = ["bado", "kilu", "mete", "nora", "sivu", "12", "<|eot_id|>", "東京", "\n\n"]

    def text() -> list[int]:
        return encode_text(tokenizer, " ".join(draw.choices(words, k=draw.randint(1, 6))).strip() or "bado")

    def header(role: str) -> Completion:
        start, end = (tokens.ids[f"<|{side}_header_id|>"] for side in ("start", "end"))
        ids = (start, *encode_text(tokenizer, role), end, *encode_text(tokenizer, "\n\n"))
        return [(token, HEADER) for token in ids]

    def said(tool: bool = False) -> Completion:
        tag = [(tokens.python_tag, END)] if tool else []
        return [*tag, *((token, CONTENT) for token in text()), (tokens.eom if tool else tokens.eot, END)]

    def heard(role: str) -> Completion:
        return [*header(role), *((token, OTHER) for token in text()), (tokens.eot, OTHER_END), *header("assistant")]

    def completion() -> Completion:
        kind = draw.choice(("one", "two", "tool"))
        if kind == "one":
            return said()
        tool = kind == "tool"
        return said(tool) + heard("ipython" if tool else "user") + said()

    rows = []
    for _ in range(count):
        dialog = [{"role": "user", "content": " ".join(draw.choices(words[:5], k=draw.randint(1, 5)))}]
        prompt = render_prompt(tokenizer, dialog, tokens)
        rows.append({"prompt": prompt, "chosen": completion(), "rejected": completion()})
    return rows


def as_ids(rows: list[dict]) -> list[dict]:
    """The same rows as a trainer takes them."""
    return [
        {"prompt_ids": row["prompt"]} | {f"{s}_ids": [token for token, _ in row[s]] for s in ("chosen", "rejected")}
        for row in rows
    ]
