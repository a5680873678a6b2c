"""Count what makes code hard to find one's way in: files, lines, names, imports, and variables that say nothing.

    python tools/measure_code.py [CHECKOUT]

A thermometer, not an aim: a better number that reads worse is worse.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from pathlib import Path

VAGUE = {"part", "parts", "place", "places", "one", "own", "some", "other", "others", "number", "found", "known"}
VAGUE |= {"wanted", "chosen", "kept", "told", "inside", "what", "look"}
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.STRING)


def lines_of_code(text: str) -> int:
    """Count the lines that hold more than comments and strings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*NO_CODE, tokenize.ENDMARKER):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def bound_names(tree: ast.AST) -> list[str]:
    """Return every name that a value is bound to: variables and parameters."""
    names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    return names + [node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)]


def main() -> None:
    """Print the counts of a checkout: of this one, unless another is named."""
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parent.parent
    texts = [path.read_text(encoding="utf-8") for path in sorted((root / "flower_classifier").rglob("*.py"))]
    trees = [ast.parse(text) for text in texts]
    code = sum(map(lines_of_code, texts))
    names = sum(isinstance(node, ast.FunctionDef | ast.ClassDef) for tree in trees for node in tree.body)
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    import_lines = sum((node.end_lineno or node.lineno) - node.lineno + 1 for node in imports)
    bound = [name for tree in trees for name in bound_names(tree)]
    vague = sum(name in VAGUE for name in bound)
    script = (root / "train.py").read_text(encoding="utf-8")
    own_imports = [
        node
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("flower_classifier")
    ]
    print(f"files with code                {sum(len(tree.body) > 1 for tree in trees):7,}")
    print(f"lines                          {sum(len(text.splitlines()) for text in texts):7,}")
    print(f"lines of code                  {code:7,}")
    print(f"functions and classes          {names:7,}, {1000 * names / code:.0f} for 1,000 lines of code")
    print(f"import lines                   {import_lines:7,}, {100 * import_lines / code:.1f} for 100 lines of code")
    print(f"vague variables                {vague:7,} of {len(bound):,}, {vague / len(bound):.1%}")
    print(f"names that train.py imports    {sum(len(node.names) for node in own_imports):7,}")
    print(f"lines of train.py              {len(script.splitlines()):7,}")
    tests = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in (root / "tests").glob("*.py"))
    print(f"lines of tests                 {tests:7,}")


if __name__ == "__main__":
    main()
