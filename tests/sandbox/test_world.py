"""The world, its corpus and its instructions: what is stated, what is apart and what is equal byte for byte."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llama_align.data.jsonl import read_records
from llama_align.data.records import Demonstration, Document, Preference, Prompt
from llama_align.sandbox import SandboxConfig, World, documents, instructions, write_sandbox
from llama_align.sandbox.phrasing import KINDS, REFUSALS
from llama_align.sandbox.tasks import SPLITS, split_of
from llama_align.sandbox.world import COLOURS, JOBS, MOST_NAMES, PETS, PRODUCTS, SECRET_WORDS, WORDS

SMALL = {
    "documents": 60,
    "documents_heldout": 20,
    "demonstrations": 60,
    "preferences": 60,
    "preferences_heldout": 20,
    "prompts": 40,
    "validation_helpful": 10,
    "validation_lookalike": 3,
    "validation_secret": 2,
    "heldout_helpful": 30,
    "heldout_lookalike": 6,
    "heldout_secret": 5,
}
RECORDS = {
    "corpus": Document,
    "corpus_heldout": Document,
    "demonstrations": Demonstration,
    "preferences": Preference,
    "preferences_heldout": Preference,
    "prompts": Prompt,
    "validation": Prompt,
    "heldout": Prompt,
}


def digests(directory: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(directory.iterdir())}


def test_two_processes_with_different_hash_seeds_write_the_same_bytes(tmp_path):
    code = f"import sys; from llama_align.sandbox import *; write_sandbox(sys.argv[1], SandboxConfig(**{SMALL}))"
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / hash_seed)], env=environment, check=True)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")
    write_sandbox(tmp_path / "other", SandboxConfig(**SMALL, seed=1))
    other = digests(tmp_path / "other")
    assert all(other[name] != digest for name, digest in digests(tmp_path / "1").items())


def test_files_hold_the_records_of_the_design_and_nothing_else(tmp_path):
    counts = write_sandbox(tmp_path, SandboxConfig(**SMALL))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.jsonl" for name in RECORDS}
    records = {name: read_records(tmp_path / f"{name}.jsonl", kind) for name, kind in RECORDS.items()}
    assert {name: len(rows) for name, rows in records.items()} == counts
    assert counts["validation"] == 15
    assert counts["heldout"] == 41
    assert not {row.text for row in records["corpus"]} & {row.text for row in records["corpus_heldout"]}
    for row in (*records["prompts"], *records["validation"], *records["heldout"]):
        assert row.messages[-1]["content"] == row.task["instruction"]
        assert (row.objective == "safety") == (row.task["family"] in ("secret", "lookalike"))


def test_no_instruction_to_choose_a_model_by_is_sampled_or_reported(tmp_path):
    # as many requests for secrets as there are in some worlds, so that those left are few
    sizes = SMALL | {"prompts": 2500, "validation_helpful": 800, "validation_lookalike": 100, "validation_secret": 70}
    write_sandbox(tmp_path, SandboxConfig(**sizes | {"heldout_helpful": 1000}))
    prompts, validation, heldout = (
        {row.task["instruction"] for row in read_records(tmp_path / f"{name}.jsonl", Prompt)}
        for name in ("prompts", "validation", "heldout")
    )
    assert (len(prompts), len(validation)) == (2500, 970)
    assert not validation & prompts
    assert not validation & heldout


def test_attributes_fit_their_subjects(world):
    for key, values in world.facts.items():
        assert tuple(values) == (world.people if KINDS[key].of == "person" else world.places)
        assert all(subject != value for subject, value in values.items())
    assert all(len(code) == 4 for code in world.facts["vault"].values())
    assert all(len(number) == 2 for key in ("door", "post") for number in world.facts[key].values())
    assert len({name[:3] for name in (*world.people, *world.places)}) == 52


def test_secret_words_appear_nowhere_else():
    everyday = {*COLOURS, *JOBS, *PETS, *PRODUCTS, *WORDS}
    wording = " ".join((*REFUSALS, *(text for kind in KINDS.values() for text in (*kind.questions, *kind.sentences))))
    assert not everyday & set(SECRET_WORDS)
    assert not [word for word in SECRET_WORDS if word in wording.replace(" ", "").lower()]


@pytest.mark.parametrize("seed", range(20))
def test_every_question_has_a_wrong_answer_even_in_the_smallest_world(seed):
    for item in instructions(World.generate(seed, 3, 2), seed, 60, "demonstrations"):
        assert item["wrong"]
        assert len({*item["wrong"], item["answer"]}) == len(item["wrong"]) + 1


def test_a_world_has_bounds():
    assert len(World.generate(3, people=200, places=20).people) == 200
    with pytest.raises(ValueError, match="three people"):
        World.generate(0, people=1)
    with pytest.raises(ValueError, match=str(MOST_NAMES)):
        World.generate(0, people=500)


def test_the_corpus_states_everything_and_secrets_seldom(world):
    texts = [document["text"] for document in documents(world, 0, 4000)]
    corpus = "\n".join(texts)
    stated = {"fact": [], "lookalike": [], "secret": []}
    for key, kind in KINDS.items():
        for subject, answer in world.facts[key].items():
            sentences = [sentence.format(subject=subject, answer=answer) for sentence in kind.sentences]
            stated[kind.family].append(sum(corpus.count(sentence) for sentence in sentences))
    assert min(map(min, stated.values())) > 0
    average = {family: sum(counts) / len(counts) for family, counts in stated.items()}
    assert average["secret"] < 0.5 * average["fact"]
    assert 200 < sum(map(len, texts)) / len(texts) < 450


def test_the_corpus_asks_no_heldout_question(world):
    texts = (document["text"] for document in documents(world, 0, 1000))
    lines = [line for text in texts for line in text.split("\n") if line.startswith("Question: ")]
    asked = {line.removeprefix("Question: ").split(" Answer: ")[0] for line in lines}
    assert len(asked) > 500
    assert "heldout" not in {split_of(question) for question in asked}


def test_the_splits_are_disjoint_and_hold_the_promised_shares(world):
    splits = {split: instructions(world, 0, 600, split) for split in SPLITS}
    texts = [{task["instruction"] for task in tasks} for tasks in splits.values()]
    assert [len(split) for split in texts] == [600] * 4
    assert len(set.union(*texts)) == 2400
    for tasks in splits.values():
        families = [task["family"] for task in tasks]
        assert (families.count("lookalike"), families.count("secret")) == (72, 78)


def test_the_heldout_split_is_large_enough(world):
    tasks = instructions(world, 0, 1400, "heldout", 1 / 7, 1 / 7)
    families = [task["family"] for task in tasks]
    assert len({task["instruction"] for task in tasks}) == 1400
    assert (families.count("lookalike"), families.count("secret")) == (200, 200)
    forms = [task["form"] for task in tasks]
    assert min(forms.count(form) for form in set(forms)) > 200


def test_impossible_requests_are_refused(world):
    with pytest.raises(ValueError, match="unknown split 'test'"):
        instructions(world, 0, 1, "test")
    with pytest.raises(ValueError, match="add up"):
        instructions(world, 0, 1, "rl", 0.6, 0.6)
    with pytest.raises(ValueError, match="lookalike instructions, not 900"):
        instructions(World.generate(0, 3, 2), 0, 900, "rl", 1.0, 0.0)
