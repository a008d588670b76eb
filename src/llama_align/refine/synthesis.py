"""Demonstrations made from others: back-translation, paraphrase, synonyms (Llama 3, section 4.3.1).

"Synthetic data generation: backtranslation. [...] Generate: We prompt Llama 3 to generate data that represents our
target capability [...]. Backtranslate: We then prompt the model to "backtranslate" the synthetically generated data to
the original code [...]. Filter: Using the original code as a reference, we prompt the Llama 3 to determine the quality
of the output [...]. We then use the generated examples that have the highest self-verification scores in SFT."
"""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ..chat import Message, as_text
from ..data import Demonstration, Document, Sample
from ..rejection.candidates import takeable
from .asking import Asker, number_up_to, one_of
from .ledger import Tally
from .rows import Row

TOP = 10  # of the points that a model verifies with
VERDICT = 16  # tokens of a verdict
PROMPTS = {
    "back_translation": {
        "generate": "Explain what the following does, so completely that it could be written again from your "
        "explanation alone.\n\n<text>",
        "back": "Write what this explanation describes, and nothing else.\n\n<text>",
        "verify": "Here is an original and a text that was written from an explanation of it.\n\nOriginal:\n<text>\n\n"
        "Written again:\n<back>\n\nHow faithful is it to the original? Answer with a number from 0 to 10.",
    },
    "paraphrase": {
        "rewrite": "Say the following in other words. It must ask for exactly the same.\n\n<text>",
        "verify": "Do these two texts ask for exactly the same?\n\nFirst:\n<text>\n\nSecond:\n<back>\n\n"
        "Answer yes or no.",
    },
    "synonyms": {},
}
METHODS = tuple(PROMPTS)


def fill(template: str, **texts: str) -> list[Message]:
    """The question of a template; a text with such a mark in it stays what it is."""
    content = re.sub(r"<(text|back)>", lambda found: texts.get(found[1], found[0]), template)
    return [{"role": "user", "content": content}]


def back_translation(documents: Sequence[Document], ask: Asker, args: Any, prompts: Mapping[str, str]):
    """Demonstrations from documents, and what each stage did: generated, translated back, verified, the best kept.

    args: `answers` (K), `temperature`, `verify` (`model`, or `overlap` of words), `least`, `keep`, `direction`.
    """
    texts = [document.text for document in documents]
    drawn = ask([fill(prompts["generate"], text=text) for text in texts], args.answers, args.temperature)
    rows, generated = _candidates(drawn, "generate", prompts)
    for row in rows:
        text, said = texts[row.found["of"]], row.found["said"]
        row.record = _demonstration(args, prompts, text, said)
    rows = _usable(rows, generated)

    back = Tally("back-translate", {"prompt": prompts["back"]})
    for row, answers in zip(
        rows, ask([fill(prompts["back"], text=r.found["said"]) for r in rows], stage=1), strict=True
    ):
        if not (answers and takeable(answers[0])):
            back.drop("no room or no answer that ended", row)
        else:
            row.found["back"] = as_text(answers[0].completion)
    rows = back.left(rows)

    verify = Tally("verify", {"by": args.verify, "least": args.least})
    pairs = [(texts[row.found["of"]], row.found["back"]) for row in rows]
    for row, score in zip(rows, _faithful(pairs, ask, args.verify, prompts), strict=True):
        row.found["score"] = score
        if score is None:
            verify.drop("no verdict", row)
        elif score < args.least:
            verify.drop("not faithful enough", row)
    rows = verify.left(rows)
    kept, best = _best(rows, args.keep)
    return kept, [generated, back, verify, best]


def _demonstration(args: Any, prompts: Mapping[str, str], text: str, said: str) -> Demonstration:
    """Forward: the text explained. Back: the text from its explanation."""
    asked, answer = (fill(prompts["generate"], text=text), said)
    if args.direction == "back":
        asked, answer = fill(prompts["back"], text=said), text
    return Demonstration([*asked, {"role": "assistant", "content": answer}], "synthetic/back_translation")


def _faithful(pairs: Sequence[tuple[str, str]], ask: Asker, by: str, prompts: Mapping[str, str]) -> list[float | None]:
    if by == "overlap":
        return [overlap(*pair) for pair in pairs]
    read = number_up_to(TOP)
    drawn = ask([fill(prompts["verify"], text=text, back=back) for text, back in pairs], tokens=VERDICT, stage=2)
    found = [read(as_text(answers[0].completion)) if answers else None for answers in drawn]
    return [None if points is None else points / TOP for points in found]


def overlap(one: str, other: str) -> float:
    """F1 of the words and signs that two texts share, each as often as it is in both."""
    first, second = (Counter(re.findall(r"\w+|[^\w\s]", text.casefold())) for text in (one, other))
    shared, total = (first & second).total(), first.total() + second.total()
    return 2 * shared / total if total else 1.0


def _best(rows: list[Row], keep: float) -> tuple[list[Row], Tally]:
    """Of every source the candidate of the highest score, and of these the share with the highest."""
    tally = Tally("best", {"keep": keep})
    ordered = sorted(rows, key=lambda row: (-row.found["score"], row.number))
    seen: set[int] = set()
    firsts = []
    for row in ordered:
        if row.found["of"] in seen:
            tally.drop("another of its source is better", row)
        else:
            seen.add(row.found["of"])
            firsts.append(row)
    for row in firsts[max(1, round(keep * len(firsts))) :]:
        tally.drop("not among the best", row)
    return tally.left(rows), tally


def paraphrase(records: Sequence[Demonstration], ask: Asker, args: Any, prompts: Mapping[str, str]):
    """Demonstrations whose last question is said in other words, and what each stage did; the answer stays."""
    asked = [_question(record) for record in records]
    known = [number for number, text in enumerate(asked) if text]
    questions = [fill(prompts["rewrite"], text=asked[number]) for number in known]
    drawn = ask(questions, args.answers, args.temperature)
    rows, rewritten = _candidates(drawn, "rewrite", prompts)
    rewritten.facts["without a question in words"] = len(records) - len(known)
    for row in rows:
        row.found["of"] = known[row.found["of"]]
        row.record = _asking(records[row.found["of"]], row.found["said"], "synthetic/paraphrase")
    rows = _usable(rows, rewritten, {number: asked[number] for number in known})
    verify = Tally("verify", {"by": args.verify})
    pairs = [(asked[row.found["of"]], row.found["said"]) for row in rows]
    read = one_of(("yes", "no"))
    drawn = ask([fill(prompts["verify"], text=text, back=back) for text, back in pairs], tokens=VERDICT, stage=2)
    for row, answers in zip(rows, drawn, strict=True):
        verdict = read(as_text(answers[0].completion)) if answers else None
        if verdict != "yes":
            verify.drop("no verdict" if verdict is None else "asks for something else", row)
    return verify.left(rows), [rewritten, verify]


def _candidates(drawn: Sequence[Sequence[Sample]], name: str, prompts: Mapping[str, str]) -> tuple[list[Row], Tally]:
    """A row for every answer, with its source under `of`."""
    tally = Tally(name, {"prompt": prompts[name]})
    tally.facts["sources without room"] = sum(not answers for answers in drawn)
    rows = [(number, sample) for number, answers in enumerate(drawn) for sample in answers]
    found = [
        Row(place, sample, {"of": number, "said": as_text(sample.completion).strip(), "takeable": takeable(sample)})
        for place, (number, sample) in enumerate(rows)
    ]
    return found, tally


def _usable(rows: list[Row], tally: Tally, originals: Mapping[int, str] | None = None) -> list[Row]:
    """Those that ended by themselves and say something that no other of their source says, nor the source itself."""
    seen = {(of, _plain(text)) for of, text in (originals or {}).items()}
    for row in rows:
        key = row.found["of"], _plain(row.found["said"])
        if not row.found["takeable"]:
            tally.drop("cut or empty", row)
        elif key in seen:
            tally.drop("said before", row)
        seen.add(key)
    return tally.left(rows)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _question(record: Demonstration) -> str:
    """The last message before the answer, where it is a user's; else nothing."""
    before = record.messages[:-1]
    return as_text(before[-1]).strip() if before and before[-1]["role"] == "user" else ""


def _asking(record: Demonstration, question: str, source: str) -> Demonstration:
    messages = [*record.messages[:-2], record.messages[-2] | {"content": question}, record.messages[-1]]
    return Demonstration(messages, source, record.finished)


def synonyms(records: Sequence[Demonstration], table: Mapping[str, Sequence[str]], args: Any):
    """Demonstrations with words of the users' last question replaced by others of a list, and what that did.

    Each place is replaced with the chance `share`, at least one of them; up to `answers` variants of a record differ.
    """
    tally = Tally("synonyms", {"words": len(table), "share": args.share})
    words = sorted(table, key=len, reverse=True)  # of "home town" and "home" the longer one
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, words))})(?!\w)", re.IGNORECASE)
    folded = {word.casefold(): list(others) for word, others in table.items()}
    rows: list[Row] = []
    tally.facts["without such a word"] = 0
    for number, record in enumerate(records):
        text = _question(record)
        if not pattern.search(text):
            tally.facts["without such a word"] += 1
            continue
        rng, seen = random.Random(f"{args.seed}/synonyms/{number}"), {text}
        for _ in range(4 * args.answers):  # chance may say the same twice
            if len(seen) > args.answers:
                break
            said = _replaced(text, pattern, folded, args.share, rng)
            if said not in seen:
                seen.add(said)
                row = Row(len(rows), _asking(record, said, "synthetic/synonyms"), {"of": number})
                tally.change("replaced", row, Row(number, record).excerpt())
                rows.append(row)
    return tally.left(rows), [tally]


def _replaced(text: str, pattern: re.Pattern, table: Mapping[str, list[str]], share: float, rng: random.Random) -> str:
    places = [found.span() for found in pattern.finditer(text)]
    chosen = {place for place in places if rng.random() < share} or {rng.choice(places)}
    for start, end in sorted(chosen, reverse=True):
        word = text[start:end]
        other = rng.choice(table[word.casefold()])
        other = other[:1].upper() + other[1:] if word[:1].isupper() else other
        text = text[:start] + other + text[end:]
    return text
