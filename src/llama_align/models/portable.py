"""LlamaHerd's code beside its weights, for machines without llama_align.

transformers copies the files a modelling file imports from its own folder (`from .x import y`) and no others. The
modelling file imports kernels from another one, so everything it needs is written flat, its imports rewritten. The
written files include this one: a model loaded from them is saved with them.
"""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

MODELING = Path(__file__).with_name("modeling_llama_herd.py")
AUTO_MAP = {
    "AutoConfig": "configuration_llama_herd.LlamaHerdConfig",
    "AutoModel": "modeling_llama_herd.LlamaHerdModel",
    "AutoModelForCausalLM": "modeling_llama_herd.LlamaHerdForCausalLM",
    "AutoModelForSequenceClassification": "modeling_llama_herd.LlamaHerdForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_llama_herd.LlamaHerdForTokenClassification",
}


def write_code(folder: str | os.PathLike) -> dict[str, str]:
    """Writes the modelling file and all it imports into `folder`.

    Returns:
        `auto_map` for the configuration, by which transformers finds the classes in these files.

    Raises:
        ValueError: an import that has no flat form, see `flat_sources`.
    """
    sources = flat_sources(MODELING)
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        beside = Path(folder, f"{name}.{os.getpid()}.part")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, Path(folder, name))
    return dict(AUTO_MAP)


def flat_sources(module: Path) -> dict[str, str]:
    """File name -> source of a module and of the modules it imports from its own package, for one folder.

    Raises:
        ValueError: an import that transformers would not follow in one folder, or two files of one name.
    """
    places = {module.name: module}
    sources = {}
    waiting = [module]
    while waiting:
        path = waiting.pop()
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for node in _package_imports(path, "".join(lines)):
            target = _target(path, node)
            if places.setdefault(target.name, target) != target:
                raise ValueError(
                    f"{path}, line {node.lineno}: found {target}, expected a file name other than that of "
                    f"{places[target.name]}; both would be written as {target.name}"
                )
            if target.name not in sources and target not in waiting and target != path:
                waiting.append(target)
            line = lines[node.lineno - 1]
            lines[node.lineno - 1] = re.sub(
                rf"\bfrom(\s+){re.escape('.' * node.level + node.module)}(?=\s)", rf"from\1.{target.stem}", line
            )
        sources[path.name] = "".join(lines)
    return sources


def _package_imports(path: Path, source: str) -> Iterator[ast.ImportFrom]:
    """The relative imports of a file, those inside functions among them.

    Raises:
        ValueError: the package imported by its name, which the other machine does not have.
    """
    package = _package(path)
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node
            continue
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        for name in names:
            if name.split(".")[0] == package:
                raise ValueError(
                    f"{path}, line {node.lineno}: found an import of {name}, expected a relative one; the code beside "
                    "a checkpoint has to load without the package"
                )


def _package(path: Path) -> str:
    folder = path.resolve().parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder.name


def _target(path: Path, node: ast.ImportFrom) -> Path:
    """The file a relative import reads."""
    folder = path.parents[node.level - 1]
    parts = (node.module or "").split(".")
    target = folder.joinpath(*parts).with_suffix(".py") if node.module else folder / "__init__.py"
    if not node.module or not target.is_file():
        imported = "." * node.level + (node.module or "")
        raise ValueError(
            f"{path}, line {node.lineno}: found 'from {imported} import ...', expected the import of a module in a "
            f"file of its own ({target} is none); a package cannot be written as one file"
        )
    return target
