"""Every kind of checkpoint, a programme and records on a Hub of this machine, and back in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from huggingface_hub import DatasetCard, ModelCard, constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file

from llama_align import LlamaHerdForCausalLM, LlamaHerdForSequenceClassification, cli
from llama_align.data import write_jsonl
from llama_align.models.convert import convert
from llama_align.publish.files import checkpoint_items
from llama_align.publish.hub import Target, prepare
from llama_align.publish.licences import Origin, check_terms

from .hub import serve

TOKEN = "hf_" + "Zq8" * 12
DECOYS = (".env", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "notes.txt", "output.log")
DECOYS += ("extra.safetensors", "pytorch_model.bin", "checkpoint-5/optimizer.pt", "checkpoint-5/model.safetensors")
PREFERENCE = {"prompt": [{"role": "user", "content": "ba?"}], "chosen": "do.", "rejected": "ki.", "grade": "better"}
PREFERENCE |= {"objective": "helpfulness"}
REWARD = {"accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 90, "ece": 0.05}
REWARD |= {"by_grade": {"better": {"accuracy": 0.7, "low": 0.6, "high": 0.8, "n": 90}}}
REWARD |= {"reliability": [{"from": 0.5, "to": 1.0, "confidence": 0.8, "accuracy": 0.7, "n": 90}]}
# loads each as its card says, in a process that has no llama_align
BACK = """
import json, re, sys, torch
sys.modules["llama_align"] = None
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
found, out = {}, sys.argv[1]
for repo, revision in json.loads(sys.argv[2]):
    card = open(hf_hub_download(repo, "README.md", revision=revision), encoding="utf-8").read()
    scope = {}
    exec(re.findall(r"```python\\n(.*?)```", card, re.S)[0], scope)
    with torch.no_grad():
        found[f"{repo}@{revision}"] = scope["model"](input_ids=torch.arange(5, 25)[None]).logits.contiguous()
save_file(found, out)
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory, tiny_config, tokenizer):
    """Folders: a LlamaHerd with what must not be published beside it, its Llama form, a reward model, an adapter."""
    folder = tmp_path_factory.mktemp("places")
    found = SimpleNamespace(**{name: folder / name for name in ("herd", "llama", "reward", "adapter")})
    torch.manual_seed(0)
    model = LlamaHerdForCausalLM(tiny_config())
    model.save_pretrained(found.herd)
    reward = LlamaHerdForSequenceClassification(tiny_config(num_labels=1))
    reward.save_pretrained(found.reward)
    (found.reward / "metrics.json").write_text(json.dumps(REWARD))
    (found.reward / "scores.svg").write_text("<svg/>")
    for place in (found.herd, found.reward):
        tokenizer.save_pretrained(place)
    convert(found.herd, found.llama, to="llama")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    torch.nn.init.normal_(next(w for name, w in adapted.named_parameters() if "lora_B" in name))
    adapted.save_pretrained(found.adapter)
    tokenizer.save_pretrained(found.adapter)
    for place in (found.herd, found.adapter):
        for name in DECOYS:
            (place / name).parent.mkdir(exist_ok=True)
            (place / name).write_text(f"HF_TOKEN={TOKEN}")
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory, places):
    """A run of two rounds, as its manager leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    rows = []

    def step(name, recipe, source=None, round=None, **config):
        place = folder / f"{name}-{'0' * 9}{len(rows)}"
        place.mkdir(parents=True)
        for file in source.iterdir() if source else ():
            if file.is_file():
                os.link(file, place / file.name)
        (place / "config.yaml").write_text(yaml.safe_dump({"output_dir": str(place), **config}))
        (place / "step.json").write_text("{}")
        row = {"name": name, "recipe": recipe, "directory": place.name, "status": "finished"}
        rows.append(row | ({"round": round} if round else {}))
        return place

    start = str(step("pretrain", "pretrain", places.herd))
    for number in (1, 2):
        pairs = step(f"annotate-{number}", "annotate", round=number)
        write_jsonl(pairs / "preferences.jsonl", [PREFERENCE] * number)
        policy = step(f"sft-{number}", "sft", places.herd, number, model_name_or_path=start)
        step(f"reward-{number}", "reward", places.reward, number, model_name_or_path=start)
        start = str(policy)
    measured = step("evaluate", "evaluate", models={"two": start})
    score = {"helpful": {"rate": 0.5, "low": 0.4, "high": 0.6}}
    (measured / "metrics.json").write_text(json.dumps({"rows": [{"row": "two", "score": score}]}))
    measured = step("benchmark", "benchmark", models={"two": start})
    task = {"metric": "acc", "value": 0.75, "low": 0.7, "high": 0.8, "stderr": 0.025, "n": 300}
    row = {"name": "two", "tasks": {"herd_copa": task}, "groups": {}}
    (measured / "metrics.json").write_text(json.dumps({"checkpoints": [row]}))
    (folder / "run.json").write_text(json.dumps({"name": "demo", "seed": 0, "steps": rows}))
    return folder


@pytest.fixture(scope="module")
def hub(places, run, tmp_path_factory):
    """A Hub that everything has been published on, the programme with a break in the middle."""
    with serve() as hub, pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        patch.setattr(constants, "ENDPOINT", hub.url)
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
        patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        patch.setenv("HF_TOKEN", TOKEN)
        patch.chdir(tmp_path_factory.mktemp("cwd"))
        licence = ["--license", "apache-2.0"]
        for name in ("herd", "llama", "reward"):
            assert cli.main(["publish", str(getattr(places, name)), "--to", f"me/{name}", *licence]) == 0
        base = ["--base", "me/herd", "--gated", "manual"]
        assert cli.main(["publish", str(places.adapter), "--to", "me/adapter", *licence, *base]) == 0
        pairs = run / "annotate-2-0000000004" / "preferences.jsonl"
        assert cli.main(["publish", str(pairs), "--to", "me/pairs", "--public"]) == 0
        hub.refuse = 3
        command = ["publish", str(run), "--to", "programme"]
        assert cli.main(command) == 2
        hub.broken = dict(hub.repos["me/programme"].tags), len(hub.log)
        hub.refuse = None
        assert cli.main(command) == 0
        yield hub


def test_nothing_is_there_that_was_not_listed(hub, places):
    sent = {(name, path) for name, repo in hub.repos.items() for _, files in repo.commits.values() for path in files}
    assert not {path for _, path in sent if path in DECOYS or path.endswith((".bin", ".pt", ".pth", ".env", ".log"))}
    assert not [path for _, path in sent if "checkpoint" in path or path == "notes.txt" or path == "extra.safetensors"]
    assert all(
        TOKEN.encode() not in data
        for repo in hub.repos.values()
        for _, f in repo.commits.values()
        for data in f.values()
    )
    assert all(TOKEN.encode() not in blob for blob in hub.blobs.values())
    herd = {path for name, path in sent if name == "me/herd"}
    assert {"README.md", "config.json", "model.safetensors", "modeling_llama_herd.py", "chat_template.jinja"} <= herd
    assert herd - {"README.md"} == {item.path for item in checkpoint_items(places.herd)}
    assert not any(path.endswith(".py") for name, path in sent if name == "me/llama")
    assert all(repo.private for name, repo in hub.repos.items() if name != "me/pairs")
    assert not hub.repos["me/pairs"].private
    assert hub.repos["me/adapter"].gated == "manual"


def test_each_loads_as_its_card_says_without_llama_align(hub, places, tmp_path):
    repos = [("me/herd", "main"), ("me/llama", "main"), ("me/reward", "main"), ("me/adapter", "main")]
    repos += [("me/programme", "round-1"), ("me/programme", "reward-2"), ("me/programme", "main")]
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HUB_OFFLINE": "0",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": "",
    }
    environment |= {"HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BACK, str(tmp_path / "back"), json.dumps(repos)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "back")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        chat = LlamaHerdForCausalLM.from_pretrained(places.herd)(input_ids=ids).logits
        reward = LlamaHerdForSequenceClassification.from_pretrained(places.reward)(input_ids=ids).logits
        llama = found["me/llama@main"]
    for name in ("me/herd@main", "me/programme@round-1", "me/programme@main"):
        assert torch.equal(found[name], chat), name
    for name in ("me/reward@main", "me/programme@reward-2"):
        assert torch.equal(found[name], reward), name
    torch.testing.assert_close(llama, chat, atol=1e-5, rtol=1e-5)  # transformers' own class
    assert (found["me/adapter@main"] - chat).abs().max() > 1e-3  # it adds something


def test_it_comes_back_with_llama_align_too(hub, places, tmp_path):
    model = LlamaHerdForCausalLM.from_pretrained("me/herd", cache_dir=tmp_path)
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        assert torch.equal(
            model(input_ids=ids).logits, LlamaHerdForCausalLM.from_pretrained(places.herd)(input_ids=ids).logits
        )


def test_cards_are_what_the_hub_reads(hub):
    for name, repo in hub.repos.items():
        for revision in (*repo.branches, *repo.tags):
            text = repo.files(revision)["README.md"].decode()
            card = (ModelCard if repo.kind == "model" else DatasetCard)(text)
            card.validate(repo_type=repo.kind)
            assert "llama-align" in card.data.tags, name
    reward = ModelCard(hub.repos["me/reward"].files()["README.md"].decode())
    assert (reward.data.license, reward.data.pipeline_tag) == ("apache-2.0", "text-classification")
    scores = {result.metric_type: result.metric_value for result in reward.data.eval_results}
    assert scores == {"accuracy": 0.7, "by_grade_better_accuracy": 0.7}
    assert "| accuracy | 0.7 | 0.6 to 0.8 | 90 |" in reward.text
    assert "| 0.50 to 1.00 | 0.800 | 0.700 | 90 |" in reward.text
    assert "## Intended use and limits" in reward.text
    adapter = ModelCard(hub.repos["me/adapter"].files()["README.md"].decode()).data
    assert (adapter.library_name, adapter.base_model) == ("peft", "me/herd")
    assert json.loads(hub.repos["me/adapter"].files()["adapter_config.json"])["base_model_name_or_path"] == "me/herd"


def test_a_programme_has_a_branch_per_round_and_a_tag_per_stage(hub, run):
    repo = hub.repos["me/programme"]
    stages = ["pretrain", "reward-1", "sft-1", "reward-2", "sft-2"]
    assert [*repo.branches] == ["main", "round-1", "round-2"]
    assert [*repo.tags] == stages
    assert repo.tags["sft-1"] == repo.branches["round-1"]
    assert repo.tags["sft-2"] == repo.branches["round-2"]
    card = repo.files()["README.md"].decode()
    for name in (*stages, "round-1", "round-2", "main"):
        assert f"| `{name}` |" in card
    assert "## Measured by evaluate" in card
    assert "| score/helpful/rate | 0.5 | 0.4 to 0.6 |" in card
    assert "## Measured by benchmark" in card
    assert "| tasks/herd_copa/value | 0.75 | 0.7 to 0.8 | 300 |" in card
    results = ModelCard(card).data.eval_results
    assert ("tasks_herd_copa_value", 0.75) in [(one.metric_type, one.metric_value) for one in results]
    assert str(run) not in card
    assert "scores.svg" in repo.files("reward-1")
    assert "scores.svg" not in repo.files("sft-1")
    pairs = hub.repos["me/programme-preferences"]
    assert pairs.kind == "dataset"
    front = DatasetCard(pairs.files()["README.md"].decode()).data
    assert [part["config_name"] for part in front.configs] == ["annotate-1", "annotate-2"]
    assert pairs.files()["data/annotate-2.jsonl"].count(b"\n") == 2


def test_what_broke_off_goes_on_and_what_is_there_is_not_sent_again(hub, run, capsys):
    tags, _ = hub.broken
    assert [*tags] == ["pretrain", "reward-1", "sft-1"]
    assert all(hub.repos["me/programme"].tags[name] == place for name, place in tags.items())
    blobs = [line for line in hub.log if line.startswith("PUT /lfs")]
    assert len(blobs) == len(set(blobs))  # no weights twice
    commits = {name: len(repo.commits) for name, repo in hub.repos.items()}
    assert cli.main(["publish", str(run), "--to", "programme"]) == 0
    assert {name: len(repo.commits) for name, repo in hub.repos.items()} == commits
    assert capsys.readouterr().out.count("there already") == 5


def test_a_dry_run_lists_and_sends_nothing(hub, places, capsys):
    before = len(hub.log)
    assert cli.main(["publish", str(places.herd), "--to", "me/other", "--license", "mit", "--dry-run"]) == 0
    out = capsys.readouterr().out
    size = (places.herd / "model.safetensors").stat().st_size
    assert f"{size:,}  model.safetensors" in out
    assert "training_args.bin" not in out
    assert len(hub.log) == before


def refused(capsys, *args: str) -> str:
    assert cli.main(["publish", *args]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_published_is_refused_by_name(hub, places, tmp_path, capsys, monkeypatch):
    assert "only this machine has" in refused(capsys, str(places.adapter), "--to", "me/x", "--license", "mit")
    assert "licence: found none" in refused(capsys, str(places.llama), "--to", "me/x")
    hub.role = "read"
    assert "may only read" in refused(capsys, str(places.herd), "--to", "me/x", "--license", "mit")
    hub.role = "write"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in refused(capsys, str(places.herd), "--to", "me/x", "--license", "mit")
    leaking = tmp_path / "leaking"
    leaking.mkdir()
    for file in places.llama.iterdir():
        (leaking / file.name).write_bytes(file.read_bytes())
    (leaking / "chat_template.jinja").write_text(f"a\n{TOKEN}")
    said = refused(capsys, str(leaking), "--to", "me/x", "--license", "mit")
    assert "chat_template.jinja, line 2: found a token" in said
    assert TOKEN not in said
    (leaking / "chat_template.jinja").unlink()
    (leaking / "chat_template.jinja").symlink_to(places.herd / ".env")
    assert "found a link" in refused(capsys, str(leaking), "--to", "me/x", "--license", "mit")
    assert "me/x" not in hub.repos


@pytest.mark.parametrize(
    ("licence", "name", "wanted"), [("llama3.1", "me/herd", "Llama"), ("llama3", "me/Llama-2", "Llama-3")]
)
def test_a_llamas_licence_decides_the_name(licence, name, wanted):
    origin = Origin("meta-llama/x", {"license": licence})
    with pytest.raises(ValueError, match=f"expected a name that begins with {wanted}"):
        check_terms(origin, name, None)
    assert check_terms(origin, "me/Llama-3-herd", None) == licence
    with pytest.raises(ValueError, match=f"licence: found mit, expected {licence}"):
        check_terms(origin, "me/Llama-3-herd", "mit")


def test_licence_gate_and_notice_come_from_the_base(hub, places, tmp_path):
    folder = tmp_path / "Llama-3.2-herd"
    folder.mkdir()
    for file in places.llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    gate = {"license": "llama3.2", "extra_gated_prompt": "Agree?", "language": ["en"]}
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(gate)}---\n# Base\n")
    assert cli.main(["publish", str(folder), "--to", "me/Llama-x"]) == 2  # no LICENSE
    (folder / "LICENSE").write_text("the text")
    assert cli.main(["publish", str(folder), "--to", "me/Llama-x"]) == 0
    files = hub.repos["me/Llama-x"].files()
    assert files["NOTICE"].startswith(b"Llama 3.2 is licensed under the Llama 3.2 Community License")
    assert files["LICENSE"] == b"the text"
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "llama3.2"
    assert card.data.extra_gated_prompt == "Agree?"
    assert card.data.language == ["en"]
    assert "**Built with Llama**" in card.text


def test_results_on_benchmarks_are_written_as_the_hub_reads_them(places, tmp_path):
    folder = tmp_path / "measured"
    (folder / ".eval_results").mkdir(parents=True)
    for file in places.llama.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    path = folder / ".eval_results" / "gsm8k.yaml"
    path.write_text("- dataset: {id: openai/gsm8k, task_id: gsm8k}\n  value: 12.5\n  notes: 8-shot\n")
    (item,) = [item for item in checkpoint_items(folder) if item.path == ".eval_results/gsm8k.yaml"]
    wanted = {"dataset": {"id": "openai/gsm8k", "task_id": "gsm8k"}, "value": 12.5, "notes": "8-shot"}
    assert yaml.safe_load(item.content) == [wanted]
    path.write_text("- value: 12.5\n")
    with pytest.raises(ValueError, match=r"gsm8k\.yaml: found KeyError\('dataset'\), expected a list of dataset"):
        checkpoint_items(folder)


def test_a_recipe_publishes_its_model_and_leaves_no_token_anywhere(hub, places, tmp_path):
    rows = [{"messages": [{"role": "user", "content": "ba"}, {"role": "assistant", "content": "do"}]}] * 4
    write_jsonl(tmp_path / "rows.jsonl", rows)
    options = {"model_name_or_path": str(places.herd), "output_dir": str(tmp_path / "out"), "max_steps": 2}
    options |= {"datasets": [{"path": str(tmp_path / "rows.jsonl")}], "max_length": 64, "logging_steps": 1}
    options |= {"bf16": False, "save_steps": 1, "push_to_hub": True, "hub_model_id": "me/sft"}
    (tmp_path / "sft.yaml").write_text(yaml.safe_dump(options))
    root = Path(__file__).parents[2]
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    environment |= {"HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(root / "recipes/sft.py"), "--config", str(tmp_path / "sft.yaml")]
    (places.herd / "README.md").write_text("---\nlicense: mit\n---\n")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    finally:
        (places.herd / "README.md").unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    assert TOKEN not in done.stdout + done.stderr
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        assert TOKEN.encode() not in path.read_bytes(), path
    began = hub.log.index("POST /api/repos/create", len(hub.log) - 1 - hub.log[::-1].index("GET /api/whoami-v2"))
    assert began
    files = hub.repos["me/sft"].files()
    assert len(hub.repos["me/sft"].commits) == 2  # the first is empty
    assert {"modeling_llama_herd.py", "metrics.json", "log.jsonl", "data_cards/demonstration.md"} <= set(files)
    assert "training_args.bin" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.license == "mit"
    assert "| steps | 2 |" in card.text
    assert re.search(r"python \S*recipes/sft.py --config", card.text)
    assert "max_length: 64" in card.text


def test_a_token_is_no_option(tmp_path):
    from llama_align import recipe
    from llama_align.trainers import HerdSFTConfig

    config = tmp_path / "a.yaml"
    config.write_text(f"output_dir: {tmp_path}\nhub_token: {TOKEN}\n")
    for args in (["--config", str(config)], ["--output_dir", str(tmp_path), "--hub_token", TOKEN]):
        with pytest.raises(recipe.RecipeError, match=r"hub_token'?: found one, expected none; set HF_TOKEN") as said:
            recipe.parse((HerdSFTConfig,), args)
        assert TOKEN not in str(said.value)


def test_who_has_no_token_is_told_before_anything_is_made(hub, monkeypatch, tmp_path):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "none"))
    with pytest.raises(ValueError, match="token of the Hub: found none"):
        prepare(Target("me/y"), None)
