"""The rules applied: each takes rows and a tally, and drops or changes some (Llama 3, section 4.2.3)."""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence

from ..chat import as_text
from ..data.shares import rates
from . import asking, cleaning
from .ledger import Tally
from .rows import SCORED, Row
from .rules import Balance, Best, Chance, Clean, Difficulty, Distinct, Quality, Rule, Topics, WorstPairs, options_of
from .scores import Scores, mean_rank

OTHER = "other"


def refine(
    rows: list[Row], rules: Sequence[tuple[str, Rule]], scores: Scores, embedder: str | None, seed: int
) -> tuple[list[Row], list[Tally]]:
    """What the rules leave, in order, and what each did.

    Args:
        embedder: a checkpoint whose states are the vectors of `distinct`; None: weighted words.
    """
    tallies = []
    for name, rule in rules:
        tally = Tally(name, options_of(rule))
        if rows:
            _apply(rule, rows, tally, scores, embedder, seed)
        rows = tally.left(rows)
        tallies.append(tally)
    return rows, tallies


def _apply(rule: Rule, rows: list[Row], tally: Tally, scores: Scores, embedder: str | None, seed: int) -> None:
    if isinstance(rule, Distinct):
        distinct(rule, rows, tally, embedder)
    elif isinstance(rule, Chance):
        chance(rule, rows, tally, seed)
    else:
        WITH_SCORES[type(rule)](rule, rows, tally, scores)


def clean(rule: Clean, rows: Sequence[Row], tally: Tally, _: Scores) -> None:
    """Emoji and exclamation marks of every text of the assistant's; a preference whose two answers become one goes."""
    for row in rows:
        before = row.excerpt()
        if rule.emoji == "drop" and cleaning.has_emoji(as_text(row.answer[0])):
            tally.drop("emoji", row)
            continue
        changed = []
        if rule.emoji == "remove" and row.rewrite(cleaning.without_emoji):
            changed.append("emoji")
        if rule.exclamations is not None and row.rewrite(lambda text: cleaning.calmer(text, rule.exclamations)):
            changed.append("exclamation marks")
        for what in changed:
            tally.change(what, row, before)
        if changed and row.is_silent:
            tally.drop("nothing left once cleaned", row)
        elif changed and (chosen := getattr(row.record, "chosen", None)) is not None and chosen == row.record.rejected:
            tally.drop("equal answers once cleaned", row)


def balance(rule: Balance, rows: Sequence[Row], tally: Tally, _: Scores) -> None:
    """Answers with one of the phrases, down to their share of what is left; those of the least worth go."""
    saying = [row for row in rows if cleaning.says(as_text(row.answer[0]), rule.phrases)]
    most = cleaning.allowed(len(rows) - len(saying), rule.share)
    tally.facts = {"with a phrase": len(saying), "kept of these": min(most, len(saying))}
    for row in by_worth(saying)[most:]:
        tally.drop("phrase over its share", row)


def topics(rule: Topics, rows: Sequence[Row], tally: Tally, scores: Scores) -> None:
    """A class for every record, and classes down to their shares."""
    if rule.classes:
        end = f"Answer with one of: {', '.join(rule.classes)}."
        question = "What is the user's last message in this dialog about?"
        tally.facts |= scores.ask("topic", rows, question, end, asking.one_of(rule.classes), None)
        for row in rows:
            row.found["topic"] = row.found["topic"] or OTHER
    else:
        for row, label in zip(rows, scores.labels([row.dialog for row in rows]), strict=True):
            row.found["topic"] = label
    kept = [row for row in rows if not rule.keep or row.found["topic"] in rule.keep]
    for row in rows:
        if rule.keep and row.found["topic"] not in rule.keep:
            tally.drop(f"topic not asked for: {row.found['topic']}", row)
    counts = Counter(row.found["topic"] for row in kept)
    tally.facts["topics"] = dict(sorted(Counter(row.found["topic"] for row in rows).items()))
    for topic, rate in rates(counts, rule.shares).items():
        of_topic = [row for row in kept if row.found["topic"] == topic]
        for row in by_worth(of_topic)[math.floor(rate * len(of_topic) + 1e-6) :]:
            tally.drop(f"topic over its share: {topic}", row)


def quality(rule: Quality, rows: Sequence[Row], tally: Tally, scores: Scores) -> None:
    """Good by the reward models' top share, by the model's points, or by both; `quality` is the mean of the ranks."""
    good: dict[str, set[int]] = {}
    if "reward" in rule.by:
        tally.facts |= scores.reward(rows)
        known = sorted((row for row in rows if row.found["reward"] is not None), key=lambda row: -row.found["reward"])
        good["reward"] = {row.number for row in known[: round(rule.top * len(rows))]}
    if "model" in rule.by:
        most, question = asking.SCALES[rule.scale]
        read = asking.number_up_to(most)
        tally.facts |= scores.ask("rating", rows, question, f"Answer with a number from 0 to {most}.", read, None)
        good["model"] = {row.number for row in rows if row.found["rating"] == most}
    tally.facts |= {f"good by {name}": len(numbers) for name, numbers in good.items()}
    if len(good) > 1:
        tally.facts["good by both"] = len(set.intersection(*good.values()))
    names = [{"reward": "reward", "model": "rating"}[name] for name in rule.by]
    for row, rank in zip(rows, mean_rank(rows, names), strict=True):
        row.found["quality"] = rank
    kept = (set.union if rule.union == "either" else set.intersection)(*good.values())
    for row in rows if rule.drop else ():
        if row.number not in kept:
            tally.drop("not of high quality", row)


def difficulty(rule: Difficulty, rows: Sequence[Row], tally: Tally, scores: Scores) -> None:
    """`difficulty` is the mean of the ranks by what was asked for; the hardest share stays."""
    names = []
    for one in rule.by:
        if one == "model":
            read, end = asking.number_up_to(asking.POINTS), f"Answer with a number from 1 to {asking.POINTS}."
            tally.facts |= scores.ask("points", rows, asking.DIFFICULTY, end, read, None)
        elif one == "intentions":
            tally.facts |= scores.ask("intentions", rows, asking.INTENTIONS, "Intentions:", asking.lines_in, None)
        else:
            tally.facts |= scores.spread(rows)
        names.append("points" if one == "model" else one)
    for row, rank in zip(rows, mean_rank(rows, names), strict=True):
        row.found["difficulty"] = rank
    hardest = sorted(rows, key=lambda row: (-row.found["difficulty"], row.number))
    for row in hardest[max(1, round(rule.hardest * len(rows))) :]:
        tally.drop("too easy", row)


def distinct(rule: Distinct, rows: Sequence[Row], tally: Tally, embedder: str | None) -> None:
    """Clusters of whole dialogs, each gone through by worth; a record goes that is near one that stays.

    Llama 3: "We first cluster these complete dialogs using RoBERTa and within each cluster sort them by quality score x
    difficulty score. We then do greedy selection by iterating through all sorted examples, and only keeping the ones
    that have maximum cosine similarity less than a threshold to the examples seen so far in the cluster."
    """
    from ..curation.semantic import Space, near, nearest  # the extra `curation`, for this rule alone

    if len(rows) < 2:
        return
    ordered = by_worth(rows)
    texts = [row.dialog for row in ordered]
    space = Space.fit(texts, embedder, rule.dimensions, max(1, len(texts) // rule.cluster))
    vectors = space.vectors(texts)
    clusters = nearest(vectors, space.centres)
    for cluster in sorted(set(clusters.tolist())):
        places = [place for place, found in enumerate(clusters) if found == cluster]
        for goes, stays, cosine in near(vectors[places], rule.similarity):
            kept = ordered[places[stays]]
            tally.drop("near in meaning", ordered[places[goes]], f" ~ {cosine:.3f} {kept.excerpt()}")
    tally.facts = {"clusters": len(set(clusters.tolist())), "ordered by": _order_of(rows)}


def worst_pairs(rule: WorstPairs, rows: Sequence[Row], tally: Tally, scores: Scores) -> None:
    """Pairs whose chosen answer the reward models prefer least; one without a score goes."""
    tally.facts = scores.gap(rows)
    known = [row for row in rows if row.found["gap"] is not None]
    tally.facts["chosen scores lower"] = sum(row.found["gap"] < 0 for row in known)
    worst = sorted(known, key=lambda row: (row.found["gap"], row.number))
    if rule.gap is not None:
        worst = [row for row in worst if row.found["gap"] < rule.gap]
    else:
        worst = worst[: round(rule.drop * len(known))]
    for row in rows:
        if row.found["gap"] is None:
            tally.drop("without a score", row)
    for row in worst:
        tally.drop("among the worst pairs", row)


def best(rule: Best, rows: Sequence[Row], tally: Tally, _: Scores) -> None:
    """Few of the highest worth (Llama 2, section 3.1: "quality is all you need")."""
    count = min(len(rows), rule.count or max(1, round(rule.share * len(rows))))
    if rule.even:
        groups: dict[str, list[Row]] = {}
        for row in by_worth(rows):
            groups.setdefault(row.found["topic"], []).append(row)
        # one of each topic in turn, until there are enough
        turns = (row for turn in range(len(rows)) for group in groups.values() for row in group[turn : turn + 1])
        kept = {row.number for _, row in zip(range(count), turns, strict=False)}
    else:
        kept = {row.number for row in by_worth(rows)[:count]}
    for row in rows:
        if row.number not in kept:
            tally.drop("not among the best", row)


def chance(rule: Chance, rows: Sequence[Row], tally: Tally, seed: int) -> None:
    """So many, whichever the seed says."""
    count = min(len(rows), rule.count or max(1, round(rule.share * len(rows))))
    drawn = sorted(rows, key=lambda row: hashlib.sha256(f"{seed}\0{row.number}\0{row.digest}".encode()).digest())
    for row in drawn[count:]:
        tally.drop("not drawn", row)


WITH_SCORES: dict[type[Rule], Callable[..., None]] = {
    Clean: clean,
    Balance: balance,
    Topics: topics,
    Quality: quality,
    Difficulty: difficulty,
    WorstPairs: worst_pairs,
    Best: best,
}


def by_worth(rows: Sequence[Row]) -> list[Row]:
    """The rows of the highest worth first, of equal ones the earlier."""
    return sorted(rows, key=lambda row: (-row.worth, row.number))


def _order_of(rows: Sequence[Row]) -> str:
    known = [name for name in ("quality", "difficulty") if name in rows[0].found]
    return " x ".join(known) or "place"


def decisions(rows: Sequence[Row], tallies: Sequence[Tally]) -> list[dict]:
    """For every row that was read which rule dropped it and why, and what was found out about it."""
    gone = {number: f"{tally.rule}: {reason}" for tally in tallies for number, reason in tally.gone.items()}
    names = ("topic", *SCORED)
    return [
        {"row": row.number, "dropped": gone.get(row.number)}
        | {name: row.found[name] for name in names if row.found.get(name) is not None}
        for row in rows
    ]
