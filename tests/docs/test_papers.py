"""docs/papers.md is true and whole: its values are those of the YAMLs and the code, and none of a paper is missing."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import yaml

from llama_align.sizes.published import PRESETS

from .reading import ROOT, rows
from .sources import PAPERS, PLACE, RECIPES, Value, in_code, values

PAGE = ROOT / "docs" / "papers.md"
OF_YAMLS = rows(PAGE, "the paper has")
OF_CODE = rows(PAGE, "the paper says")
SHORT = {"Llama 1": "L1", "Llama 2": "L2", "Llama 3": "L3", "Code Llama": "CL"}  # as pretrain.yaml has them
OWN = {"llama-2-7b": "Llama 2"}  # the paper whose name comments of a folder leave out


def named(where: str, key: str) -> list[tuple[Path, Value]]:
    """What a row is of; every pattern of a file and of a key finds something."""
    found = []
    for pattern in where.split(", "):
        paths = sorted(RECIPES.glob(f"{pattern}.yaml"))
        assert paths, pattern
        for path in paths:
            of_file = [(path, value) for name, value in values(path).items() if fnmatchcase(name, key)]
            assert of_file, (path, key)
            found += of_file
    return found


def written(value) -> object:
    """As the page has it: numbers to four digits."""
    if isinstance(value, float):
        return pytest.approx(value, rel=1e-3)
    return [written(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("row", OF_YAMLS, ids="-".join)
def test_a_value_is_that_of_its_yamls(row):
    _, here, key, where, source = row
    for path, found in named(where, key):
        assert found.value == yaml.safe_load(here), path
        if path.parent.name.startswith("herd-") or found.comment.startswith(("as ", "see above")):
            continue  # no paper's folder, or the source stands beside another value
        for place in PLACE.findall(source):
            assert re.search(rf"\b{re.escape(place.split()[-1])}\b", found.comment), (path, found)
        paper = source.partition(",")[0]
        names = (paper, SHORT.get(paper, paper))
        assert any(name in found.comment for name in names) or OWN.get(path.parent.name) == paper, (path, found)


@pytest.mark.parametrize("row", OF_CODE, ids="-".join)
def test_a_value_is_that_of_the_code(row):
    _, here, name, _ = row
    assert yaml.safe_load(here) == written(in_code(name))


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_value_with_a_source_is_missing(path):
    name = f"{path.parent.name}/{path.stem}"
    keys = [key for _, _, key, where, _ in OF_YAMLS if any(fnmatchcase(name, each) for each in where.split(", "))]
    on_page = {found.line for of, found in values(path).items() if any(fnmatchcase(of, key) for key in keys)}
    assert {
        of: found.line for of, found in values(path).items() if found.is_sourced and found.line not in on_page
    } == {}


def test_sizes_are_the_presets():
    page = {name: cells for name, *cells in rows(PAGE, "size")}
    assert set(page) == {name for name in PRESETS if "llama-" in name}
    for name, (layers, width, heads, ffn, vocabulary, context, base, epsilon, tied) in page.items():
        size = PRESETS[name]
        assert [int(layers), int(width)] == [size["num_hidden_layers"], size["hidden_size"]]
        assert heads == f"{size['num_attention_heads']}, {size['num_key_value_heads']}"
        assert [int(ffn), int(vocabulary)] == [size["intermediate_size"], size["vocab_size"]]
        assert int(context) == size["max_position_embeddings"]
        assert float(base) == size["rope_parameters"]["rope_theta"]
        assert float(epsilon) == size["rms_norm_eps"]
        assert tied == ("yes" if size["tie_word_embeddings"] else "no")
