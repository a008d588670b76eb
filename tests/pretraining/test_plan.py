"""What a step reads: shares, epochs, bounds, whole stages, and rates by tokens."""

import math
from collections import Counter
from itertools import chain, pairwise

import pytest

from llama_align.data import SourceError
from llama_align.pretraining import Plan, Rates, Stage, StageError, StepRows
from llama_align.pretraining.mixes import MIXES
from llama_align.pretraining.stages import Timeline

NAMES = ("a", "b", "c")


def stages_of(*stages: dict) -> list[Stage]:
    return [Stage.parse(stage, number, None) for number, stage in enumerate(stages)]


@pytest.fixture
def plan_of(source_of):
    def make(*stages: dict, seed: int = 0, sizes=(40_000, 9000, 5000), **options) -> Plan:
        options = {"most_epochs": math.inf} | options
        sources = [source_of(name, size, **options) for name, size in zip(NAMES, sizes, strict=True)]
        return Plan(sources, stages_of(*stages), seed)

    return make


RAMP = (
    {"tokens": 6400, "context": 32, "batch": 320, "mixture": {"a": 0.5, "b": 0.3, "c": 0.2}},
    {"tokens": 12_800, "context": 64, "batch": 1280, "mixture": {"a": 0.5, "c": 0.5}},
    {"tokens": 2560, "context": 128, "batch": 1280, "mixture": {"b": 3, "c": 1}},
)


def read(plan: Plan, processes: int = 1) -> list[list[tuple[int, tuple[int, ...]]]]:
    """Of every step the source and the ids of its rows, as processes see them."""
    rows, found = StepRows(plan, processes, 100_000), []
    for step in range(plan.steps):
        items = [rows[step * processes + process] for process in range(processes)]
        pairs = [zip(item["source"].tolist(), item["input_ids"].tolist(), strict=True) for item in items]
        found.append([(source, tuple(ids)) for source, ids in chain.from_iterable(pairs)])
    return found


@pytest.mark.parametrize("mix", MIXES)
def test_shares_of_a_million_tokens_are_within_a_thousandth(source_of, mix):
    shares = MIXES[mix]
    sources = [source_of(name, 300_000, most_epochs=9) for name in shares]
    plan = Plan(sources, stages_of({"tokens": 1_000_000, "context": 256, "batch": 8192, "mixture": mix}), 1)
    for processes in (1, 2, 8):
        rows = StepRows(plan, processes, 300_000)
        tokens = Counter()
        for item in range(len(rows)):
            found = rows[item]
            for source, row in zip(found["source"].tolist(), found["input_ids"], strict=True):
                tokens[source] += len(row)
        total = sum(tokens.values())
        assert 1_000_000 <= total < 1_000_000 + 8192
        for number, (name, share) in enumerate(shares.items()):
            assert abs(tokens[number] / total - share) < 1e-3, name
            assert plan.epochs()[name]["tokens"] == tokens[number]


def test_epochs_are_a_count_by_hand_and_no_token_is_read_twice_before_all_were(plan_of):
    plan = plan_of(*RAMP)
    counts = [Counter() for _ in NAMES]
    for step in read(plan):
        for source, ids in step:
            counts[source].update(ids)
    sizes = (40_000, 9000, 5000)
    for number, (name, row) in enumerate(plan.epochs().items()):
        tokens = sum(counts[number].values())
        assert (row["tokens"], row["epochs"]) == (tokens, tokens / sizes[number])
        whole = tokens // (sizes[number] // 128 * 128)
        # at the edge of two epochs a token may be in both their offsets
        assert max(counts[number].values()) <= whole + 1, name
        assert row["share"] == pytest.approx(tokens / sum(sum(c.values()) for c in counts))
    assert plan.epochs()["c"]["epochs"] > 1.6
    assert plan.epochs(plan.time.firsts[1])["b"]["tokens"] == 0.3 * 6400


def test_a_step_is_a_function_of_its_number_and_of_the_seed(plan_of):
    one, processes = read(plan_of(*RAMP)), [read(plan_of(*RAMP), n) for n in (2, 5)]
    for other in processes:
        assert [sorted(step) for step in other] == [sorted(step) for step in one]
    last = StepRows(plan_of(*RAMP), 1, 100_000)[len(one) - 1]
    assert [tuple(row) for row in last["input_ids"].tolist()] == [ids for _, ids in one[-1]]
    other = read(plan_of(*RAMP, seed=1))
    assert [[s for s, _ in step] for step in other] == [[s for s, _ in step] for step in one]
    assert not {ids for step in other for _, ids in step} <= {ids for step in one for _, ids in step}
    starts = [ids[0] for step in one[:20] for source, ids in step if source == 0]
    assert starts != sorted(starts)
    assert len({ids[0] // 128 for _, ids in one[0]}) == 10, "the rows of a batch are not neighbours"


def test_rows_restart_where_documents_do_and_windows_keep_their_labels(plan_of):
    plan = plan_of({"tokens": 640, "context": 64, "batch": 640, "window": 16, "mixture": {"a": 1}})
    item = StepRows(plan, 1, 100_000)[0]
    for ids, labels, positions in zip(item["input_ids"], item["labels"], item["position_ids"], strict=True):
        begins = {0} | {i for i in range(64) if ids[i] % 37 == 0}
        assert [i for i in range(64) if labels[i] == -100] == sorted(begins)
        assert [i for i in range(64) if positions[i] == 0] == sorted(begins | {0, 16, 32, 48})
        assert all(after in (0, before + 1) for before, after in pairwise(positions.tolist()))


def test_documents_of_a_step_are_named(plan_of):
    plan = plan_of(*RAMP)
    named, rows = plan.documents(0), read(plan)[0]
    for text, (source, ids) in zip(named, rows, strict=True):
        name, _, numbers = text.partition(": ")
        first, _, last = numbers.partition("-")
        assert name == NAMES[source]
        assert (int(first), int(last or first)) == (ids[0] // 37, ids[-1] // 37)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ({"tokens": 0}, "key 'tokens': found 0 (int), expected a whole number of tokens above 0"),
        ({"batch": 100}, "key 'batch': found 100 (int), expected a whole number of rows of 32 tokens"),
        ({"window": 33}, "key 'window': found 33 (int), expected a whole number of at most 32, the context"),
        ({"token": 3}, "unknown key 'token', known: tokens, context, batch"),
        ({"mixture": "llama-9"}, "key 'mixture': found 'llama-9', expected shares by source, or one of llama-1"),
        ({"mixture": {"a": -1}}, "key 'mixture': found an object with a, expected shares of at least 0"),
        ({"mixture": {"d": 1}}, "key 'mixture': found 'd', expected sources among a, b, c"),
        ({"mixture": None}, "key 'mixture': found none, and no weight of the source a"),
        ({"learning_rate": 1e-3}, "key 'learning_rate': found 0.001 (float), expected none without a schedule"),
        ({"schedule": {"warmup": 3}}, "key 'schedule': found an object with warmup, expected a mapping with its type"),
        ({"schedule": {"type": "linear", "warmup": 0.1}}, "expected a whole number of tokens as its warmup"),
        ({"schedule": {"type": "constant", "warmup": 64}}, "expected only type with constant"),
        ({"schedule": {"type": "linear", "warmup": 641}}, "expected warmup of at most 640 tokens, those of the stage"),
        (
            {"schedule": {"type": "warmup_stable_decay", "warmup": 40, "num_decay_steps": 601}},
            "expected warmup and num_decay_steps of at most 640 tokens, those of the stage",
        ),
    ],
)
def test_a_stage_that_cannot_be_trained_is_refused(plan_of, stage, said):
    with pytest.raises(StageError, match=r"stages\[0\]") as error:
        plan_of({"tokens": 640, "context": 32, "batch": 320, "mixture": {"a": 1}} | stage)
    assert said in str(error.value)


def test_bounds_on_epochs_and_sizes_are_refused_by_name(plan_of, source_of):
    stage = {"tokens": 6400, "context": 32, "batch": 320, "mixture": {"a": 1, "b": 1}}
    plan_of(stage, sizes=(3300, 3300, 100), most_epochs=1.0)
    with pytest.raises(StageError, match=r"3200 tokens of the source a, 1\.00 epochs, expected at most 1 of its 3199"):
        plan_of(stage, sizes=(3199, 3300, 100), most_epochs=1.0)
    plan_of(stage, sizes=(1700, 1700, 100), most_epochs=2.0)
    with pytest.raises(StageError, match="found contexts of 48 and 64, expected the longer a multiple"):
        plan_of(stage, {"tokens": 1, "context": 48, "batch": 48, "mixture": {"a": 1}}, stage | {"context": 64})
    with pytest.raises(StageError, match="found 31 tokens in the source b, expected at least 32"):
        plan_of(stage, sizes=(3300, 31, 100))
    with pytest.raises(StageError, match="found the name 'a' twice"):
        Plan([source_of("a", 100), source_of("a", 100)], stages_of(stage), 0)
    with pytest.raises(SourceError, match=r"stages\[0\], key 'batch': found 10 rows of 32 for 4 processes"):
        StepRows(plan_of(stage), 4, 100)


def test_rates_follow_tokens_through_stages_of_other_batches():
    stages = stages_of(
        {"tokens": 1000, "context": 10, "batch": 10},
        {"tokens": 3000, "context": 10, "batch": 30},
        {"tokens": 1000, "context": 10, "batch": 50, "schedule": {"type": "linear"}},
    )
    time = Timeline(stages)
    rates = Rates(time, 1e-3, "cosine_with_min_lr", {"min_lr_rate": 0.1}, 20)
    for step, tokens in ((0, 0), (10, 100), (20, 200), (100, 1000), (150, 2500)):
        assert time.tokens_before(step) == tokens
        whole = 0.1 + 0.9 * (1 + math.cos(math.pi * (tokens - 200) / 3800)) / 2 if tokens > 200 else tokens / 200
        assert rates.factor(step) == pytest.approx(whole)
    # linear to zero from where the cosine ends
    assert [rates.factor(200 + n) for n in (0, 10, 19)] == pytest.approx([0.1, 0.05, 0.005])
    root = Rates(time, 1e-3, "constant", {}, 0, root=True)
    assert [root.factor(step) for step in (0, 100, 200)] == pytest.approx([1, math.sqrt(3), math.sqrt(5)])
    with pytest.raises(StageError, match="lr_scheduler_type: found reduce_lr_on_plateau"):
        Rates(time, 1e-3, "reduce_lr_on_plateau", {}, 0)
    with pytest.raises(StageError, match="found num_decay_steps: 10, which counts steps, expected a stage"):
        Rates(time, 1e-3, "warmup_stable_decay", {"num_decay_steps": 10}, 0)
    share = Rates(Timeline(stages[:2]), 1e-3, "linear", {}, 0.1)
    assert share.factor(10) == pytest.approx(100 / 200), "a tenth of 200 steps is 20, the first 200 tokens"


def test_rates_of_a_stages_own_schedule_are_those_that_are_written():
    cosine = {"type": "cosine_with_min_lr", "min_lr": 1e-5}
    stages = stages_of(
        {"tokens": 1000, "context": 10, "batch": 10},
        {"tokens": 4000, "context": 10, "batch": 40, "schedule": cosine, "learning_rate": 1e-4},
        {"tokens": 4000, "context": 10, "batch": 10, "schedule": {"type": "linear"}},
    )
    for root in (False, True):
        rates = Rates(Timeline(stages), 1e-3, "constant", {}, 0, root=root)
        assert rates.factor(100) * 1e-3 == pytest.approx(1e-4)
        assert rates._end(1) * rates._growth[1] * 1e-3 == pytest.approx(1e-5)
        # from there, by the root of a quarter of the batch
        assert rates.factor(200) * 1e-3 == pytest.approx(0.5e-5 if root else 1e-5)
    with pytest.raises(StageError, match=r"stages\[2\], key 'schedule': found a rate of 0 at its beginning"):
        Rates(Timeline([*stages, stages[2]]), 1e-3, "constant", {}, 0)


def test_a_stage_that_is_no_mapping_is_refused():
    with pytest.raises(StageError, match=r"stages\[0\]: found 400 \(int\), expected a mapping with tokens"):
        Stage.parse(400, 0, 32)


LONGER = {"tokens": 2560, "context": 256, "batch": 1280}
CHANGES = {
    "sources.c.block: found 128, expected 256": lambda *stages: (*stages, LONGER | {"mixture": {"c": 1}}),
    r"stages.stages\[1\].rows.a.end: found 150, expected 170": lambda a, b, c: (a, b | {"tokens": 15_360}, c),
    r"stages.stages\[0\].rows.b.share: found 3, expected 2": lambda a, *rest: (
        a | {"mixture": {"a": 0.5, "b": 0.2, "c": 0.3}},
        *rest,
    ),
    r"stages.stages\[1\].batch: found 1280, expected 640": lambda a, b, c: (a, b | {"batch": 640}, c),
    r"stages.stages\[0\].rows.a.end: found 100, expected 1000": lambda a, b, c: (a | {"tokens": 64_000}, b, c),
}


@pytest.mark.parametrize("said", CHANGES)
def test_a_run_does_not_go_on_with_other_rows_than_it_was_trained_on(plan_of, tmp_path, said):
    plan_of(*RAMP).save(tmp_path, 25)  # within the second stage, of 10 steps behind 20
    with pytest.raises(StageError, match=rf"plan.json, {said}, which this run has; what was trained on stays"):
        plan_of(*CHANGES[said](*RAMP)).check(tmp_path)


def test_a_run_goes_on_with_stages_behind_and_other_sources(plan_of, tmp_path):
    plan_of(*RAMP).save(tmp_path, 25)
    plan_of(*RAMP, LONGER | {"mixture": {"c": 1}, "context": 128}).check(tmp_path)
    plan_of(*RAMP[:2], RAMP[2] | {"mixture": {"b": 1, "c": 5}, "tokens": 12_800}).check(tmp_path)
    plan_of(RAMP[0] | {"mixture": {"a": 50, "b": 30, "c": 20}}, *RAMP[1:]).check(tmp_path)
    with pytest.raises(StageError, match="seed: found 0, expected 1"):
        plan_of(*RAMP, seed=1).check(tmp_path)
    with pytest.raises(StageError, match=r"sources\.a\.tokens: found 40000, expected 41000"):
        plan_of(*RAMP, sizes=(41_000, 9000, 5000)).check(tmp_path)
    plan_of(*RAMP).check(tmp_path / "of an older version")
