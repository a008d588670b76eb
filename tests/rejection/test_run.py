"""Rejection sampling as a recipe: kills, rounds, temperatures, pairs, and any number of processes."""

import json
import os
import random
import runpy
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from llama_align.chat import as_text, settled
from llama_align.data import load_records, write_jsonl
from llama_align.recipe import engines
from llama_align.rejection import run as rejection
from llama_align.rewards import RewardScorer
from llama_align.sampling import DialogSampler

from ..docs.metric_names import assert_explained
from ..launch.warm import LAUNCHER

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "rejection_sampling.py"
# the whole acceptance: LLAMA_ALIGN_KILLS=20 LLAMA_ALIGN_KILL_PROMPTS=1000
KILLS = int(os.environ.get("LLAMA_ALIGN_KILLS", 4))
KILL_PROMPTS = int(os.environ.get("LLAMA_ALIGN_KILL_PROMPTS", 60))
WHOLE = ("samples.jsonl", "best.jsonl", "preferences.jsonl", "metrics.json", "best_of_k.svg")


def said(answer) -> str:
    """An answer that can be counted: a model with random weights samples calls of tools, too, which are messages."""
    return json.dumps(answer, sort_keys=True)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tiny_config, tokenizer):
    """Two policies, two reward models and a judge, none of which learned anything."""
    folder = tmp_path_factory.mktemp("models")
    causal, scored = AutoModelForCausalLM, AutoModelForSequenceClassification
    kinds = {"policy": causal, "other": causal, "helpfulness": scored, "safety": scored, "judge": scored}
    for seed, (name, auto) in enumerate(kinds.items()):
        torch.manual_seed(seed)
        auto.from_config(tiny_config(num_labels=1)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return {name: str(folder / name) for name in kinds}


def write_prompts(path: Path, count: int, word: str = "bado") -> str:
    objectives = ("helpfulness", "safety")
    rows = [
        {"messages": [{"role": "user", "content": f"{word} {i}?"}], "objective": objectives[i % 2]}
        for i in range(count)
    ]
    write_jsonl(path, rows)
    return str(path)


@pytest.fixture
def options(tmp_path, models):
    return {
        "model": models["policy"],
        "reward_models": {"helpfulness": models["helpfulness"]},
        "datasets": [write_prompts(tmp_path / "prompts.jsonl", 7)],
        "answers": 20,
        "max_new_tokens": 20,
        "prompts_per_shard": 3,
    }


@pytest.fixture
def run(tmp_path, options, monkeypatch):
    """Runs rejection sampling on seven prompts and returns how many it sampled at a time, and how many it scored."""

    def call(output: str, dies_at: int | None = None, **changes) -> tuple[list[int], int]:
        asked, scored = [], []

        class Mortal(DialogSampler):
            def __call__(self, prompts, *args, **kwargs):
                if len(asked) == dies_at:
                    raise KeyboardInterrupt
                asked.append(len(prompts))
                return super().__call__(prompts, *args, **kwargs)

        score = RewardScorer.score
        with monkeypatch.context() as patch:
            patch.setattr(engines, "DialogSampler", Mortal)
            patch.setattr(RewardScorer, "score", lambda self, ids: (scored.append(len(ids)), score(self, ids))[1])
            script = runpy.run_path(str(RECIPE))
            arguments = script["RejectionSamplingArguments"](output_dir=str(tmp_path / output), **options | changes)
            script["main"](arguments)
        return asked, sum(scored)

    return call


def samples_of(path: Path) -> list:
    return load_records([str(path / "samples.jsonl")], "sample")[0]


def metrics_of(path: Path) -> dict:
    assert_explained(path)
    return json.loads((path / "metrics.json").read_text())


def same_files(first: Path, second: Path, names: tuple[str, ...] = WHOLE) -> bool:
    there = [name for name in names if (first / name).exists()]
    return bool(there) and all((first / name).read_bytes() == (second / name).read_bytes() for name in there)


def test_a_killed_run_ends_in_the_files_of_an_undisturbed_one(run, tmp_path):
    assert run("undisturbed") == ([3, 3, 1], 140)
    with pytest.raises(KeyboardInterrupt):
        run("killed", dies_at=1)
    assert not (tmp_path / "killed" / "samples.jsonl").exists()
    assert run("killed")[0] == [3, 1], "the first shard is there"
    assert same_files(tmp_path / "undisturbed", tmp_path / "killed")
    samples = samples_of(tmp_path / "killed")
    assert len(samples) == 140
    assert len({said(s.completion) for s in samples}) > 100, "every prompt has random numbers of its own"
    assert run("whole", prompts_per_shard=7)[0] == [7]
    whole = [s.completion for s in samples_of(tmp_path / "whole")]
    assert whole == [s.completion for s in samples], "whatever the size of a shard"
    best = load_records([str(tmp_path / "killed" / "best.jsonl")], "demonstration")[0]
    finished = {s.prompt[0]["content"] for s in samples if s.finished and as_text(s.completion).strip()}
    assert [d.messages[0]["content"] for d in best] == sorted(finished)
    assert not (tmp_path / "killed" / "preferences.jsonl").exists()


def test_shards_serve_another_choice_but_no_other_checkpoint(run, tmp_path, tiny_config, tokenizer, options):
    model = str(tmp_path / "policy")
    for seed in (0, 1):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(tiny_config()).save_pretrained(model)
        tokenizer.save_pretrained(model)
        assert run("out", model=model)[0] == [3, 3, 1], "whatever lay in this directory before"
    assert metrics_of(tmp_path / "out")["rank"] == "per_prompt"
    assert run("out", model=model, keep=0.5, rank="raw") == ([], 0), "another choice among the same samples"
    assert metrics_of(tmp_path / "out")["rank"] == "raw"
    earlier = [str(tmp_path / "out" / "samples.jsonl")]
    assert run("out", model=model, earlier=earlier) == ([], 0), "the same answers again"
    assert metrics_of(tmp_path / "out")["duplicates"] >= metrics_of(tmp_path / "out")["answers"]
    assert run("out", model=model, temperature=0.7)[0] == [3, 3, 1]
    prompts = Path(options["datasets"][0])
    prompts.write_text(prompts.read_text().replace("bado", "kilu"))
    assert run("out", model=model)[0] == [3, 3, 1], "other prompts in the same file"


def test_a_moved_run_samples_nothing_again_and_writes_the_same_bytes(run, tmp_path, models, options):
    first, second = tmp_path / "here", tmp_path / "there"
    shutil.copytree(models["policy"], first / "sft")
    assert run("here/out", model=str(first / "sft"))[0] == [3, 3, 1]
    before = {name: (first / "out" / name).read_bytes() for name in WHOLE if (first / "out" / name).exists()}
    first.rename(second)
    assert run("there/out", model=str(second / "sft")) == ([], 0), "the same weights elsewhere"
    assert before == {name: (second / "out" / name).read_bytes() for name in before}
    assert {sample.checkpoint for sample in samples_of(second / "out")} == {"sft"}
    (second / "sft").rename(second / "chat")
    assert run("there/out", model=str(second / "chat")) == ([], 0), "or under another name, which the samples take"
    assert {sample.checkpoint for sample in samples_of(second / "out")} == {"chat"}


def test_another_reward_model_scores_the_samples_that_are_there(run, tmp_path, models):
    run("out")
    before = [s.completion for s in samples_of(tmp_path / "out")]
    two = {"helpfulness": models["helpfulness"], "safety": models["safety"]}
    assert run("out", reward_models=two) == ([], 140), "only by the new one"
    after = samples_of(tmp_path / "out")
    assert [s.completion for s in after] == before
    assert set(after[0].rewards) == {"helpfulness", "safety", "combined"}
    assert metrics_of(tmp_path / "out")["score"] == "combined"


def test_earlier_answers_compete_under_the_current_reward_model(run, tmp_path, models):
    cache = str(tmp_path / "cache")
    run("one", score_cache=cache, max_new_tokens=40)
    stale = samples_of(tmp_path / "one")
    rows = [s.to_dict() | {"rewards": {"helpfulness": 99.0}} for s in stale]
    write_jsonl(tmp_path / "stale.jsonl", rows)
    earlier = [str(tmp_path / "stale.jsonl")]
    both = {"earlier": earlier, "score_cache": cache, "round": 2, "seed": 1, "max_new_tokens": 40}
    assert run("two", **both) == ([3, 3, 1], 140), "only the new ones are scored"
    metrics, new = metrics_of(tmp_path / "two"), samples_of(tmp_path / "two")
    assert metrics["best"]["q75"] < 50, "not under scores of another model"
    assert metrics["earlier"] == 140
    assert metrics["samples"] == 280
    assert {s.round for s in new} == {2}
    best = load_records([str(tmp_path / "two" / "best.jsonl")], "demonstration")[0]
    pool = {}
    for s in [*new, *stale]:
        if s.finished and s.completion:
            pool.setdefault(s.prompt[0]["content"], []).append((s.rewards["helpfulness"], s.completion))
    assert {d.messages[0]["content"]: d.messages[1]["content"] for d in best} == {
        prompt: max(answers, key=lambda answer: answer[0])[1] for prompt, answers in pool.items()
    }
    # a repeated answer is the new one's; one with calls is no text
    of = {json.dumps([s.prompt[0]["content"], s.completion]): s.round for s in [*stale, *new]}
    rounds = Counter(of[json.dumps([d.messages[0]["content"], d.messages[1]["content"]])] for d in best)
    assert metrics["chosen_by_round"] == {str(number): count for number, count in sorted(rounds.items())}
    assert run("other", reward_models={"helpfulness": models["safety"]}, **both)[1] == 280, "another model scores all"


def test_several_checkpoints_and_temperatures(run, tmp_path, models):
    sources = {"model": [models["policy"], models["other"]], "temperature": [0.5, 1.5]}
    assert run("out", answers=4, **sources)[0] == [3, 3, 1] * 4
    samples = samples_of(tmp_path / "out")
    assert len(samples) == 7 * 4 * 4
    origins = list(dict.fromkeys((Path(s.checkpoint).name, s.temperature, s.seed) for s in samples))
    assert [origin[:2] for origin in origins] == [("policy", 0.5), ("policy", 1.5), ("other", 0.5), ("other", 1.5)]
    assert len({seed for _, _, seed in origins}) == 4, "each with random numbers of its own"
    curves = metrics_of(tmp_path / "out")["best_of_k"]
    assert [(c["checkpoint"], c["temperature"]) for c in curves] == [origin[:2] for origin in origins]
    assert all(c["prompts"] == 7 and c["k"] == [1, 2, 3, 4] and c["best"] == sorted(c["best"]) for c in curves)
    # one source alone draws the same answers as among others
    run("alone", answers=4, temperature=0.5)
    assert samples_of(tmp_path / "alone") == samples[:28]


def test_the_temperature_with_the_best_expected_reward_is_sampled(run, tmp_path, models):
    search = [write_prompts(tmp_path / "search.jsonl", 5, word="kilu")]
    heats = [0.2, 0.8, 1.6]
    run("out", temperature_search=heats, search_datasets=search, max_new_tokens=40)
    found = metrics_of(tmp_path / "out")["temperature_search"]
    best = {curve["temperature"]: curve["best"][-1] for curve in found["curves"]}
    assert list(best) == heats
    assert found["chosen"] == [{"checkpoint": "policy", "temperature": max(best, key=best.get)}]
    assert (found["prompts"], found["answers"]) == (5, 20)
    assert {s.temperature for s in samples_of(tmp_path / "out")} == {max(best, key=best.get)}
    picture = (tmp_path / "out" / "best_of_k.svg").read_text()
    assert picture.startswith("<svg xmlns=")
    assert all(f"T = {heat:g}" in picture for heat in heats)
    assert "var(" not in picture
    with pytest.raises(rejection.recipe.RecipeError, match="search_datasets: found 'bado 0\\?', which is in datasets"):
        run("both", temperature_search=heats, search_datasets=[str(tmp_path / "prompts.jsonl")])


def test_best_and_worst_become_graded_pairs(run, tmp_path):
    rules = {
        "select": ["top_share", "best_against_worst"],
        "share": 0.3,
        "gaps": {"better": 0.5, "slightly_better": 0.1},
    }
    run("out", max_new_tokens=40, **rules)
    metrics = metrics_of(tmp_path / "out")
    pairs = load_records([str(tmp_path / "out" / "preferences.jsonl")], "preference")[0]
    scores = {
        (s.prompt[0]["content"], said(s.completion)): s.rewards["helpfulness"] for s in samples_of(tmp_path / "out")
    }
    assert len(pairs) == metrics["pairs"] == sum(metrics["grades"].values()) > 3
    for pair in pairs:
        prompt = pair.prompt[0]["content"]
        gap = scores[prompt, said(pair.chosen)] - scores[prompt, said(pair.rejected)]
        assert pair.grade == ("better" if gap >= 0.5 else "slightly_better")
    best = load_records([str(tmp_path / "out" / "best.jsonl")], "demonstration")[0]
    assert len(best) == metrics["kept"] > 7, "several to a prompt"
    run("pairs", max_new_tokens=40, select="best_against_worst")
    assert not (tmp_path / "pairs" / "best.jsonl").exists()


def test_a_model_that_chose_nothing_scores_what_was_chosen(run, tmp_path, models):
    run("out", heldout_models={"judge": models["judge"]}, max_new_tokens=40)
    metrics = metrics_of(tmp_path / "out")
    guards = metrics["guards"]
    assert set(guards["chosen_against_random"]) == {"helpfulness", "heldout/judge"}
    assert guards["chosen_against_random"]["helpfulness"]["gain"] > 0
    assert -1 <= guards["length_correlation"] <= 1
    assert len(metrics["best_of_k"][0]["heldout"]["heldout/judge"]) == len(metrics["best_of_k"][0]["k"])
    assert set(metrics["best_of_k"][0]["heldout_gain"]) == {"heldout/judge"}
    assert isinstance(metrics["alarms"], list)
    best, samples = (tmp_path / "out" / "best.jsonl").read_bytes(), samples_of(tmp_path / "out")
    assert set(samples[0].rewards) == {"helpfulness", "heldout/judge"}
    run("without", max_new_tokens=40)
    assert (tmp_path / "without" / "best.jsonl").read_bytes() == best, "it has no say"


def test_another_choice_leaves_nothing_of_the_one_before(run, tmp_path):
    run("out", max_new_tokens=40, select=["best_of_k", "best_against_worst"])
    assert (tmp_path / "out" / "preferences.jsonl").exists()
    run("out", max_new_tokens=40, select="best_of_k")
    assert not (tmp_path / "out" / "preferences.jsonl").exists()
    assert metrics_of(tmp_path / "out")["pairs"] == 0
    with pytest.raises(rejection.recipe.RecipeError, match="reach the threshold"):
        run("out", max_new_tokens=40, threshold=1e9, rank="raw")
    assert not [name for name in WHOLE[1:] if (tmp_path / "out" / name).exists()], "no choice, no files of one"


def test_a_part_of_the_shards_and_then_the_rest(run, tmp_path):
    assert run("whole")[0] == [3, 3, 1]
    assert run("parts", part="1/2") == ([3], 0)
    assert not (tmp_path / "parts" / "samples.jsonl").exists()
    assert run("parts")[0] == [3, 1]
    assert samples_of(tmp_path / "parts") == samples_of(tmp_path / "whole")


def test_what_answers_depend_on_tells_shards_apart(run, tmp_path):
    sampled = {"answers": 20}
    assert run("out", **sampled)[0] == [3, 3, 1]
    before = {(s.prompt[0]["content"], said(s.completion)) for s in samples_of(tmp_path / "out")}
    assert run("out", max_cached_tokens=64, **sampled)[0] == [3, 3, 1]
    same = {(s.prompt[0]["content"], said(s.completion)) for s in samples_of(tmp_path / "out")}
    assert same == before, "other batches, the same random streams"
    for changes in ({"top_k": 40}, {"min_p": 0.01}, {"repetition_penalty": 1.1}):
        assert run("out", **changes, **sampled)[0] == [3, 3, 1]
        assert {(s.prompt[0]["content"], said(s.completion)) for s in samples_of(tmp_path / "out")} != before
    asked, scored = run("out", dtype="bfloat16", **sampled)
    assert asked == [3, 3, 1]
    assert scored == len({(s.prompt[0]["content"], said(settled(s.completion))) for s in samples_of(tmp_path / "out")})
    assert run("out", dtype="bfloat16", **sampled) == ([], 0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": [0.5, 0.5]}, r"temperature: found \[0.5, 0.5\], expected numbers of at least 0 that differ"),
        ({"temperature_search": [0.5]}, "temperature_search, search_datasets: found one of them"),
        ({"select": "best"}, "select: found 'best', expected best_of_k"),
        ({"select": "best_of_k", "earlier": ["x.jsonl"]}, "earlier: found files, expected none with best_of_k"),
        ({"answers": 0}, "answers: found 0, expected at least 1"),
        ({"datasets": []}, "datasets: found none, expected sources of prompts"),
        ({"model": []}, "model: found none, expected at least one checkpoint"),
        (
            {"threshold": 0.5},
            r"threshold: found 0.5 without rank, expected rank beside it \(per_prompt, ",
        ),
        ({"part": "8/8"}, "part: found '8/8', expected a number and how many parts there are, as 0/8 to 7/8, alone"),
        ({"part": "half"}, "part: found 'half', expected"),
        ({"rank": "score"}, "rank: found 'score', expected one of per_prompt, standardised, raw"),
        (
            {"threshold": 1e9, "rank": "per_prompt"},
            "found .* to choose from beside .* reach the threshold of 1000000000.0",
        ),
        (
            {"heldout_models": {"copy": "COPY"}},
            "heldout_models, copy: found .*copy, the same model as .*helpfulness, expe",
        ),
        ({"judge": "sandbox"}, "prompt 1, 'bado 0\\?', field 'task': found nothing, expected the task"),
    ],
)
def test_what_cannot_be(run, changes, message, models, tmp_path):
    if "heldout_models" in changes:
        shutil.copytree(models["helpfulness"], tmp_path / "copy")
        changes = {"heldout_models": {"copy": str(tmp_path / "copy")}}
    with pytest.raises(ValueError, match=message):
        run("out", **changes)


# -- processes


@pytest.fixture
def command(tmp_path, options, models):
    """The command of a run with everything in it, for a folder of results and so many prompts."""

    def make(output: str, prompts: int, answers: int, shard: int, launcher: tuple[str, ...] = ()) -> list[str]:
        config = options | {
            "output_dir": str(tmp_path / output),
            "datasets": [{"path": write_prompts(tmp_path / f"{prompts}.jsonl", prompts)}],
            "reward_models": {name: models[name] for name in ("helpfulness", "safety")},
            "heldout_models": {"judge": models["judge"]},
            "select": ["best_of_rounds", "best_against_worst"],
            "gaps": {"better": 0.5, "negligibly_better": 0},
            "max_new_tokens": 40,
            "temperature_search": [0.7, 1.2],
            "search_datasets": [{"path": write_prompts(tmp_path / "search.jsonl", 5, word="kilu")}],
            "answers": answers,
            "prompts_per_shard": shard,
        }
        (tmp_path / f"{output}.yaml").write_text(yaml.safe_dump(config))
        return [*launcher, str(RECIPE), "--config", str(tmp_path / f"{output}.yaml")]

    return make


ENVIRONMENT = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}


def test_two_processes_write_the_bytes_of_one(command, tmp_path, warm):
    launch = (*LAUNCHER, "--config_file", str(ROOT / "accelerate_configs" / "cpu_ddp.yaml"))
    for output, launcher in (("one", ()), ("two", (*launch, "--main_process_port", "0"))):
        done = warm.run(command(output, 20, 4, 3, launcher), ENVIRONMENT)
        assert done.returncode == 0, done.stderr[-3000:]
    assert same_files(tmp_path / "one", tmp_path / "two")
    parts = [sorted(p.relative_to(tmp_path / o) for p in (tmp_path / o).rglob("*.*")) for o in ("one", "two")]
    assert parts[0] == parts[1]
    assert done.stdout.count("20 prompts, 0 left out") == 1, "said once"


def written(folder: Path) -> dict[Path, int]:
    """Every whole file of a run with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.jsonl") if not path.name.startswith(".")}


def kill_while_it_works(warm, command: list[str], folder: Path, more: int, chance: random.Random) -> int:
    """Kills a run at a random moment after it has written so many files more; returns what it ended with."""
    goal = len(written(folder)) + more
    process = warm.start(command, ENVIRONMENT)
    while process.poll() is None and len(written(folder)) < goal:
        time.sleep(0.005)
    time.sleep(chance.uniform(0, 0.15))
    process.kill()
    return process.wait()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_again_and_again_no_answer_is_lost_or_drawn_twice(command, tmp_path, warm):
    """SIGKILL at random moments, `KILLS` times; then a run to the end has the bytes of the undisturbed one."""
    answers, shard = 16, max(2, KILL_PROMPTS // 50)
    warm.run(command("whole", KILL_PROMPTS, answers, shard), ENVIRONMENT).check_returncode()
    total = len(written(tmp_path / "whole"))
    killed, chance, before = command("killed", KILL_PROMPTS, answers, shard), random.Random(0), {}
    for kill in range(KILLS):
        room = (total - len(before)) // (KILLS - kill + 1)
        ended = kill_while_it_works(warm, killed, tmp_path / "killed", chance.randint(0, 2 * room), chance)
        assert ended == -signal.SIGKILL
        now = written(tmp_path / "killed")
        assert before.items() <= now.items(), "what was written stays as it is"
        before = now
        print(f"kill {kill + 1}: {len(now)} of {total} files")
    done = warm.run(killed, ENVIRONMENT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(samples_of(tmp_path / "killed")) == KILL_PROMPTS * answers
    assert same_files(tmp_path / "whole", tmp_path / "killed")
    files = [{path.relative_to(tmp_path / name) for path in written(tmp_path / name)} for name in ("whole", "killed")]
    assert files[0] == files[1]
