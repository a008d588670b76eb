"""The YAMLs for published models, run on stand-ins: models of the same shape with random weights, and data sets with
the same splits and columns.

    python -m tests.recipes.standins                                            # every step of every plan, one process
    accelerate launch --config_file accelerate_configs/cpu_zero3.yaml --main_process_port 0 \\
        -m tests.recipes.standins --shared /tmp/standins

Under a launcher of several processes the recipes that want one are left out. What is changed in a YAML stands in
`overrides`: names of models and data sets, and numbers that are cut down to `MOST`.
"""

import argparse
import functools
import gc
import importlib.util
import itertools
import json
import os
import random
import sys
import time
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import yaml
from accelerate.state import AcceleratorState, PartialState
from datasets import Dataset, DatasetDict
from transformers import LlamaConfig, LlamaForCausalLM

from llama_align import recipe
from llama_align.chat import ControlTokens
from llama_align.models import preset
from llama_align.recipe.quantised import bitsandbytes_knows
from llama_align.rounds import Plan
from llama_align.rounds.references import resolve
from llama_align.rounds.steps import LAUNCHED
from llama_align.runtime.replacing import replaced

from ..chat import families

RECIPES = Path(__file__).parents[2] / "recipes"
# published model -> its size by name, what its widths and its heads are divided by, the type of its weights, and the
# family of its tokenizer (tests/chat/families.py)
MODELS = {
    "meta-llama/Llama-3.2-1B": ("llama-3.2-1b", 32, 4, torch.bfloat16, "llama-3.1"),
    "meta-llama/Llama-3.1-8B": ("llama-3.1-8b", 64, 4, torch.bfloat16, "llama-3.1"),
    "meta-llama/Llama-2-7b-hf": ("llama-2-7b", 64, 4, torch.float16, "llama-2-base"),
    "HuggingFaceTB/SmolLM2-135M": ("smollm2-135m", 8, 1, torch.bfloat16, "smollm2"),
}
FOLDERS = ("llama-3.2-1b", "llama-3.1-8b", "llama-2-7b", "smollm2-135m")
PRETRAINED = sorted(RECIPES.glob("*llama-*/pretrain.yaml"))  # from random weights, or from those of another
# of models made anew: what their widths and their heads are divided by
SHAPES = {
    **{"llama-1-7b": (64, 4), "llama-2-7b": (64, 4), "llama-2-70b": (128, 8), "llama-3.1-8b": (64, 4)},
    **{"llama-3.1-405b": (128, 8), "llama-3.2-1b": (32, 4)},
}
PLANS = sorted(path for folder in FOLDERS for path in (RECIPES / folder).glob("rounds*.yaml"))
# options cut down to these; numbers of a source among them
MOST = {
    **{"max_length": 256, "context": 256, "max_new_tokens": 10, "max_completion_length": 10, "limit": 8},
    **{"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "generation_batch_size": 8},
    **{"answers": 4, "prompts_per_shard": 8, "max_cached_tokens": 4096, "logging_steps": 1, "warmup_steps": 1},
    **{"max_steps": 2},
}
QUIET = {"report_to": "none", "disable_tqdm": True}
QUANTISED = ("load_in_4bit", "bnb_4bit_quant_type", "use_bnb_nested_quant")  # left out where they would be refused
WORDS = ("river", "stone", "bread", "lamp", "tower", "seven", "quiet", "green", "walks", "under", "holds", "near")


class Rows:
    """Rows of the public data sets that the YAMLs name, column by column as the Hub has them."""

    def __init__(self, seed: int = 0):
        self.draw, self.numbers = random.Random(seed), itertools.count()

    def text(self, words: int = 6) -> str:
        return " ".join(self.draw.choices(WORDS, k=words))

    def prompt(self) -> str:
        return f"{self.text()} {next(self.numbers)}?"

    def dialog(self, prompt: str) -> list[dict]:
        return [{"content": prompt, "role": "user"}, {"content": self.text(), "role": "assistant"}]

    def tulu(self) -> dict:
        return {"id": f"row_{next(self.numbers)}", "messages": self.dialog(self.prompt()), "source": "made-up"}

    def smoltalk(self) -> dict:
        return {"messages": self.dialog(self.prompt()), "source": "made-up"}

    def dolly(self) -> dict:
        context = self.draw.choice(["", self.text()])
        return {"instruction": self.prompt(), "context": context, "response": self.text(), "category": "open_qa"}

    def helpsteer(self) -> dict:
        prompt = f"{WORDS[next(self.numbers) // 4 % 12]} {next(self.numbers) // 8}"  # several answers to each
        marks = {n: self.draw.randint(0, 4) for n in ("helpfulness", "correctness", "coherence", "complexity")}
        return {"prompt": prompt, "response": self.text(), **marks, "verbosity": 2}

    def ultrafeedback(self) -> dict:
        prompt = self.prompt()
        chosen, rejected = self.dialog(prompt), self.dialog(prompt)
        scores = sorted((self.draw.randint(2, 20) / 2 for _ in range(2)), reverse=True)
        return {
            **{"prompt": prompt, "prompt_id": str(next(self.numbers)), "chosen": chosen, "rejected": rejected},
            **{"messages": chosen, "score_chosen": scores[0], "score_rejected": scores[1]},
        }

    def slim_pajama(self) -> dict:
        sets = ("CommonCrawl", "C4", "Github", "Book", "ArXiv", "Wikipedia", "StackExchange")
        meta = {"redpajama_set_name": f"RedPajama{sets[next(self.numbers) % len(sets)]}"}
        return {"text": self.text(60), "meta": meta}

    def fineweb(self) -> dict:
        address = {"url": "http://made.up", "date": "2024-05-18T05:48:54Z", "dump": "CC-MAIN-2024-22"}
        return {"text": self.text(60), "id": f"<urn:{next(self.numbers)}>", **address, "language": "en"}

    def open_web_math(self) -> dict:
        return {"url": "http://made.up", "text": self.text(60), "date": datetime(2024, 5, 18), "metadata": "{}"}

    def starcoder(self) -> dict:
        return {"max_stars_repo_path": "a.py", "max_stars_count": 1, "id": "0", "content": self.text(60)}

    def common_corpus(self) -> dict:
        language = self.draw.choice(["German", "French", "English"])
        return {"identifier": "0", "date": 1890, "title": None, "language": language, "text": self.text(60)}

    def safe_rlhf(self) -> dict:
        safe = [self.draw.random() < 0.5 for _ in range(2)]
        safer = safe.index(True) if any(safe) else self.draw.randint(0, 1)
        row = {"prompt": self.prompt(), "prompt_source": "made-up", "response_0_source": "a", "response_1_source": "b"}
        for number in (0, 1):
            row |= {
                f"response_{number}": self.text(),
                f"is_response_{number}_safe": safe[number],
                f"response_{number}_severity_level": 0 if safe[number] else 2,
                f"response_{number}_sha256": "0" * 64,
            }
        return row | {"better_response_id": self.draw.randint(0, 1), "safer_response_id": safer}


# data set -> how its rows are made, rows by split
DATA = {
    "allenai/tulu-3-sft-mixture": (Rows.tulu, {"train": 600}),  # the YAMLs take down to a seventieth of it
    "HuggingFaceTB/smol-smoltalk": (Rows.smoltalk, {"train": 600, "test": 20}),
    "databricks/databricks-dolly-15k": (Rows.dolly, {"train": 40}),
    "nvidia/HelpSteer": (Rows.helpsteer, {"train": 160, "validation": 40}),
    "HuggingFaceH4/ultrafeedback_binarized": (Rows.ultrafeedback, {"train_prefs": 90, "test_prefs": 40}),
    "PKU-Alignment/PKU-SafeRLHF": (Rows.safe_rlhf, {"train": 90, "test": 40}),
    "cerebras/SlimPajama-627B": (Rows.slim_pajama, {"train": 70}),
    "HuggingFaceFW/fineweb": (Rows.fineweb, {"train": 60}),
    "open-web-math/open-web-math": (Rows.open_web_math, {"train": 20}),
    "bigcode/starcoderdata": (Rows.starcoder, {"train": 60}),
    "PleIAs/common_corpus": (Rows.common_corpus, {"train": 20}),
}


def write_data(root: Path) -> None:
    """Every data set as `datasets` saves it, with its splits."""
    for number, (name, (make, splits)) in enumerate(DATA.items()):
        rows = Rows(number)
        tables = {split: Dataset.from_list([make(rows) for _ in range(count)]) for split, count in splits.items()}
        DatasetDict(tables).save_to_disk(root / name)


def write_models(root: Path) -> None:
    """Every model with two layers, narrower, as plain transformers saves a Llama; its tokenizer beside it."""
    texts = [" ".join(WORDS) + " 12 2024, what is it?"] * 8
    for name, (size, width, heads, dtype, family) in MODELS.items():
        tokenizer = families.make(family, texts)
        published = preset(size)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            num_hidden_layers=2,
            hidden_size=published.hidden_size // width,
            intermediate_size=published.intermediate_size // width,
            num_attention_heads=published.num_attention_heads // heads,
            num_key_value_heads=published.num_key_value_heads // heads,
            max_position_embeddings=published.max_position_embeddings,
            rope_parameters=published.rope_parameters,
            rms_norm_eps=published.rms_norm_eps,
            tie_word_embeddings=published.tie_word_embeddings,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            initializer_range=0.4,  # wide enough for gaps between the scores of a new head
        )
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        with torch.no_grad():  # answers that end
            model.lm_head.weight[list(ControlTokens.of(tokenizer).terminators)] *= 3
        model.to(dtype).save_pretrained(root / name)
        tokenizer.save_pretrained(root / name)


def overrides(config: dict, root: Path, trains: bool) -> dict:
    """A step's options with the stand-ins under `root`, two steps, and numbers no larger than `MOST`."""

    def small(key: str, value):
        if isinstance(value, dict):
            return {name: small(name, item) for name, item in value.items()}
        if isinstance(value, list):
            return [small("", item) for item in value]
        if isinstance(value, str) and value in MODELS | DATA:
            return str(root / value)
        return min(value, MOST[key]) if key in MOST and type(value) in (int, float) else value

    refused = () if bitsandbytes_knows("cpu") and int(os.environ.get("WORLD_SIZE", 1)) == 1 else QUANTISED
    found = {key: small(key, value) for key, value in config.items() if key not in refused}
    return found | ({"max_steps": MOST["max_steps"]} | QUIET if trains else {})


def anew(options: dict) -> dict:
    """The options of pretraining, whose model has two layers and is narrower where it is made from random weights."""
    if "size" not in options:
        return options
    width, heads = SHAPES[options["size"]]
    published = preset(options["size"])
    small = {
        "num_hidden_layers": 2,
        "hidden_size": published.hidden_size // width,
        "intermediate_size": published.intermediate_size // width,
        "num_attention_heads": published.num_attention_heads // heads,
        "num_key_value_heads": published.num_key_value_heads // heads,
    }
    return options | {"size_overrides": options.get("size_overrides", {}) | small}


def staged(options: dict) -> dict:
    """The options of pretraining, two steps of four rows in every stage, rows a thirty-second of their length.

    Without gates, which random weights keep shut, and without what these look at.
    """
    options = {name: value for name, value in options.items() if name not in ("max_steps", "eval_datasets")}
    stages = []
    for stage in options["stages"]:
        stage = {name: value for name, value in stage.items() if name != "gate"}
        context = min(stage.get("context", 8192), 8192) // 32
        stages.append(stage | {"context": context, "batch": 4 * context, "tokens": 8 * context})
    return options | {"stages": stages}


@functools.cache
def main_of(script: str):
    """A recipe's `main` and the dataclasses it parses."""
    handed = []
    spec = importlib.util.spec_from_file_location("__main__", RECIPES / f"{script}.py")
    with replaced(recipe, "run", lambda main, *types, doc=None: handed.append((main, types))):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return handed[0]


def run_step(script: str, options: dict, output: Path) -> None:
    """A recipe in this process, or in all of a launch, on options as a YAML has them."""
    main, types = main_of(script)
    config = output.with_suffix(f".{os.environ.get('RANK', 0)}.yaml")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(options | {"output_dir": str(output)}, sort_keys=False))
    main(*recipe.parse(types, ["--config", str(config)]))


def run_plan(path: Path, root: Path, output: Path, until: str = "", said=lambda *_: None) -> dict[str, Path]:
    """Every step of a plan that this launch can run, in order; returns their directories by name."""
    plan, alone = Plan.load(path, RECIPES), int(os.environ.get("WORLD_SIZE", 1)) == 1
    folders = {step.name: output / step.name for step in plan.steps}
    for step in plan.steps:
        if alone or step.recipe in LAUNCHED:
            began = time.perf_counter()
            options = resolve(plan.configs[step.name], {name: str(folder) for name, folder in folders.items()})
            trains = step.recipe in LAUNCHED and step.recipe != "rejection_sampling"
            run_step(step.recipe, overrides(options, root, trains), folders[step.name])
            said(path, step, folders[step.name], time.perf_counter() - began)
        if step.name == until:
            break
    return folders


def losses(folder: Path) -> list[float]:
    """What a training step logged."""
    log = folder / "log.jsonl"
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    return [row["loss"] for row in rows if "loss" in row]


def _ended(path: Path, step, folder: Path, seconds: float) -> None:
    """Says so, and lets go of the launch's accelerator: each recipe sets up its own."""
    state = PartialState()
    state.wait_for_everyone()
    if state.is_main_process:
        found = f"losses {losses(folder)}" if losses(folder) else "done"
        print(f"{path.parent.name}/{path.stem:<14} {step.name:<20} {seconds:6.1f} s  {found}", flush=True)
    AcceleratorState._reset_state()
    gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plans", nargs="*", help="folder/name of some, such as llama-2-7b/rounds (default: all)")
    parser.add_argument("--until", default="", help="stop behind this step")
    parser.add_argument("--shared", type=Path, help="a new folder that all processes see, for more than one")
    args = parser.parse_args()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not args.shared:
        parser.error("--shared: found none, expected a new folder that all processes see")
    with TemporaryDirectory() as own:
        root = args.shared or Path(own)
        if int(os.environ.get("RANK", 0)) == 0 and not (root / "made").exists():
            write_data(root)
            write_models(root)
            (root / "made").touch()
        while not (root / "made").exists():
            time.sleep(0.5)
        for path in PLANS:
            if not args.plans or f"{path.parent.name}/{path.stem}" in args.plans:
                run_plan(path, root, root / path.parent.name / path.stem, args.until, _ended)
    recipe.leave_group()


if __name__ == "__main__":
    sys.exit(main())
