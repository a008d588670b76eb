"""llama.cpp itself on our GGUF files: the tokens of texts and greedy answers are those of transformers.

Skipped without the packages gguf and llama_cpp; the latter is built from source:

pip install -c constraints.txt gguf llama-cpp-python==0.3.36
"""

import os
import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llama_align import LlamaHerdConfig, LlamaHerdForCausalLM
from llama_align.chat import render_prompt, train_tokenizer
from llama_align.models.convert import convert

from ..conftest import made_up_text
from .test_gguf import LLAMA3

pytest.importorskip("gguf")
llama_cpp = pytest.importorskip("llama_cpp")

STORIES = Path(os.environ.get("LLAMA_ALIGN_SHARED", Path(__file__).parents[3] / "shared")) / "data/models/stories260K"
# as github.com/karpathy/llama2.c (test_all.py) expects of its C program at temperature 0
STORY = """\
Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, \
red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play with \
your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she"""
# letters, digits, spaces and signs of several scripts, and what looks like control tokens and bytes
PIECES = [
    *(
        "the",
        "The",
        " be",
        "do",
        "'S",
        "'ll",
        "it's",
        "naïve",
        "straße",
        "Ω",
        "東京",
        "한국",
        "العربية",
        "हिन्दी",
        "🙂",
        "👩‍🚀",
    ),
    *(
        "1",
        "12",
        "1234567",
        "٣",
        "½",
        " ",
        "  ",
        "\t",
        "\n",
        "\n\n",
        "\r\n",
        "\u00a0",
        "\u3000",
        ".",
        "...",
        " !",
        "«», ",
        "_",
    ),
    *("<|eot_id|>", "<s>", "<0x41>", "▁", "\u0301", "\u200b", "e\u0301", "-", "(", ")", "$5", "#", "\x00", "\ufffd"),
]


def llama(path: Path, **options):
    """The file in llama.cpp, keys and values in float32."""
    return llama_cpp.Llama(
        str(path),
        n_ctx=256,
        n_threads=1,
        n_threads_batch=1,
        type_k=0,
        type_v=0,
        verbose=False,
        logits_all=True,
        **options,
    )


def random_texts(count: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    points = [
        *range(0x20, 0x250),
        *range(0x370, 0x600),
        *range(0x900, 0x980),
        *range(0x2000, 0x2070),
        *range(0x4E00, 0x4E40),
    ]

    def piece() -> str:
        return draw.choice(PIECES) if draw.random() < 0.7 else chr(draw.choice(points))

    return ["".join(piece() for _ in range(draw.randint(1, 30))) for _ in range(count)]


def assert_same_tokens(found, tokenizer, texts: list[str]) -> None:
    wrong = []
    for text in texts:
        ids = found.tokenize(text.encode(), add_bos=False, special=False)
        wanted = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if ids != wanted:
            wrong.append((text, ids, wanted))
    assert not wrong, f"{len(wrong)} of {len(texts)}: {wrong[:3]}"


def assert_same_answers(found, model, prompts: list[list[int]], new_tokens: int = 32) -> None:
    """Greedily, token for token, and close in all scores; the best is above the second by more than they differ."""
    different, closest = 0.0, float("inf")
    for ids in prompts:
        given = torch.tensor([ids])
        with torch.no_grad():
            whole = model.generate(
                given, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens, eos_token_id=None
            )
            logits = model(whole).logits[0]
        best = logits[len(ids) - 1 : -1].topk(2).values
        closest = min(closest, (best[:, 0] - best[:, 1]).min().item())
        answer = list(islice(found.generate(ids, temp=0.0), new_tokens))
        assert answer == whole[0, len(ids) :].tolist()
        found.reset()
        found.eval(whole[0].tolist())
        different = max(different, (torch.from_numpy(found.scores[: whole.shape[1]]) - logits).abs().max().item())
    print(f"largest difference of scores {different:.2g}, smallest gap of the best {closest:.2g}")
    assert different < 1e-3
    assert closest > 2 * different


@pytest.fixture(scope="module")
def tokenizer():
    texts = [made_up_text(40, seed) + "\nIt's 東京, naïve, don't WE'LL. 12345\n\n" for seed in range(40)]
    return train_tokenizer(texts, 600)


@pytest.fixture(scope="module")
def herd(tokenizer, tmp_path_factory):
    """Saves a LlamaHerd, learning by heart for a moment what random weights would not say clearly."""

    def save(**changes) -> Path:
        folder = tmp_path_factory.mktemp("herd")
        torch.manual_seed(0)
        options = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        options |= {"num_key_value_heads": 2, "max_position_embeddings": 512, "vocab_size": len(tokenizer)}
        model = LlamaHerdForCausalLM(LlamaHerdConfig(**options | changes))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        rows = [tokenizer(made_up_text(60, seed))["input_ids"][:96] for seed in range(16)]
        for _ in range(30):
            optimizer.zero_grad()
            model(input_ids=torch.tensor(rows), labels=torch.tensor(rows)).loss.backward()
            optimizer.step()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"rope_parameters": LLAMA3},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 32},
    ],
    ids=["untied", "tied", "llama3 scaling", "biases and wider heads"],
)
def test_a_vocabulary_trained_here_answers_as_in_transformers(herd, tokenizer, tmp_path, changes):
    source = herd(**changes)
    found = llama(convert(source, tmp_path / "model.gguf", to="gguf"))
    model = LlamaHerdForCausalLM.from_pretrained(source).eval()
    questions = [made_up_text(5 + 3 * seed, 100 + seed) for seed in range(20)]
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in questions]
    assert_same_answers(found, model, prompts)


def test_texts_have_the_tokens_of_a_vocabulary_trained_here(herd, tokenizer, tmp_path):
    found = llama(convert(herd(), tmp_path / "model.gguf", to="gguf"))
    assert_same_tokens(found, tokenizer, random_texts(500))
    dialog = [
        {"role": "user", "content": "bado ki"},
        {"role": "assistant", "content": "lu"},
        {"role": "user", "content": "no"},
    ]
    text = tokenizer.apply_chat_template(dialog, tokenize=False, add_generation_prompt=True)
    assert found.tokenize(text.encode(), add_bos=False, special=True) == render_prompt(tokenizer, dialog)
    assert found.tokenize(b"bado") == tokenizer("bado")["input_ids"]  # begins with the same token
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter
    template = formatter(found.metadata["tokenizer.chat_template"], "<|eot_id|>", "<|begin_of_text|>")
    assert template(messages=dialog).prompt == text
    assert found.detokenize(tokenizer("me ki 東京", add_special_tokens=False)["input_ids"]).decode() == "me ki 東京"


@pytest.mark.shared
@pytest.mark.skipif(not STORIES.is_dir(), reason="stories260K is not there (set LLAMA_ALIGN_SHARED)")
def test_stories260k_tells_its_story(tmp_path):
    found = llama(convert(STORIES, tmp_path / "stories.gguf", to="gguf"))
    tokenizer, model = AutoTokenizer.from_pretrained(STORIES), AutoModelForCausalLM.from_pretrained(STORIES).eval()
    ids = list(islice(found.generate([1], temp=0.0), 200))
    assert found.detokenize(ids).decode().strip() == STORY
    assert_same_tokens(found, tokenizer, random_texts(500, seed=1))
    openings = [made_up_text(3 + seed, 200 + seed) for seed in range(18)] + ["Once upon a time", "Tom and his dog"]
    assert_same_answers(found, model, [tokenizer(text)["input_ids"] for text in openings])
