"""Folders that a conversion must not remove: its source, its neighbours, and what is no checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from llama_align import LlamaHerdForCausalLM
from llama_align.models import convert as convert_module
from llama_align.models.convert import convert
from llama_align.models.tensor_files import ConvertError


@pytest.fixture
def herd(tmp_path, tiny_config) -> Path:
    torch.manual_seed(0)
    LlamaHerdForCausalLM(tiny_config()).save_pretrained(tmp_path / "herd")
    return tmp_path / "herd"


def content(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(source: Path, output: Path, message: str, **options) -> None:
    before = content(source.parent)
    with pytest.raises(ConvertError, match=message):
        convert(source, output, overwrite=True, **options)
    assert content(source.parent) == before


@pytest.mark.parametrize("name", ["x.part", "x.old.part"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_source_named_like_a_part_of_the_output_stays(herd, tmp_path, name, overwrite):
    source = herd.rename(tmp_path / name)
    before = content(source)
    if overwrite:
        convert(source, tmp_path / "x")
    convert(source, tmp_path / "x", overwrite=overwrite)
    assert content(source) == before
    assert {path.name for path in tmp_path.iterdir()} == {name, "x"}


def test_neighbours_stay(herd, tmp_path):
    for name in ("out.part", "out.old.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter.txt").write_text("dear")
    convert(herd, tmp_path / "out")
    convert(herd, tmp_path / "out", overwrite=True)
    assert {path.name for path in tmp_path.glob("*/letter.txt")} == {"letter.txt"}
    assert len(list(tmp_path.glob("*/letter.txt"))) == 2


def test_a_new_folder_and_its_parents_have_the_usual_permissions(herd, tmp_path):
    (tmp_path / "usual").mkdir()
    output = convert(herd, tmp_path / "new" / "parents" / "output")
    usual = (tmp_path / "usual").stat().st_mode
    assert output.stat().st_mode == output.parent.stat().st_mode == usual
    assert convert(herd, output, overwrite=True).stat().st_mode == usual
    assert [path.name for path in output.parent.iterdir()] == ["output"]


def test_a_relative_output_may_end_in_dots(herd, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(herd, "absent/../output")
    assert (tmp_path / "here" / "output" / "config.json").is_file()


def failing_rename(monkeypatch, fails) -> None:
    rename = Path.rename

    def broken(path: Path, target: Path) -> Path:
        if fails(path, Path(target)):
            raise OSError("disk gone")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", broken)


def test_a_checkpoint_has_its_name_back_where_the_new_one_cannot_take_it(herd, tmp_path, monkeypatch):
    output = convert(herd, tmp_path / "output")
    before = content(tmp_path)
    new = []  # the second rename, of the new checkpoint; the third gives the old one its name back
    failing_rename(monkeypatch, lambda _, target: target == output and not new and not new.append(target))
    with pytest.raises(OSError, match="disk gone"):
        convert(herd, output, dtype="bfloat16", overwrite=True)
    assert new
    assert content(tmp_path) == before


def test_a_checkpoint_that_cannot_have_its_name_back_is_kept_and_named(herd, tmp_path, monkeypatch):
    output = convert(herd, tmp_path / "output")
    before = content(output)
    failing_rename(monkeypatch, lambda _, target: target == output)
    with pytest.raises(ConvertError, match=r"output: not replaced \(disk gone\); the checkpoint .* is ") as caught:
        convert(herd, output, dtype="bfloat16", overwrite=True)
    assert content(Path(str(caught.value).rpartition(" is ")[2])) == before


def test_an_output_that_comes_in_the_meantime_stays(herd, tmp_path, monkeypatch):
    output = tmp_path / "output"
    carry = convert_module._carry

    def slowly(*args):
        carry(*args)
        output.mkdir()
        (output / "config.json").write_text("another's")

    monkeypatch.setattr(convert_module, "_carry", slowly)
    with pytest.raises(ConvertError, match="output: found that it exists"):
        convert(herd, output)
    assert (output / "config.json").read_text() == "another's"
    assert {path.name for path in tmp_path.iterdir()} == {"herd", "output"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": '{"editor": "vim"}'}, r"it takes config\.json and model\.safetensors or model"),
        ({"config.json": '{"model_type": "llama"}'}, r"it takes config\.json and model\.safetensors or model"),
        ({"config.json": '{"model_type": "bert"}', "model.safetensors": ""}, "model_type in its config.json: 'bert'"),
        ({"config.json": "{", "model.safetensors": ""}, r"config\.json: not valid JSON"),
        ({"config.json": '{"model_type": "llama"}', "model.safetensors.index.json": "[]"}, "found list, expected an"),
    ],
)
def test_a_folder_is_no_checkpoint_for_its_config_json(herd, tmp_path, files, message):
    (tmp_path / "output").mkdir()
    for name, text in files.items():
        (tmp_path / "output" / name).write_text(text)
    refused(herd, tmp_path / "output", f"output: found no checkpoint there, expected one.*{message}")


def test_what_lies_beside_a_checkpoint_is_named_and_stays(herd, tmp_path):
    output = convert(herd, tmp_path / "output")
    names = ("checkpoint-10/optimizer.pt", "LICENSES/mine", "additional_chat_templates/notes.txt", "thesis.tex")
    for name in (*names, "model-00001-of-00002.safetensors"):  # a shard of no index
        (output / name).parent.mkdir(exist_ok=True)
        (output / name).touch()
    lines = ("LICENSES/", "additional_chat_templates/notes.txt", "checkpoint-10/", "model-00001-of-00002.safetensors")
    refused(herd, output, r"not of a checkpoint \(5\):\n  " + "\n  ".join((*lines, "thesis.tex")) + "$")


@pytest.mark.parametrize("options", [{}, {"to": "herd", "with_code": True}, {"max_shard_size": "30KB"}, {"link": True}])
def test_all_that_convert_writes_may_be_replaced(herd, tmp_path, options):
    for name in ("tokenizer.json", "LICENSE", "additional_chat_templates/tools.jinja"):
        (herd / name).parent.mkdir(exist_ok=True)
        (herd / name).write_text("{}")
    before = content(herd)
    output = convert(herd, tmp_path / "output", **options)
    convert(herd, output, dtype="bfloat16", overwrite=True)
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    assert content(herd) == before
    assert {path.name for path in tmp_path.iterdir()} == {"herd", "output"}


def test_an_empty_folder_is_replaced_when_asked(herd, tmp_path):
    (tmp_path / "output").mkdir()
    assert (convert(herd, tmp_path / "output", overwrite=True) / "config.json").is_file()


def test_the_source_of_links_is_not_replaced_by_them(herd, tmp_path):
    view = convert(herd, tmp_path / "view", link=True)
    refused(view, herd, r"model\.safetensors: found a link into .*herd, expected a source that outlasts")
