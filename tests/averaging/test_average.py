"""Averages against torch's own mean, weighted, sharded, in every precision; and checkpoints that do not fit."""

import json
import runpy
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llama_align import LlamaHerdForCausalLM
from llama_align.averaging import average_checkpoints
from llama_align.models.portable import MODELING, flat_sources, write_code
from llama_align.recipe import RecipeError


@pytest.fixture
def checkpoints(tmp_path, tiny_config):
    def make(count: int, dtype=torch.float32, shard_size: str = "50GB", **changes) -> list[str]:
        paths = []
        for seed in range(count):
            torch.manual_seed(seed)
            path = tmp_path / f"{dtype}_{shard_size}_{seed}"
            LlamaHerdForCausalLM(tiny_config(**changes)).to(dtype).save_pretrained(path, max_shard_size=shard_size)
            paths.append(str(path))
        return paths

    return make


def tensors_of(path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(path.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def states(paths) -> list[dict[str, torch.Tensor]]:
    return [AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict() for path in paths]


@pytest.mark.parametrize("weights", [None, [1, 1, 2], [0.2, 0.0, 0.7]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_average_is_torchs_weighted_mean(tmp_path, checkpoints, dtype, weights):
    paths = checkpoints(3, dtype)
    average_checkpoints(paths, tmp_path / "mean", weights)
    shares = torch.tensor(weights or [1, 1, 1], dtype=torch.float64)
    shares /= shares.sum()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "mean", dtype="auto").state_dict()
    for name, tensor in found.items():
        stack = torch.stack([state[name].double() for state in states(paths)])
        wanted = (stack * shares.view(-1, *[1] * tensor.ndim)).sum(0)
        assert tensor.dtype == dtype
        tolerance = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}[dtype]
        torch.testing.assert_close(tensor.double(), wanted, atol=1e-7, rtol=tolerance)


def test_a_checkpoint_that_came_with_its_code_keeps_it(tmp_path, checkpoints):
    paths = checkpoints(2)
    write_code(paths[0])
    average_checkpoints(paths, tmp_path / "mean")
    written = {path.name: path.read_text() for path in (tmp_path / "mean").glob("*.py")}
    assert written == flat_sources(MODELING)


def test_bfloat16_is_rounded_once_at_the_end(tmp_path, checkpoints):
    paths = checkpoints(5, torch.bfloat16)
    average_checkpoints(paths, tmp_path / "mean")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "mean", dtype="auto").state_dict()
    all_states = states(paths)
    off = total = 0
    for name, tensor in found.items():
        exact = torch.stack([state[name].double() for state in all_states]).mean(0).bfloat16()
        off, total = off + (tensor != exact).sum().item(), total + tensor.numel()
    assert off / total < 1e-3


def test_sharded_checkpoints_average_like_whole_ones(tmp_path, checkpoints):
    whole, sharded = checkpoints(2), checkpoints(2, shard_size="20KB")
    files = sorted(file.name for file in (tmp_path / sharded[0]).glob("model-*.safetensors"))
    assert len(files) > 2
    mixes = {"whole": whole, "sharded": sharded, "mixed": [sharded[0], whole[1]], "other": [whole[0], sharded[1]]}
    found = {}
    for name, paths in mixes.items():
        average_checkpoints(paths, tmp_path / name)
        found[name] = AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
    for state in found.values():
        assert all(torch.equal(tensor, found["whole"][name]) for name, tensor in state.items())
    assert sorted(file.name for file in (tmp_path / "sharded").glob("model-*.safetensors")) == files
    assert (tmp_path / "other" / "model.safetensors").is_file()


def test_one_checkpoint_is_its_own_average(tmp_path, checkpoints):
    (path,) = checkpoints(1)
    distances = average_checkpoints([path], tmp_path / "mean")
    assert distances == {path: 0.0}
    assert all(torch.equal(t, tensors_of(tmp_path / "mean")[n]) for n, t in tensors_of(tmp_path / path).items())


def test_tied_embeddings_stay_one_tensor(tmp_path, checkpoints):
    average_checkpoints(checkpoints(2, tie_word_embeddings=True), tmp_path / "mean")
    assert "lm_head.weight" not in tensors_of(tmp_path / "mean")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mean")
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_distances_are_relative_to_the_average(tmp_path, checkpoints):
    paths = checkpoints(3)
    found = average_checkpoints(paths, tmp_path / "mean")
    flat = [torch.cat([t.double().flatten() for _, t in sorted(s.items())]) for s in states(paths)]
    mean = sum(flat) / 3
    for path, vector in zip(paths, flat, strict=True):
        assert found[path] == pytest.approx(((vector - mean).norm() / mean.norm()).item(), rel=1e-4)


def test_tokenizer_and_configuration_travel_and_nothing_else(tmp_path, checkpoints, tokenizer):
    paths = checkpoints(2)
    tokenizer.save_pretrained(paths[0])
    for name in ("optimizer.pt", "trainer_state.json", "training_args.bin", "metrics.json", "log.jsonl"):
        (tmp_path / paths[0] / name).write_text("{}")
    average_checkpoints(paths, tmp_path / "mean")
    names = {file.name for file in (tmp_path / "mean").iterdir()}
    assert {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} <= names
    assert not names & {"optimizer.pt", "trainer_state.json", "training_args.bin", "metrics.json", "log.jsonl"}
    assert not [name for name in names if name.endswith(".part")]


@pytest.mark.parametrize(
    ("count", "weights"), [(0, None), (2, [1.0]), (2, [1.0, -1.0]), (2, [0.0, 0.0]), (2, [1.0, float("nan")])]
)
def test_weights_that_do_not_fit_are_refused(tmp_path, checkpoints, count, weights):
    with pytest.raises(ValueError, match=rf"weights: found .* for {count} checkpoints, expected one of at least 0"):
        average_checkpoints(checkpoints(count), tmp_path / "mean", weights)
    assert not (tmp_path / "mean").exists()


def test_another_architecture_is_refused_before_anything_is_written(tmp_path, checkpoints):
    first = checkpoints(1)[0]
    for number, changes in enumerate(({"num_hidden_layers": 3}, {"intermediate_size": 64})):
        torch.manual_seed(0)
        other = tmp_path / f"other{number}"
        config = AutoModelForCausalLM.from_pretrained(first).config
        LlamaHerdForCausalLM(type(config)(**config.to_dict() | changes)).save_pretrained(other)
        with pytest.raises(ValueError, match=rf"other{number}.*tensor 'model\.layers\.") as caught:
            average_checkpoints([first, other], tmp_path / "mean")
        assert "expected" in str(caught.value)
        assert not list((tmp_path / "mean").glob("*.safetensors"))


CHANGES = {
    "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
    "rms_norm_eps": 1e-3,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "hidden_act": "gelu",
}


@pytest.mark.parametrize("name", CHANGES)
def test_configurations_that_compute_otherwise_are_refused_before_anything_is_written(tmp_path, checkpoints, name):
    first, second = checkpoints(2)
    file = Path(second) / "config.json"
    fields = json.loads(file.read_text()) | {name: CHANGES[name]}
    if name == "num_attention_heads":  # of twice the size: every tensor keeps its shape
        fields |= {"num_key_value_heads": 1, "head_dim": 16}
    file.write_text(json.dumps(fields))
    said = {"num_attention_heads": "head_dim"}.get(name, name)
    with pytest.raises(ValueError, match=rf"config.json, field '{said}': found .*, expected .* as in {first}"):
        average_checkpoints([first, second], tmp_path / "mean")
    assert not (tmp_path / "mean").exists()


def test_what_only_says_it_otherwise_is_no_difference(tmp_path, checkpoints):
    """A Llama of transformers 4 with the same numbers, another dtype and other ids of control tokens."""
    first, second = checkpoints(2)
    file = Path(second) / "config.json"
    fields = json.loads(file.read_text())
    rope = fields.pop("rope_parameters")
    fields |= {"rope_theta": rope["rope_theta"], "rope_scaling": None, "model_type": "llama", "pad_token_id": 3}
    fields |= {"architectures": ["LlamaForCausalLM"], "torch_dtype": fields.pop("dtype")}
    file.write_text(json.dumps(fields))
    average_checkpoints([first, second], tmp_path / "mean")


def test_tokenizers_of_other_content_are_refused(tmp_path, checkpoints, tokenizer):
    first, second = checkpoints(2)
    for path in (first, second):
        tokenizer.save_pretrained(path)
    file = Path(second) / "tokenizer.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps(fields | {"truncation": None, "padding": None}, indent=1))
    average_checkpoints([first, second], tmp_path / "mean")
    word, other = list(fields["model"]["vocab"])[-2:]
    vocabulary = fields["model"]["vocab"]
    vocabulary[word], vocabulary[other] = vocabulary[other], vocabulary[word]
    file.write_text(json.dumps(fields))
    with pytest.raises(
        ValueError, match=rf"tokenizer.json, field 'model': found another, expected the same as in {first}"
    ):
        average_checkpoints([first, second], tmp_path / "other")
    file.unlink()
    average_checkpoints([first, second], tmp_path / "alone")


def test_a_directory_without_weights_is_named(tmp_path, checkpoints):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty: found no weights, expected model\.safetensors or model\.safetensors"):
        average_checkpoints([*checkpoints(1), tmp_path / "empty"], tmp_path / "mean")


def test_the_order_of_tensors_in_a_file_does_not_matter(tmp_path, checkpoints):
    paths = checkpoints(2)
    index = {"metadata": {}, "weight_map": {}}
    tensors = load_file(f"{paths[1]}/model.safetensors")
    for number, name in enumerate(sorted(tensors, reverse=True)):
        file = f"model-{number:05}.safetensors"
        save_file({name: tensors[name]}, tmp_path / paths[1] / file)
        index["weight_map"][name] = file
    average_checkpoints(paths, tmp_path / "before")
    (tmp_path / paths[1] / "model.safetensors").unlink()
    (tmp_path / paths[1] / "model.safetensors.index.json").write_text(json.dumps(index))
    average_checkpoints(paths, tmp_path / "after")
    after = tensors_of(tmp_path / "after")
    assert all(torch.equal(tensor, after[name]) for name, tensor in tensors_of(tmp_path / "before").items())


def test_a_steps_own_configuration_is_not_that_of_the_first_checkpoint(tmp_path, checkpoints):
    """The manager writes a step's options into config.yaml, where every checkpoint of a run has its own."""
    paths = checkpoints(2)
    for name in ("config.yaml", "config.json.bak", "tokenizer_of_others.txt", "output.log"):
        (tmp_path / paths[0] / name).write_text("of the first")
    (tmp_path / "mean").mkdir()
    (tmp_path / "mean" / "config.yaml").write_text("of the average")
    average_checkpoints(paths, tmp_path / "mean")
    assert (tmp_path / "mean" / "config.yaml").read_text() == "of the average"
    names = {path.name for path in (tmp_path / "mean").iterdir()}
    assert names == {"config.yaml", "config.json", "generation_config.json", "model.safetensors"}


def test_an_average_does_not_write_over_what_it_averages(tmp_path, checkpoints):
    paths = checkpoints(2)
    before = {path: tensors_of(Path(path)) for path in paths}
    namespace = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "average.py"))
    with pytest.raises(RecipeError, match=r"output_dir: found '.*', one of models, expected one of its own"):
        namespace["main"](namespace["AverageArguments"](output_dir=f"{paths[1]}/", models=paths))
    for path, tensors in before.items():
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_of(Path(path)).items())


def test_the_last_checkpoints_of_a_run_are_averaged(tmp_path, checkpoints):
    namespace = runpy.run_path(str(Path(__file__).parents[2] / "recipes" / "average.py"))
    run, paths = tmp_path / "run", checkpoints(3)
    for step, path in zip((9, 10, 11), paths, strict=True):
        shutil.copytree(path, run / f"checkpoint-{step}")
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    options = {"output_dir": str(tmp_path / "mean"), "models": [str(run)]}
    namespace["main"](namespace["AverageArguments"](**options, last=2))
    wanted = [state["lm_head.weight"] for state in states(paths[1:])]
    found = load_file(tmp_path / "mean" / "model.safetensors")["lm_head.weight"]
    torch.testing.assert_close(found, (wanted[0] + wanted[1]) / 2)
    with pytest.raises(RecipeError, match="last: found 4, expected at most 3, the checkpoints in"):
        namespace["main"](namespace["AverageArguments"](**options, last=4))
    (run / "checkpoint-10" / "trainer_state.json").unlink()
    with pytest.raises(RecipeError, match=r"last: .*checkpoint-10/trainer_state.json: found no such file"):
        namespace["main"](namespace["AverageArguments"](**options, last=2))
