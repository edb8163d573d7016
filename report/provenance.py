"""What each figure and table was computed from, read off the notebook's code.

A name holds what the names hold that it was made from: `sweep(…, name="dip")` the runs called dip, a parameter that
names a JSON file that file. So nothing is declared twice. What the code reaches by other ways than names and these
calls is not seen.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import nbformat

ANCHOR = re.compile(r"(?:fig|tab)-[a-z0-9-]+")
ALL_RUNS = "all runs and numbers that the notebooks kept"

Held = dict[str, frozenset[str]]
NOTHING: frozenset[str] = frozenset()


def origins(notebook: nbformat.NotebookNode, parameters: Mapping[str, Any]) -> dict[str, frozenset[str]]:
    """For each anchor of a figure or table that the code names, what it rests on; empty where its notebook alone.

    An anchor that the code completes (`f"fig-restored-{n}"`) stands here by its beginning, with its hyphen at the end.
    """
    held: Held = {name: _record(value) for name, value in parameters.items()}
    found: dict[str, frozenset[str]] = {}
    for cell in notebook.cells:
        tags = cell.metadata.get("tags", [])
        if cell.cell_type != "code" or {"parameters", "injected-parameters"} & set(tags):
            continue
        try:
            statements = ast.parse(cell.source).body
        except SyntaxError:  # a magic command of a notebook that somebody tries things in
            continue
        for statement in statements:
            _follow(statement, held)
            for anchor in _anchors(statement):
                found[anchor] = found.get(anchor, NOTHING) | _of(statement, held)
    return found


def _record(value: Any) -> frozenset[str]:
    """The stored record that a parameter names."""
    return frozenset({PurePosixPath(value).name}) if isinstance(value, str) and value.endswith(".json") else NOTHING


def _follow(statement: ast.AST, held: Held) -> None:
    """Let the names that a statement binds hold what it makes them from."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            _bind(target, statement.value, held)
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign) and statement.value is not None:
        _bind(statement.target, statement.value, held, beside=isinstance(statement, ast.AugAssign))
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        method = statement.value.func
        # as in rows.append(…); a module's function leaves the module as it was
        if isinstance(method, ast.Attribute) and isinstance(method.value, ast.Name) and method.value.id in held:
            _bind(method, statement.value, held)
    elif isinstance(statement, ast.FunctionDef):
        held[statement.name] = _of(statement, held)
    elif isinstance(statement, ast.For):
        _bind(statement.target, statement.iter, held)
        for inner in statement.body:
            _follow(inner, held)
    elif isinstance(statement, ast.If | ast.With | ast.While | ast.Try):
        handlers = [inner for handler in getattr(statement, "handlers", []) for inner in handler.body]
        last = [*getattr(statement, "orelse", []), *getattr(statement, "finalbody", [])]
        for inner in [*statement.body, *handlers, *last]:
            _follow(inner, held)
    for node in ast.walk(statement):
        if isinstance(node, ast.NamedExpr):
            _bind(node.target, node.value, held)


def _bind(target: ast.expr, value: ast.expr, held: Held, beside: bool = False) -> None:
    """beside: the name keeps what it held, as where an entry of it is set."""
    if isinstance(target, ast.Tuple | ast.List):
        pairs = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        values = value.elts if pairs and isinstance(value, ast.Tuple | ast.List) else [value] * len(target.elts)
        for one, its in zip(target.elts, values, strict=True):
            _bind(one, its, held, beside)
        return
    while isinstance(target, ast.Subscript | ast.Attribute | ast.Starred):
        beside = beside or not isinstance(target, ast.Starred)
        target = target.value
    if isinstance(target, ast.Name):
        held[target.id] = _of(value, held) | (held.get(target.id, NOTHING) if beside else NOTHING)


def _of(node: ast.AST, held: Held) -> frozenset[str]:
    """What all names and calls in it hold together."""
    inside = [*ast.walk(node)]
    names = {inner.id for inner in inside if isinstance(inner, ast.Name)}
    # a comprehension's or function's own variables are not those of the same name outside
    bound = [inner.target for inner in inside if isinstance(inner, ast.comprehension)]
    names -= {inner.id for target in bound for inner in ast.walk(target) if isinstance(inner, ast.Name)}
    names -= {inner.arg for inner in inside if isinstance(inner, ast.arg)}
    kept = (_kept(inner) for inner in inside if isinstance(inner, ast.Call))
    return frozenset().union(*(held.get(name, NOTHING) for name in names), *kept)


def _kept(call: ast.Call) -> Iterable[str]:
    """The collection that a call computes or reads."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    named = {keyword.arg: keyword.value for keyword in call.keywords}.get("name")
    if name == "sweep" and isinstance(named, ast.Constant):
        yield f"the runs called {named.value!s}"
    elif name in ("collected", "noted"):
        first = call.args[0] if call.args else None
        yield f"the runs called {first.value!s}" if isinstance(first, ast.Constant) else ALL_RUNS


def _anchors(statement: ast.AST) -> Iterator[str]:
    """Those that it names whole, and the beginnings, up to a hyphen, of those that it completes."""
    for node in ast.walk(statement):
        whole = not isinstance(node, ast.JoinedStr)
        first = node if isinstance(node, ast.Constant) else next(iter(getattr(node, "values", [])), None)
        text = first.value if isinstance(first, ast.Constant) else None
        if isinstance(text, str) and ANCHOR.fullmatch(text) and text.endswith("-") != whole:
            yield text
