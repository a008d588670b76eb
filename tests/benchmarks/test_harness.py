"""Our model beside the harness's own `hf` on the same items, tasks of ours, and the recipe from YAML to table."""

import gzip
import json
import lzma

import pytest
import torch
from transformers import AutoTokenizer

pytest.importorskip("lm_eval", reason="needs the extra 'benchmarks'")

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from llama_align import LlamaHerdForCausalLM, recipe
from llama_align.benchmarks import forms
from llama_align.benchmarks.catalogue import Settings, catalogue
from llama_align.benchmarks.computing import Computing
from llama_align.benchmarks.harness import Dialog, Harness, evaluated
from llama_align.benchmarks.tasks import load_tasks
from llama_align.chat import encode_text, render
from llama_align.models.convert import convert
from llama_align.recipe.engines import EngineSettings
from llama_align.report.terminal import in_lines, measured
from llama_align.runtime.processes import ALONE

from ..conftest import made_up_text
from ..docs.metric_names import assert_explained
from ..recipes.test_recipes import module_of

WORDS = made_up_text(400, 1).split()


def some(first: int, count: int) -> str:
    return " ".join(WORDS[first : first + count])


def items() -> dict[str, list[dict]]:
    """A few rows of every form, as the shared files have them."""
    n = range(4)
    choose = [{"query": f"Question: {some(i, 12)}", "choices": [some(i, 2), some(i + 3, 4)], "gold": i % 2} for i in n]
    return {
        "icl/arc_easy.jsonl.gz": choose,
        "icl/winogrande.jsonl.gz": [
            {"context_options": [some(i, 5), some(i, 4)], "continuation": some(i + 9, 3), "gold": i % 2} for i in n
        ],
        "icl/lambada_openai.jsonl.gz": [{"context": some(i, 20), "continuation": WORDS[i]} for i in n],
        "mmlu_test.jsonl.xz": [
            {"subject": subject, "question": some(i, 6), "choices": WORDS[i : i + 4], "answer": i}
            for subject in ("some_law", "algebra")
            for i in n
        ],
        "mmlu_dev_5shot.jsonl.gz": [
            {"subject": subject, "question": some(i + 20, 4), "choices": WORDS[i : i + 4], "answer": i % 4}
            for subject in ("some_law", "algebra")
            for i in range(5)
        ],
        "truthfulqa_817.jsonl.gz": [
            {"Question": some(i, 5), "Best Answer": "ba", "Correct Answers": "ba; do ki", "Incorrect Answers": "lu; no"}
            for i in n
        ],
        "bbh_27_tasks.jsonl.xz": [{"task": "counting", "input": some(i, 5), "target": WORDS[i]} for i in range(5)],
        "safety_xstest_prompts.jsonl.gz": [{"prompt": some(i, 6), "label": ["safe", "unsafe"][i % 2]} for i in n],
    }


NAMES = ["commonsense", "herd_lambada", "mmlu", "herd_truthfulqa", "bbh", "herd_xstest"]
COMMONSENSE = ["herd_arc_easy", "herd_winogrande"]


@pytest.fixture
def shared(tmp_path, monkeypatch):
    """Files of ours in the place of the shared ones, and a group of those."""
    for name, rows in items().items():
        path = tmp_path / "shared" / "data" / "eval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        squeeze = gzip.compress if name.endswith(".gz") else lzma.compress
        path.write_bytes(squeeze("\n".join(map(json.dumps, rows)).encode()))
    monkeypatch.setenv("LLAMA_ALIGN_SHARED", str(tmp_path / "shared"))
    monkeypatch.setitem(catalogue()["groups"]["commonsense"], "tasks", COMMONSENSE)
    return tmp_path / "shared"


@pytest.fixture
def checkpoint(tmp_path, tiny_config, tokenizer):
    """A LlamaHerd that is sure of what it says, with its tokenizer."""
    torch.manual_seed(0)
    folder = tmp_path / "herd"
    LlamaHerdForCausalLM(tiny_config(max_position_embeddings=512)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def harness(folder, chat: bool = False, **options) -> Harness:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    computing = Computing(str(folder), tokenizer, EngineSettings(), ALONE)
    return Harness(tokenizer, options.get("context", 512), computing, chat)


@pytest.mark.usefixtures("shared")
def test_the_same_scores_as_the_harness_s_own_model_on_llama_s_form(checkpoint, tmp_path):
    names = ["commonsense", "herd_lambada", "mmlu", "herd_truthfulqa"]
    parts = [part for task in load_tasks(names, Settings()) for part in task.parts]
    ours = evaluated(harness(checkpoint), parts)["samples"]
    llama = convert(checkpoint, tmp_path / "llama", to="llama")
    other = HFLM(pretrained=str(llama), device="cpu", batch_size=8, dtype="float32")
    parts = [part for task in load_tasks(names, Settings()) for part in task.parts]
    theirs = evaluated(other, parts)["samples"]
    assert set(ours) == set(theirs)
    assert {"herd_arc_easy", "herd_winogrande", "herd_mmlu_algebra", "herd_mmlu_some_law"} <= set(ours)
    for name, samples in theirs.items():
        for one, two in zip(ours[name], samples, strict=True):
            assert one["arguments"] == two["arguments"]
            for (total, greedy), (their_total, their_greedy) in zip(
                one["filtered_resps"], two["filtered_resps"], strict=True
            ):
                assert total == pytest.approx(their_total, abs=1e-5, rel=1e-5)
                assert greedy == their_greedy
            for metric in one["metrics"]:
                assert one[metric] == pytest.approx(two[metric], rel=1e-4)


def test_greedy_answers_and_rolling_likelihoods_as_the_harness_s_own_model(checkpoint, tmp_path):
    llama = convert(checkpoint, tmp_path / "llama", to="llama")
    other = HFLM(pretrained=str(llama), device="cpu", batch_size=2, dtype="float32", max_length=512)
    options = {"until": ["\n\n", "ba"], "max_gen_toks": 40, "do_sample": False}
    asked = [Instance("generate_until", {}, (some(i, 9), dict(options)), 0, metadata=("t", i, 1)) for i in range(3)]
    ours, theirs = (model.generate_until(asked) for model in (harness(checkpoint), other))
    assert [text.strip() for text in ours] == [text.strip() for text in theirs]
    other.add_bos_token = False  # it has one before the text already, and would put another behind
    texts = [Instance("loglikelihood_rolling", {}, (some(0, 300),), 0, metadata=("t", 0, 1))]
    (ours,), (theirs,) = (model.loglikelihood_rolling(texts) for model in (harness(checkpoint), other))
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_control_tokens_that_are_typed_stay_text(checkpoint):
    model = harness(checkpoint)
    typed = f"ba do{model.tokenizer.eos_token}ki"
    assert model.tok_encode(typed) == [model.tokens.bos, *encode_text(model.tokenizer, typed)]
    assert model.eot_token_id not in model.tok_encode(typed)


def test_dialogs_are_rendered_by_the_token_contract(checkpoint):
    model = harness(checkpoint, chat=True)
    messages = [{"role": "user", "content": "ba do<|eot_id|>?"}]
    dialog = model.apply_chat_template(messages)
    context, answer = model._encode_pair(dialog, "ki lu")
    assert context == render(model.tokenizer, messages, add_generation_prompt=True).ids
    assert answer == encode_text(model.tokenizer, "ki lu")
    begun = [*messages, {"role": "assistant", "content": "ki"}]
    context, answer = model._encode_pair(model.apply_chat_template(begun, add_generation_prompt=False), " lu")
    assert context == render(model.tokenizer, begun, continue_final_message=True).ids
    assert (
        context + answer
        == render(
            model.tokenizer, [*messages, {"role": "assistant", "content": "ki lu"}], continue_final_message=True
        ).ids
    )
    assert isinstance(dialog, Dialog)
    with pytest.raises(TypeError, match="found text 'ba', expected a dialog"):
        model._prompt("ba")


def test_a_context_that_is_too_long_is_cut_at_its_beginning_and_counted(checkpoint):
    model = harness(checkpoint, context=32)
    asked = [Instance("loglikelihood", {}, (some(0, n), " ba"), 0, metadata=("long", n, 1)) for n in (2, 60)]
    model.loglikelihood(asked)
    assert (model.cut["long"], model.asked["long"]) == (1, 2)
    with pytest.raises(ValueError, match=r"long: found an answer of .* tokens, expected at most 32"):
        model.loglikelihood([Instance("loglikelihood", {}, ("ba", some(0, 90)), 0, metadata=("long", 0, 1))])
    for options, message in (
        ({"max_gen_toks": 32}, "found max_gen_toks 32, expected fewer than 32"),
        ({"num_beams": 2}, "found num_beams, expected until, max_gen_toks"),
    ):
        with pytest.raises(ValueError, match=f"t, generation_kwargs: {message}"):
            model.generate_until([Instance("generate_until", {}, ("ba", options), 0, metadata=("t", 0, 1))])


def test_checkpoints_are_measured_once_and_stand_in_one_table(shared, checkpoint, tmp_path, monkeypatch, capsys):
    script = module_of("benchmark", monkeypatch)
    trained_on = tmp_path / "trained.jsonl"
    trained_on.write_text(json.dumps({"text": f"{some(0, 30)} and more"}))
    models = {"base": str(checkpoint), "again": str(checkpoint)}
    options = {"max_new_tokens": 4, "trained_on": [str(trained_on)]}
    args = script.BenchmarkArguments(str(tmp_path / "out"), models, NAMES, **options)
    script.main(args)
    assert_explained(tmp_path / "out")
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    base, again = found["checkpoints"]
    assert base["tasks"] == again["tasks"]
    assert base["tasks"]["herd_mmlu"]["n"] == 8
    assert {part["part"] for part in base["tasks"]["herd_mmlu"]["parts"]} == {"herd_mmlu_some_law", "herd_mmlu_algebra"}
    assert base["tasks"]["herd_mmlu"]["shots"] == 5
    assert base["tasks"]["herd_bbh"]["n"] == 2  # of five, three are examples
    assert base["tasks"]["herd_lambada"]["contamination"]["n"] == 4
    assert "contamination" in base["tasks"]["herd_mmlu"]
    assert base["tasks"]["herd_xstest"]["metric"] == "refused"
    assert set(base["groups"]) == {"commonsense", "mmlu", "bbh", "truth"}
    mean = sum(base["tasks"][name]["value"] for name in COMMONSENSE) / 2
    assert base["groups"]["commonsense"]["value"] == pytest.approx(mean)
    table = (tmp_path / "out" / "table.md").read_text()
    assert "| | Commonsense Reasoning | MMLU |" in table
    assert "lambada, acc, 0-shot" in table
    assert "100% seen" in table
    assert "Commonsense Reasoning" in in_lines(measured(found, plain=True))
    capsys.readouterr()
    script.main(args)
    assert capsys.readouterr().out.count("measured before") == 2


@pytest.mark.usefixtures("shared")
def test_what_cannot_be_measured_is_refused():
    for names, message in (
        (["herd_nothing"], r"tasks: found 'herd_nothing', expected one of ours \(commonsense, "),
        (["knowledge"], "tasks: found 'knowledge', which has none on local files, expected hub: true"),
        (
            ["herd_humaneval"],
            "tasks: found herd_humaneval, which runs programs that the model wrote",
        ),
        (["herd_ifeval"], r"tasks: found no file .*ifeval_541.jsonl.gz, expected one; LLAMA_ALIGN_SHARED"),
    ):
        with pytest.raises(recipe.RecipeError, match=message):
            load_tasks(names, Settings())


def test_answers_are_checked_by_form():
    assert forms.number({"target": "so 4 #### 1,004"}, ["2 and 2\n#### 1004 eggs"]) == {"exact_match": 1.0}
    assert forms.number({"target": "#### 4"}, ["it is 4, or 5"]) == {"exact_match": 0.0}
    assert forms.number({"target": "#### 4"}, ["none"]) == {"exact_match": 0.0}
    assert forms.words({"target": "(B)"}, [" (B)\nQ: next"]) == {"exact_match": 1.0}
    assert forms.refusal({}, ["I’m sorry, but no."]) == {"refused": 1.0}
    assert forms.refusal({}, ["Sure. " * 40 + "I cannot"]) == {"refused": 0.0}
    assert forms.truth({"item": "2"}, [(-1.0, False), (-2.0, False), (-1.5, False)])["mc1"] == 1.0
    assert forms.truth({"item": "1"}, [(-1.0, False), (-1.0, False)]) == {"mc1": 0.0, "mc2": 0.5}
    doc = {"choices": ["a", "bcd"], "gold": 1}
    assert forms.chosen(doc, [(-1.0, True), (-1.5, False)]) == {"acc": 0.0, "acc_norm": 1.0, "nll": 0.5}
    assert forms.pass_at(1, 4, 1) == 0.25
    assert forms.pass_at(2, 4, 1) == 0.5
    assert forms.pass_at(2, 2, 0) == 0.0
