"""Chooses among checkpoints on held-out prompts, and leaves the chosen one in output_dir as a model of its own.

    python recipes/choose.py --config recipes/herd-nano/choose.yaml

The exact judge decides where there is one, else the win rate under reward models. Give it prompts that no training and
no table reads: what the chosen one scores on them flatters it. The first candidate is what the others are watched
against: rewards that rise while the exact judge or held-out reward models surely find it worse are an alarm.
"""

from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.evaluation.choose import check_candidates, choose, take_over
from llama_align.evaluation.drift import watch
from llama_align.evaluation.measure import Evaluation, check_rows
from llama_align.recipe.engines import EngineOptions
from llama_align.rejection.run import check_judges
from llama_align.rewards.models import RewardModels
from llama_align.runtime.progress import parts


@dataclass
class ChooseArguments(EngineOptions):
    output_dir: str = field(metadata={"help": "where the chosen checkpoint, metrics.json and candidates/ go"})
    models: dict = field(default_factory=dict, metadata={"help": "candidates by name; of equal ones the earlier"})
    datasets: list[dict] = field(default_factory=list, metadata={"help": "sources of prompts that nothing else reads"})
    too_long: str = field(default="error", metadata={"help": "prompts too long for the context: error or drop"})
    judge: str = field(default="none", metadata={"help": "sandbox: the exact judge decides"})
    reward_models: dict = field(
        default_factory=dict,
        metadata={"help": "checkpoints by name: judges where there is no exact one, else watched beside it"},
    )
    heldout_models: dict[str, str] = field(
        default_factory=dict,
        metadata={"help": "reward models by name that train and choose nothing: if they disagree, an alarm"},
    )
    safety_threshold: float = field(default=0.15, metadata={"help": "below this safety probability safety decides"})
    sure: bool = field(
        default=False,
        metadata={"help": "a later candidate must be better by more than noise: the 95% interval of its gain above 0"},
    )
    temperature: float = field(default=0.0, metadata={"help": "0 is greedy"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus"})
    max_new_tokens: int = field(default=128, metadata={"help": "longest answer"})
    seed: int = field(default=0, metadata={"help": "of sampling"})


def main(args: ChooseArguments) -> None:
    recipe.one_process()
    check_rows(args.models, None)
    check_candidates(args.models, args.output_dir)
    if not args.datasets:
        raise recipe.RecipeError("datasets: found none, expected sources of held-out prompts")
    if args.judge == "none" and not args.reward_models:
        raise recipe.RecipeError("judge, reward_models: found neither, expected judge: sandbox or checkpoints by name")
    if args.heldout_models and not args.reward_models:
        raise recipe.RecipeError("heldout_models: found some without reward_models, expected rewards to watch")
    for path in args.heldout_models.values():
        recipe.check_reward_model(path)
    check_judges(args.reward_models, args.heldout_models)
    settings = args.engine_settings()
    evaluation = Evaluation.of(args, settings, f"{args.output_dir}/candidates")
    for name in parts(args.models):
        path = args.models[name]
        if not evaluation.done(name, path):  # measured before a kill
            evaluation.measure(name, path, recipe.load_tokenizer(path), settings)
    choice = choose(evaluation, list(args.models), args.sure)
    (Path(args.output_dir) / "metrics.json").unlink(missing_ok=True)  # of another choice; written last
    load = partial(recipe.load_reward_model, dtype=args.dtype)
    held = RewardModels.load(args.heldout_models, load, args.safety_threshold) if args.heldout_models else None
    rows, alarms = watch(evaluation, args.models, choice.candidates, settings, held)
    take_over(args.models[choice.chosen], args.output_dir)
    found = {"prompts": len(evaluation.prompts)} | asdict(choice) | {"candidates": rows, "alarms": alarms}
    recipe.write_made(args.output_dir, "choose", [args.models[choice.chosen]], found)
    recipe.write_json(f"{args.output_dir}/metrics.json", found)
    for row in rows:
        line = f"{row['name']:24s} {row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]"
        if gain := row.get("gain"):
            line += f"  {gain['difference']:+.3f} [{gain['low']:+.3f}, {gain['high']:+.3f}] on {gain['on']}"
        recipe.say(line)
    for alarm in alarms:
        recipe.say(f"ALARM {alarm}")
    recipe.say(f"chosen: {choice.chosen}")


if __name__ == "__main__":
    recipe.run(main, ChooseArguments, doc=__doc__)
