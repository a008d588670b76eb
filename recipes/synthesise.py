"""Makes demonstrations from other data: back-translation, paraphrase, synonyms (Llama 3, section 4.3.1).

    python recipes/synthesise.py --config recipes/herd-nano/synthesise.yaml

Writes demonstrations.jsonl, decisions.jsonl, metrics.json and README.md as recipes/refine.py does. Killed at any
moment, the same command goes on: answers are kept in shards.
"""

from dataclasses import MISSING, dataclass, field

from llama_align import recipe

recipe.check_first(__name__, __file__)  # --help and mistakes in options, before imports that take seconds

from llama_align.data import load_records
from llama_align.recipe.engines import CachedEngineOptions
from llama_align.refine import synthesis
from llama_align.refine.run import asker_of, leave
from llama_align.rejection import run as rejection
from llama_align.runtime import processes

READ = {  # by one method and not by another
    "back_translation": ("model", "prompts", "temperature", "verify", "least", "keep", "direction", "max_new_tokens"),
    "paraphrase": ("model", "prompts", "temperature", "max_new_tokens"),
    "synonyms": ("synonyms", "share"),
}


@dataclass
class SynthesiseArguments(CachedEngineOptions):
    output_dir: str = field(metadata={"help": "where demonstrations.jsonl, metrics.json and README.md go"})
    method: str = field(default="back_translation", metadata={"help": "back_translation, paraphrase or synonyms"})
    datasets: list[dict] = field(
        default_factory=list, metadata={"help": "sources of documents (back_translation) or demonstrations"}
    )
    title: str = field(default="Synthetic demonstrations", metadata={"help": "of the data card"})
    model: str | None = field(default=None, metadata={"help": "chat checkpoint that writes and verifies"})
    prompts: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "in place of the own ones: generate, back, verify; or rewrite, verify; <text>, <back> in them"
        },
    )
    answers: int = field(default=4, metadata={"help": "tries for each source: answers drawn, or variants of its words"})
    temperature: float = field(default=1.0, metadata={"help": "of what is generated; back and verify are greedy"})
    verify: str = field(default="model", metadata={"help": "model: by itself; overlap: words shared with the original"})
    least: float = field(default=0.7, metadata={"help": "of 1, how faithful what is written again must be"})
    keep: float = field(default=1.0, metadata={"help": "share of the best of each source that stays, highest first"})
    direction: str = field(
        default="forward", metadata={"help": "forward: what was generated is the answer; back: the original is"}
    )
    synonyms: dict[str, list[str]] = field(default_factory=dict, metadata={"help": "word: others in its place"})
    share: float = field(default=0.5, metadata={"help": "chance of each such word to be replaced, one at least"})
    too_long: str = field(default="error", metadata={"help": "what the model has no room for: error or drop"})
    max_new_tokens: int = field(default=256, metadata={"help": "longest answer"})
    prompts_per_shard: int = field(default=512, metadata={"help": "questions between two writes"})
    seed: int = field(default=0, metadata={"help": "of sources, sampling and synonyms"})


def check(args: SynthesiseArguments) -> dict[str, str]:
    """The prompts of the method. Raises RecipeError for what does not fit, or has no effect with it."""

    def one_of(name: str, known: tuple[str, ...]) -> None:
        if getattr(args, name) not in known:
            raise recipe.RecipeError(f"{name}: found {getattr(args, name)!r}, expected one of {', '.join(known)}")

    one_of("method", synthesis.METHODS)
    one_of("verify", ("model", "overlap"))
    one_of("direction", ("forward", "back"))
    for name in {one for names in READ.values() for one in names} - {*READ[args.method]}:
        of = args.__dataclass_fields__[name]
        default = of.default if of.default is not MISSING else of.default_factory()
        if getattr(args, name) != default:
            raise recipe.RecipeError(
                f"{name}: found {getattr(args, name)!r} with method {args.method}, which does not read it"
            )
    for name in ("datasets", "synonyms" if args.method == "synonyms" else "model"):
        if not getattr(args, name):
            raise recipe.RecipeError(f"{name}: found none, expected some for method {args.method}")
    if bad := [word for word, others in args.synonyms.items() if not word.strip() or not others or word in others]:
        raise recipe.RecipeError(f"synonyms: found {bad[0]!r}, expected a word and others in its place")
    own = synthesis.PROMPTS[args.method]
    for name, text in args.prompts.items():
        if name not in own:
            raise recipe.RecipeError(f"prompts: found {name!r}, expected some of {', '.join(own)}")
        for place in ("<text>", "<back>") if name == "verify" else ("<text>",):
            if place not in text:
                raise recipe.RecipeError(f"prompts, {name}: found no {place} in it, expected where the text goes")
    return own | args.prompts


def main(args: SynthesiseArguments) -> None:
    prompts, group = check(args), processes.join()
    if args.model:
        recipe.check_checkpoint(args.model, "causal")
    kind = "document" if args.method == "back_translation" else "demonstration"
    with group.quiet():
        records, report = load_records(args.datasets, kind, seed=args.seed)
        recipe.say(report)
    settings = args.engine_settings()
    ask = asker_of(args, rejection.samplers(settings, group), settings, group)
    if args.method == "synonyms":
        rows, tallies = synthesis.synonyms(records, args.synonyms, args)
    else:
        rows, tallies = getattr(synthesis, args.method)(records, ask, args, prompts)
    if not group.is_main:
        return
    found = [{"row": row.number, **{k: row.found[k] for k in ("of", "score") if k in row.found}} for row in rows]
    leave(args, "demonstration", rows, found, tallies, len(records))


if __name__ == "__main__":
    recipe.run(main, SynthesiseArguments, doc=__doc__)
