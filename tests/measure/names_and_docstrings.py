"""Print how many public docstrings open with a verb and how many public functions have a one-word name.

    python tests/measure/names_and_docstrings.py [--list]

Public: no leading underscore, defined at the top of a module or in a public class at its top. The names that a framework
prescribes are left out: forward, main, __init__, the methods of ComfyUI's nodes. --list also prints what is counted against.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VERBS_AIM, SINGLE_AIM = 0.6, 0.25
PRESCRIBED = {"forward", "main", "define_schema", "execute", "fingerprint_inputs", "get_node_list"}
VERBS = set(
    """adapt add adjust align allocate allow append apply ask assemble assert attach average begin binarize blend blur brighten
    bring build call cast catch change check choose clamp classify clip close collect colour combine compare compile
    complete compose composite compress compute convert convolve copy correct correlate count cover create crop cut decide
    decode degrade delete denoise derive describe detect determine discard divide download downscale draw drop empty encode
    end enhance enlarge ensure enter escape estimate evaluate examine exchange exclude exit expand explain export extract
    fetch fill filter find finish fit flatten flush fold follow format freeze gather generate get give group grow guess
    handle hash hold identify ignore import index infer initialise initialize insert install interpolate invert iterate join
    judge keep label lay let limit link list load locate log look make map mark mask match measure merge mix move multiply
    name normalize note offer open order pack pad paint pair parse pass paste patch penalize pick place plan plot post
    predict prepare print produce project provide put quantize queue raise rank read rebuild receive recognise recognize
    record redo reduce refine refuse register remove rename render repeat replace report resample resize resolve restore
    resume return rewrite rotate round run sample save say scale scan score search select send serve set shape shard share
    sharpen shift show shrink shuffle simulate skip smooth solve sort split spread stack start state steer step stitch stop
    store stream strip subtract sum summarise summarize switch take tell test tile time tokenize track train transform
    translate turn undo unpack update upload upscale use validate verify view visit wait walk warn warp watch weigh wrap
    write yield zero zoom""".split()
)


def public_functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the public functions and methods of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for one in inner:
            is_function = isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)
            if is_function and not one.name.startswith("_") and one.name not in PRESCRIBED:
                yield one


def opens_with_a_verb(docstring: str) -> bool:
    """Tell whether the first word is a verb of VERBS, imperative or third person."""
    match = re.match(r"[A-Za-z]+", docstring)
    word = match[0].lower() if match else ""
    forms = {word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ies") + "y"}
    return bool(forms & VERBS)


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def main() -> int:
    """Print both shares of each package. Exit code 1 if one misses its aim."""
    missed = False
    for top in ("tadisr", "nodes", "train"):
        verbs = documented = single = functions = 0
        for path in sorted((ROOT / top).rglob("*.py")):
            for function in public_functions(path):
                where = f"{path.relative_to(ROOT)}:{function.lineno}"
                if is_property(function):
                    continue
                functions += 1
                if "_" not in function.name:
                    single += 1
                    if "--list" in sys.argv:
                        print(f"{where} name {function.name}")
                docstring = ast.get_docstring(function)
                if docstring:
                    documented += 1
                    verbs += opens_with_a_verb(docstring)
                    if "--list" in sys.argv and not opens_with_a_verb(docstring):
                        print(f"{where} docstring {docstring.splitlines()[0]}")
        missed |= verbs < VERBS_AIM * documented or single > SINGLE_AIM * functions
        print(
            f"{top}: {verbs} of {documented} docstrings open with a verb: {verbs / documented:.0%}, aim {VERBS_AIM:.0%} or more"
        )
        print(
            f"{top}: {single} of {functions} functions have one-word names: {single / functions:.0%}, "
            f"aim {SINGLE_AIM:.0%} or less"
        )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
