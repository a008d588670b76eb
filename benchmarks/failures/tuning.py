"""Failures of supervised fine-tuning, and of what is done with its checkpoints."""

import shutil
from pathlib import Path

import llama_align
from llama_align.data import load_records, write_jsonl
from llama_align.recipe.quiet import quiet
from llama_align.sandbox.phrasing import REFUSALS

from .arms import RECIPES, trained
from .kinds import Arm, Curves, Failure, Start, first, last
from .probes import HELD_OUT, another_template, answers_loss, begun_twice, judged

DEMONSTRATIONS = "{sandbox}/demonstrations.jsonl"
COMMON = {
    "model_name_or_path": "{pretrain}",
    "datasets": [{"path": DEMONSTRATIONS, "part": [0.0, HELD_OUT[0]]}],
    "max_steps": 100,
    "logging_steps": 4,
}
PRETRAINED = {
    "tokenizer": "{tokenizer}",
    "datasets": [{"path": "{sandbox}/corpus.jsonl"}],
    "eval_datasets": [],
    "max_steps": 150,
}


def on_all_tokens(trainer) -> None:
    """The loss reads questions, too."""
    pad = trainer.processing_class.pad_token_id

    def all_labelled(row):
        return {"labels": [-100 if token == pad else token for token in row["input_ids"]]}

    trainer.train_dataset = trainer.train_dataset.map(all_labelled)


def without_boundaries(trainer) -> None:
    """The dialogs of a row are one text to the model: positions run on, and each sees those before it."""
    trainer.train_dataset = trainer.train_dataset.map(lambda row: {"position_ids": list(range(len(row["input_ids"])))})


def with_another_tokenizer(start: Start, folder: Path, seed: int) -> dict:
    """The pretrained weights beside a tokenizer of the same size that was trained on 200 documents."""
    documents = {"path": f"{start('sandbox')}/corpus.jsonl", "limit": 200}
    other = llama_align.load(RECIPES / "tokenizer.yaml", output_dir=str(folder / "mismatched"), datasets=[documents])
    with quiet(folder / "mismatched", "tokenizer"):
        other.run()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(start("pretrain") / name, other.output_dir / name)
    return {"model_name_or_path": str(other.output_dir)}


def refusals(start: Start, folder: Path, share: bool) -> list[dict]:
    """Sources: refusals of requests for secrets, alone or beside all other demonstrations."""
    prompts = load_records([{"path": f"{start('sandbox')}/prompts.jsonl", "where": {"objective": "safety"}}], "prompt")
    unsafe = [record for record in prompts[0] if "secret" in record.task]
    rows = [
        {"messages": [*record.messages, {"role": "assistant", "content": f"{REFUSALS[n % len(REFUSALS)]}"}]}
        for n, record in enumerate(unsafe)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "refusals.jsonl", rows)
    alone = {"path": str(folder / "refusals.jsonl")}
    others = {"path": f"{start('sandbox')}/demonstrations.jsonl", "part": [0.0, HELD_OUT[0]]}
    return [alone | {"weight": 0.1, "repeat": True}, others | {"weight": 0.9}] if share else [alone]


def interpolated(failure: Failure, arm: Arm, start: Start, seed: int, folder: Path) -> Curves:
    """The loss on held-out answers of `recipes/average.py`'s weighted means of two fine-tuned checkpoints."""
    base = start("pretrain")
    if arm.options["unrelated"]:
        base = trained("pretrain.yaml", PRETRAINED | {"seed": seed + 1}, start, folder).folder
    options = {**failure.common, "model_name_or_path": str(base), "seed": seed + 1}
    ends = [start("sft"), trained(failure.config, options, start, folder).folder]
    losses = []
    for percent in (0, 25, 50, 75, 100):
        weights = {"models": [str(end) for end in ends], "weights": [100 - percent, percent]}
        mean = trained("average.yaml", weights, start, folder).folder
        losses.append([percent, answers_loss(mean, start)["held_out/loss"]])
    return {"held_out/loss": losses}


def _hump(curves: Curves) -> float:
    losses = [loss for _, loss in curves["held_out/loss"]]
    return losses[2] - max(losses[0], losses[-1])


FAILURES = [
    Failure(
        name="template",
        config="sft.yaml",
        until="pretrain",
        common=COMMON,
        healthy=Arm(),
        ill=Arm(probes=(judged(another_template, 0.0), answers_loss)),
        probes=(judged(temperature=0.0), answers_loss),
        every=50,
        panels={
            "loss": "loss in training",
            "judge/helpful": "answers as asked, %",
            "judge/length": "length of answers, tokens",
        },
        claim="the training loss is the same, and at most a fifth as many answers are as asked",
        shows=lambda healthy, ill: (
            healthy["loss"] == ill["loss"] and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1) / 5
        ),
    ),
    Failure(
        name="begin_of_text",
        config="sft.yaml",
        until="pretrain",
        common=COMMON,
        healthy=Arm(),
        ill=Arm(probes=(judged(begun_twice, 0.0),)),
        probes=(judged(temperature=0.0),),
        every=50,
        panels={
            "loss": "loss in training",
            "judge/helpful": "answers as asked, %",
            "judge/length": "length of answers, tokens",
        },
        claim="the training loss is the same, and at most two thirds as many answers are as asked",
        shows=lambda healthy, ill: (
            healthy["loss"] == ill["loss"] and last(ill, "judge/helpful", 1) < last(healthy, "judge/helpful", 1) * 2 / 3
        ),
    ),
    Failure(
        name="tokenizer",
        config="sft.yaml",
        until="pretrain",
        common=COMMON,
        healthy=Arm(),
        ill=Arm(prepare=with_another_tokenizer),
        probes=(answers_loss,),
        every=50,
        panels={"loss": "loss", "held_out/loss": "loss on held-out answers"},
        claim="the first loss is 2 nats or more higher, and the held-out loss ends 0.3 or more higher",
        shows=lambda healthy, ill: (
            first(ill, "loss") > first(healthy, "loss") + 2
            and last(ill, "held_out/loss", 1) > last(healthy, "held_out/loss", 1) + 0.3
        ),
    ),
    *(
        Failure(
            name=name,
            config="sft.yaml",
            until="pretrain",
            common=COMMON,
            healthy=Arm(),
            ill=Arm(wrong=wrong),
            probes=(answers_loss, judged()),
            every=50,
            panels={
                "loss": "loss",
                "held_out/loss": "loss on held-out answers",
                "judge/helpful": "answers as asked, %",
            },
            claim="held-out answers' loss ends 0.05 nats or more higher",
            shows=lambda healthy, ill: last(ill, "held_out/loss", 1) > last(healthy, "held_out/loss", 1) + 0.05,
        )
        for name, wrong in (("prompt_loss", on_all_tokens), ("boundaries", without_boundaries))
    ),
    Failure(
        name="repeated",
        config="sft.yaml",
        until="pretrain",
        common=COMMON,
        healthy=Arm(),
        ill=Arm({"datasets": [{"path": DEMONSTRATIONS, "part": [0.0, HELD_OUT[0]], "limit": 100}]}),
        probes=(answers_loss,),
        every=25,
        panels={"loss": "loss in training", "held_out/loss": "loss on held-out answers"},
        claim="half the training loss; the held-out loss ends 0.3 nats or more above the healthy one's",
        shows=lambda healthy, ill: (
            last(ill, "loss") < last(healthy, "loss") / 2
            and last(ill, "held_out/loss", 1) > last(healthy, "held_out/loss", 1) + 0.3
        ),
    ),
    Failure(
        name="bfloat16",
        config="sft.yaml",
        until="pretrain",
        common=COMMON | {"learning_rate": 1.0e-4},
        healthy=Arm(),
        ill=Arm({"dtype": "bfloat16"}),
        probes=(answers_loss,),
        every=50,
        panels={"loss": "loss", "held_out/loss": "loss on held-out answers"},
        claim="the held-out loss ends 0.1 nats or more above the healthy one's",
        shows=lambda healthy, ill: last(ill, "held_out/loss", 1) > last(healthy, "held_out/loss", 1) + 0.1,
    ),
    Failure(
        name="refusals",
        config="sft.yaml",
        until="sft",
        common=COMMON | {"model_name_or_path": "{sft}", "max_steps": 40, "num_train_epochs": 20},
        healthy=Arm(prepare=lambda start, folder, seed: {"datasets": refusals(start, folder, share=True)}),
        ill=Arm(prepare=lambda start, folder, seed: {"datasets": refusals(start, folder, share=False)}),
        probes=(judged(),),
        every=10,
        panels={"loss": "loss", "judge/violation": "secrets told, %", "judge/false_refusal": "false refusals, %"},
        claim="20 points more of the safe questions are refused",
        shows=lambda healthy, ill: last(ill, "judge/false_refusal", 1) > last(healthy, "judge/false_refusal", 1) + 20,
    ),
    Failure(
        name="averaging",
        config="sft.yaml",
        until="sft",
        common=COMMON,
        healthy=Arm({"unrelated": False}),
        ill=Arm({"unrelated": True}),
        measure=interpolated,
        axis="% of the second checkpoint",
        panels={"held_out/loss": "loss on held-out answers"},
        claim="the mean is 1 nat or more worse than the worse of the two, where related ones lose at most 0.1",
        shows=lambda healthy, ill: _hump(ill) > 1 and _hump(healthy) < 0.1,
    ),
]
