"""LlamaHerd's code beside its weights, for machines without llama_align.

transformers copies the files a modelling file imports from its own folder (`from .x import y`) and no others. The
modelling file imports kernels from another one, so everything it needs is written flat, its imports rewritten. The
written files include this one: a model loaded from them is saved with them.
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
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
    sources = own_sources()
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        beside = Path(folder, f"{name}.{os.getpid()}.part")
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, Path(folder, name))
    return dict(AUTO_MAP)


@cache
def own_sources() -> dict[str, str]:
    """`flat_sources` of the modelling file, read once: every checkpoint of a process has the same code beside it."""
    return flat_sources(MODELING)


def flat_sources(module: Path) -> dict[str, str]:
    """File name -> source of a module and of the modules it imports from its own package, for one folder.

    A file of another folder has the folder in its name: kernels/linear.py is written as kernels_linear.py.

    Raises:
        ValueError: an import that transformers would not follow in one folder, or two files of one name.
    """
    root = _package(module)
    places = {module.name: module}
    sources = {}
    waiting = [module.name]
    while waiting:
        file = waiting.pop()
        path = places[file]
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        for node in _package_imports(path, "".join(lines), root.name):
            target = _target(path, node)
            inside = target.parent == module.parent
            name = target.name if inside else "_".join(target.relative_to(root).parts)
            if name not in places:
                places[name] = target
                waiting.append(name)
            elif places[name] != target:
                raise ValueError(
                    f"{path}, line {node.lineno}: found {target}, expected another file name; {places[name]} would be "
                    f"written as {name}, too"
                )
            imported = re.escape("." * node.level + node.module)
            line, flat = lines[node.lineno - 1], name.removesuffix(".py")
            lines[node.lineno - 1] = re.sub(rf"\bfrom(\s+){imported}(?=\s)", rf"from\1.{flat}", line)
        sources[file] = "".join(lines)
    return sources


def _package_imports(path: Path, source: str, package: str) -> Iterator[ast.ImportFrom]:
    """The relative imports of a file, those inside functions among them.

    Raises:
        ValueError: the package imported by its name, which the other machine does not have.
    """
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


def _package(path: Path) -> Path:
    """The folder of the outermost package a file is in."""
    folder = path.parent
    while (folder.parent / "__init__.py").is_file():
        folder = folder.parent
    return folder


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
