"""The options of `llama-align chat`. Imports nothing that loads a model."""

import argparse

CHAT = """\
Talk to a checkpoint in the terminal: a folder with weights, an adapter, a name on the Hub, or a run of rounds, of which
the last model is taken. With --against two answer every turn.

Each answer comes with the score of every reward model: those given, or those a run of rounds measured itself with.
What is typed never becomes a control token, whatever it looks like. From a pipe every line is a turn.
"""
COMMANDS = """\
in the conversation:
  /regen            another answer            /undo            take the last turn back
  /system TEXT      begin anew with it        /reset           begin anew
  /temperature T    0 is greedy               /top_p P         nucleus
  /max_new_tokens N longest answer            /roles           show the tokens by role
  /pick a, /pick b  go on from this answer    /save FILE       append the dialog as a demonstration
  /help             these lines               /quit            or the end of the input
  //text            says /text

examples:
  llama-align chat runs/demo
  llama-align chat runs/demo --against runs/demo/sft-0123456789 --temperature 0.7
  llama-align chat models/Llama-3.2-1B-Instruct --reward-models helpfulness=runs/reward --dtype bfloat16
"""


def add_options(one: argparse.ArgumentParser) -> None:
    """Gives the command's parser its options."""
    one.description, one.epilog = CHAT, COMMANDS
    one.add_argument("model", metavar="RUN_OR_CHECKPOINT", help="who answers")
    one.add_argument("--against", metavar="RUN_OR_CHECKPOINT", help="who answers, too")
    one.add_argument(
        "--reward-models", "--reward_models", nargs="*", type=_named, metavar="NAME=PATH",
        help="whose scores are shown (default: those of the run; none named: none)",
    )  # fmt: skip
    one.add_argument("--system", metavar="TEXT", help="what the conversation begins with")
    one.add_argument("--temperature", type=float, default=0.7, help="0 is greedy (default: 0.7)")
    one.add_argument("--top-p", "--top_p", type=float, default=1.0, help="nucleus (default: 1, all tokens)")
    one.add_argument("--max-new-tokens", "--max_new_tokens", type=int, default=256, help="longest answer")
    one.add_argument("--seed", type=int, default=0, help="of sampling")
    one.add_argument("--dtype", default="auto", help="of all weights: float32, bfloat16 or auto (their own)")
    one.add_argument("--verbose", action="store_true", help="show what libraries say while they load")


def _named(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=PATH")
    return name, path
