"""docs/metrics.md explains every name that a trainer can log, and every curve that the report has a name for."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers
from trl import DPOTrainer, RewardTrainer, SFTTrainer

from llama_align import trainers
from llama_align.report import labels
from llama_align.runtime.shipped import scripts
from llama_align.trainers.ppo import metrics
from llama_align.trainers.ppo.metrics import Tally, count_rollout
from llama_align.trainers.reward_counts import NAMES, TERMS, read

from .metric_names import PAGE, keys_of, unexplained
from .reading import rows

LOGS = {"logs", "metrics", "_metrics", "row"}  # what names go into, by the name of the variable
# the counts of reward models are read by a test of their own
OURS = [path for path in sorted(Path(trainers.__file__).parent.rglob("*.py")) if path.stem != "reward_counts"]
# those of TRL's that ours are made from, and transformers'; RLOO's own logs are replaced by PPO's
BELOW = [Path(inspect.getfile(kind)) for kind in (DPOTrainer, RewardTrainer, SFTTrainer, transformers.Trainer)]

NO_METRICS = {"train", "eval", "objective"}  # the two sums of TRL's trainers; what a search of options compares


def names_in(file: Path) -> Iterator[str]:
    """Keys of dictionaries named as in `LOGS` that are assigned, added or updated, `any` where a part is computed."""
    logs = LOGS | ({"found"} if file.stem == "throughput" else set())
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if isinstance(target, ast.Subscript) and _root(target.value) in logs:
                    yield from _text(target.slice)
                elif _root(target) in logs:
                    yield from _keys(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _root(node.func.value) in logs:
            subscript = node.func.value
            if node.func.attr == "append" and isinstance(subscript, ast.Subscript):
                yield from _text(subscript.slice)
            elif node.func.attr == "update":
                yield from (name for arg in node.args for name in _keys(arg))


def _root(node: ast.AST) -> str:
    """`metrics` of `self.metrics`, `_metrics` of `self._metrics[mode]`."""
    if isinstance(node, ast.Subscript):
        return _root(node.value)
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _keys(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Dict):
        yield from (name for key in node.keys if key is not None for name in _text(key))
    elif isinstance(node, ast.DictComp):
        yield from _text(node.key)
    elif isinstance(node, ast.BinOp):
        yield from _keys(node.left)
        yield from _keys(node.right)


def _text(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "any" for part in node.values]
        if parts[0] == "any":
            parts[0] = "eval"  # all that are led by a prefix
        if {*parts} - {"eval", "any", "_"}:  # else all of it is computed
            yield "".join(parts)


@pytest.mark.parametrize("file", [*OURS, *BELOW], ids=lambda file: file.stem)
def test_names_in_the_source_are_explained(file):
    assert unexplained(set(names_in(file)) - NO_METRICS) == []


def test_the_source_is_understood():
    found = {name for file in OURS + BELOW for name in names_in(file)}
    assert found >= {"loss", "loss/nll", "rewards/chosen", "mfu", "tokens", "loss/any", "alarms/any", "eval_loss"}


def test_what_a_reward_model_counts_is_explained():
    found = read(torch.ones(len(NAMES), dtype=torch.float64) * torch.arange(1, len(NAMES) + 1), TERMS)
    names = {*found, *(f"eval_{name}" for name in found), "length_correlation"} - {"mean_loss"}
    assert len(names) > 30
    assert unexplained(name for name in names if name != "eval_mean_loss") == []


def test_what_ppo_counts_is_explained():
    tally, one = Tally(), torch.ones(2)
    count_rollout(tally, {"helpfulness": one, "combined": one}, one, torch.ones(2, 3), torch.ones(2, 3), one, one, 0.1)
    found = set(tally.read(lambda sums: sums))
    constants = [node for node in ast.walk(ast.parse(inspect.getsource(metrics))) if isinstance(node, ast.Constant)]
    texts = {node.value for node in constants if isinstance(node.value, str)}
    found |= {text for text in texts if "/" in text and " " not in text and not text.endswith("/")}
    assert {"kl", "reward", "rewards/helpfulness", "value/explained_variance", "policy/clip_fraction"} <= found
    assert unexplained(found) == []


def test_what_the_report_draws_is_explained():
    known = {key for panels in (labels._FIRST, labels._LATER) for keys in panels.values() for key in keys}
    said = [name for row in rows(PAGE, "metric") for name in row[0].split(", ")]
    assert [key for key in known if key.endswith("/") and not any(name.startswith(key) for name in said)] == []
    assert unexplained(key for key in known if not key.endswith("/")) == []


def test_every_recipe_that_measures_is_on_the_page():
    said = {name for row in rows(PAGE, "key") if len(row) == 3 for name in row[1].replace(":", ",").split(", ")}
    assert set(scripts()) - {"rounds", "ppo"} <= said


def test_a_name_that_is_not_there_is_found():
    assert unexplained(["loss", "lossy", "loss/web", "loss/web/more/parts", "policy/ratios"]) == [
        "loss/web/more/parts", "lossy", "policy/ratios",
    ]  # fmt: skip
    assert sorted(keys_of({"rows": [{"a": 1}, {"b": [2]}], "c": {"d": None}})) == ["c.d", "rows.a", "rows.b"]
