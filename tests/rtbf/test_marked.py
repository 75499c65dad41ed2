"""Texts that are marked for translation can be filled in, in each language."""

import ast
from pathlib import Path

from django.conf import settings

from rtbf.translations import ONE, PLACEHOLDER, TWO


def test_a_marked_text_is_given_exactly_the_values_that_it_names() -> None:
    wrong = []
    for path in sorted((Path(settings.BASE_DIR) / "requests_app").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if (
                isinstance(node, ast.BinOp)
                and isinstance(node.op, ast.Mod)
                and isinstance(node.right, ast.Dict)
                and (wanted := _placeholders(node.left)) is not None
                and not any(key is None for key in node.right.keys)  # **values: not seen here
                and wanted != {ast.literal_eval(key) for key in node.right.keys if key}
            ):
                wrong.append(f"{path.name}:{node.lineno}")
    assert wrong == []


def _placeholders(node: ast.expr) -> set[str] | None:
    """Of a text that is marked where it stands; None for anything else."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    if node.func.id not in ONE | TWO or not texts:
        return None
    return {name for text in texts for name in PLACEHOLDER.findall(str(text)) if name}
