"""A session as people have it: two annotators in a browser, answers of sandbox models, a reward model of their choices.

    python -m tests.people.session --run runs/llama2 --output-dir runs/session [--items 30]

The annotators are scripts that read the page and press keys. What they think of it is the sandbox's exact judge, seen
through noise of each one's own. `--run` is a finished run of recipes/herd-nano/llama2.yaml, of which the models are.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import yaml
from playwright.sync_api import Page, sync_playwright

from llama_align.data import GRADES
from llama_align.people.store import Store
from llama_align.recipe import WAITS_FOR_PEOPLE
from llama_align.sandbox import Annotator
from tests.conftest import CHROMIUM, FLAGS

from .conftest import Server
from .test_browser import free_port, sent, where

ROOT = Path(__file__).parents[2]
CUT = "(the answer was cut off here)"


def recipe(name: str, folder: Path, code: int = 0, **options) -> None:
    """Runs a recipe in a process of its own, which has to end with this exit code."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({"output_dir": str(folder)} | options))
    script = ROOT / "recipes" / f"{name}.py"
    ended = subprocess.run([sys.executable, script, "--config", folder / f"{name}.yaml"]).returncode
    if ended != code:
        sys.exit(f"{name}: ended with {ended}, expected {code}")


def act(page: Page, mind: Annotator, tasks: dict[str, dict]) -> None:
    """Reads what is on the page and presses keys."""
    here = where(page)
    if page.locator("#work[action='/look']").count():
        page.keyboard.press("y")
    else:
        prompt = page.locator("section.user .as-text").last.text_content()
        left, right = (page.locator(f"#{side} .as-text").text_content() for side in ("left", "right"))
        cut = [page.locator(f"#{side} .cut").count() > 0 for side in ("left", "right")]
        task = tasks[prompt]
        safety = page.locator("fieldset.safety").count() > 0
        view = mind.grade(task, left, right, not cut[0], not cut[1], "safety" if safety else "helpfulness")
        place = GRADES.index(view.grade)
        page.keyboard.press(str(1 + place if view.preferred == "a" else 8 - place))
        if safety:
            safe = (view.chosen_is_safe, view.rejected_is_safe)
            for key, one in zip("al", safe if view.preferred == "a" else safe[::-1], strict=True):
                page.keyboard.press(key)
                if not one:
                    page.keyboard.press(key)
    page.wait_for_timeout(50)
    page.keyboard.press("Enter")
    sent(page, here)


def ask(folder: Path, tasks: dict[str, dict], pictures: Path) -> float:
    """Two annotators, in turn, until nothing is left; the seconds it took."""
    server = Server(folder, free_port(), "--people", "ada", "ben")
    began = time.monotonic()
    try:
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            pages = {}
            for name in ("ada", "ben"):
                pages[name] = browser.new_context(viewport={"width": 1180, "height": 800}).new_page()
                pages[name].goto(server.link(name))
                pages[name].wait_for_selector("#work")
            pages["ada"].screenshot(path=pictures / "annotator.png")
            minds = {"ada": Annotator(0.1, 1), "ben": Annotator(0.2, 2)}
            while any(page.locator("#work").count() for page in pages.values()):
                for name, page in pages.items():
                    if page.locator("#work").count():
                        act(page, minds[name], tasks)
                    else:
                        page.reload()
            seconds = time.monotonic() - began
            manager = browser.new_context(viewport={"width": 1180, "height": 800}).new_page()
            manager.goto(server.link("manager"))
            manager.wait_for_selector(".manager")
            manager.screenshot(path=pictures / "manager.png", full_page=True)
            browser.close()
    finally:
        server.kill()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--output-dir", type=Path, required=True)
    parser.add_argument("--items", type=int, default=30)
    args = parser.parse_args()
    found = {kind: next(args.run.glob(f"{kind}-*")) for kind in ("sandbox", "sft", "best-1", "annotate-1")}
    prompts = [json.loads(line) for line in (found["sandbox"] / "prompts.jsonl").read_text().splitlines()]
    tasks = {row["messages"][-1]["content"]: row["task"] for row in prompts}
    batch = args.output_dir / "annotate"
    options = {
        "models": [str(found["sft"]), str(found["best-1"])],
        "datasets": [{"path": str(found["sandbox"] / "prompts.jsonl"), "limit": args.items}],
        "annotator": "people",
        "temperature": [0.7, 1.0],
        "answers": 2,
        "max_new_tokens": 32,
        "overlap": 0.5,
        "second_look": 0.1,
        "gold": [{"path": str(found["annotate-1"] / "preferences.jsonl"), "limit": 20, "where": {"grade": GRADES[0]}}],
        "gold_share": 0.1,
    }
    recipe("annotate", batch, WAITS_FOR_PEOPLE, **options)
    seconds = ask(batch, tasks, args.output_dir)
    done, needed = Store(batch).done()
    print(f"{done} of {needed} in {seconds:.0f} s", flush=True)
    recipe("annotate", batch, **options)
    print((batch / "metrics.json").read_text(), flush=True)
    reward = args.output_dir / "reward"
    recipe(
        "reward",
        reward,
        model_name_or_path=str(found["sft"]),
        datasets=[{"path": str(batch / "preferences.jsonl")}],
        eval_datasets=[{"path": str(found["sandbox"] / "preferences_heldout.jsonl"), "limit": 200}],
        objective="helpfulness",
        margin="small",
        context=256,
        per_device_train_batch_size=8,
        num_train_epochs=4,
        learning_rate=2.0e-4,
        save_strategy="no",
    )
    print("reward model:", (reward / "metrics.json").read_text(), flush=True)


if __name__ == "__main__":
    main()
