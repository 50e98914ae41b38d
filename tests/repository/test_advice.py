"""Every error says what to do: each call that makes one gives a remedy, which cannot be empty."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsae.runtime import errors

ROOT = Path(__file__).parents[2]
LAYERS = ("runtime", "training", "export")
PLACE = 2  # of the advice among the arguments
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.FsaeError)}
KINDS |= {"TakenOver"}  # a subclass in the lock


def functions(tree: ast.AST, within: ast.AST | None = None) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Each call in a tree, with the innermost function around it."""
    around = within or tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call):
            yield node, around
        yield from functions(node, node if isinstance(node, ast.FunctionDef) else around)


def makes_an_error(call: ast.Call) -> bool:
    """True for UsageError(...) and the like, type(error)(...), and error(f"..."), a kind that was handed over."""
    if isinstance(call.func, ast.Call):
        return isinstance(call.func.func, ast.Name) and call.func.func.id == "type"
    name = call.func.id if isinstance(call.func, ast.Name) else ""
    return name in KINDS or (name == "error" and isinstance(call.args[0], ast.JoinedStr))


def advice_of(call: ast.Call) -> ast.expr | None:
    named = next((keyword.value for keyword in call.keywords if keyword.arg == "advice"), None)
    return named or (call.args[PLACE] if len(call.args) > PLACE else None)


def can_be_empty(advice: ast.expr | None, function: ast.AST) -> bool:
    """True if a remedy is missing, or may be an empty text as far as the function around it shows."""
    if isinstance(advice, ast.IfExp):
        return can_be_empty(advice.body, function) or can_be_empty(advice.orelse, function)
    if isinstance(advice, ast.BoolOp) and isinstance(advice.op, ast.Or):
        return can_be_empty(advice.values[-1], function)
    if isinstance(advice, ast.Name):
        given = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name) and target.id == advice.id
        ]
        return any(can_be_empty(value, function) for value in given)
    return advice is None or (isinstance(advice, ast.Constant) and not advice.value)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_error_says_what_to_do(layer: str) -> None:  # oracle: the syntax tree
    found = [
        (path, call, function)
        for path in sorted((ROOT / layer).rglob("*.py"))
        for call, function in functions(ast.parse(path.read_text(encoding="utf-8")))
        if makes_an_error(call)
    ]
    assert len(found) > 50
    silent = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for path, call, function in found
        if can_be_empty(advice_of(call), function)
    ]
    assert silent == []


@pytest.mark.parametrize(
    ("text", "empty"),
    [
        ('UsageError("found")', True),
        ('UsageError("found", "expected", "")', True),
        ('UsageError("found", advice="" if found else "do")', True),
        ('advice = ""; UsageError("found", advice=advice)', True),
        ('UsageError("found", "expected", "do")', False),
        ('UsageError("found", advice=error.advice or "do")', False),
        ("type(error)(found)", True),
    ],
)
def test_the_test_sees_an_empty_one(text: str, empty: bool) -> None:  # oracle: what each call gives
    tree = ast.parse(f"def f():\n    {text}")
    calls = [(call, function) for call, function in functions(tree) if makes_an_error(call)]
    assert [can_be_empty(advice_of(call), function) for call, function in calls] == [empty]
