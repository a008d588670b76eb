"""`llama-align people`."""

import argparse

DESCRIPTION = """\
Preferences from people. A batch is made by `llama-align annotate` with `annotator: people`, or by `import`.

  serve    the page for annotators and the one for managers, on this machine unless told otherwise
  status   how far a batch is, and how people work
  export   what came out so far: Preference records, or a form that Argilla or Potato reads
  import   pairs of answers, and what was said of them, from Argilla or Potato
"""
EXAMPLES = """\
examples:
  two people on this machine, each with a link of their own
    llama-align people serve runs/mine/annotate --people ada ben

  behind a proxy that speaks HTTPS for annotate.example.org
    llama-align people serve runs/mine/annotate --token-file token.txt --name annotate.example.org --link https://annotate.example.org

  into Argilla
    llama-align people export runs/mine/annotate --form argilla --to records.json
"""


def add_options(one: argparse.ArgumentParser) -> None:
    one.description, one.epilog = DESCRIPTION, EXAMPLES
    actions = one.add_subparsers(dest="action", metavar="{serve,status,export,import}", required=True)
    found = {name: actions.add_parser(name) for name in ("serve", "status", "export", "import")}
    for name, action in found.items():
        made = "where the batch is to be" if name == "import" else "output_dir of the annotate step"
        action.add_argument("folder", metavar="FOLDER", help=made)
    serve = found["serve"]
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8765)
    serve.add_argument(
        "--token-file", metavar="FILE", help="a secret of 16 characters or more; needed off this machine"
    )
    serve.add_argument("--name", action="append", default=[], help="what browsers call this machine; may be repeated")
    serve.add_argument("--link", metavar="URL", help="what links begin with (default: http, the name and the port)")
    serve.add_argument("--people", nargs="+", default=[], metavar="NAME", help="print a personal link for each")
    found["export"].add_argument("--form", choices=("records", "argilla", "potato"), default="records")
    found["export"].add_argument("--to", required=True, metavar="FILE")
    found["import"].add_argument("--form", choices=("argilla", "potato"), required=True)
    found["import"].add_argument(
        "--source", required=True, metavar="PATH", help="Argilla's JSON of records, or Potato's folder (data.jsonl)"
    )
    found["import"].add_argument("--round", type=int, default=1, help="written into the preferences")


def main(options: argparse.Namespace) -> None:
    from ..people.command import main as people  # imports what reads records, which takes seconds

    people(options)
