"""Does what restores read the prompt, or copy a part of it? Prompts in which copying that part is wrong.

    python experiments/restored_controls.py                  # redefine-math on the ladder, another symbol's definition
    python experiments/restored_controls.py MODEL ...        # memo-trap, with "does not end in" instead of "ends in"
    python experiments/restored_controls.py --grid neqa      # both sides under every single change, at 4 M

A plain prompt of redefine-math has no definition, so that a change of attention to one costs nothing there; one of
memo-trap asks for the proverb's own word, so that copying it is right. Both are replaced here by a prompt whose right
answer is still the known one. The changes are those that interventions_compared.py found, of each kind the one of the
better half, on all pairs. Writes control-TASK-MODEL.parquet (table interventions; side "plain") beside its tables;
with --grid every change that the search starts from, on all pairs and both sides as they are, grid-TASK-MODEL.parquet.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import isp_mech as im
from isp_mech.causal import Intervention, load_intervention, scale
from isp_mech.causal.restoration_search import candidates, common_roles
from isp_mech.figures.restored_rows import restored_rows
from isp_mech.sites import DECISION, SEARCHED
from isp_mech.tables import concat
from isp_mech.tasks import Pair, Prompt

NOTHING = scale("m0", 1.0)  # changes nothing: each side as it is
ENDS, DOES_NOT = "that ends in", "that does not end in"


def of_another_symbol(pair: Pair) -> Pair:
    """redefine-math: the neutral prompt's definition, of an invented symbol, before the plain question."""
    assert pair.neutral is not None
    ((_, end),) = pair.neutral.roles["definition"]
    text = pair.neutral.text[:end] + pair.plain.text
    return replace(pair, plain=Prompt(text, {"definition": ((0, end),), "question": ((end, len(text)),)}))


def not_asked(pair: Pair) -> Pair:
    """memo-trap: the conflict prompt that asks for any other word than the one it names."""
    text, more = pair.conflict.text, len(DOES_NOT) - len(ENDS)
    at = text.index(ENDS)
    moved = {role: tuple(tuple(i + more * (i > at) for i in span) for span in spans)
             for role, spans in pair.conflict.roles.items()}  # fmt: skip
    return replace(pair, plain=Prompt(text.replace(ENDS, DOES_NOT, 1), moved))


def loaded(saved: str) -> Intervention:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        path.write_text(saved, encoding="utf-8")
        return load_intervention(path)


def grid(task: str, n: int, seed: int, out: Path) -> None:
    pairs, model = im.contrast(task, n=n, seed=seed), im.load_model(im.family("ladder").members[-1].path_or_id)
    shape, roles = model.architecture, common_roles(pairs)
    changes = [one for kind in SEARCHED for one in candidates(kind, roles, shape.n_layers, shape.n_heads, DECISION)]
    made = im.causal.intervene(changes, pairs, model, sides=("conflict", "plain"))
    made.save(out / f"grid-{task}-{model.name}.parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--grid", choices=im.contrast_names(), metavar="TASK")
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--tables", type=Path, default=Path("runs/interventions"))
    args = parser.parse_args()
    if args.grid:
        return grid(args.grid, args.n, args.seed, args.tables)
    task, control = ("memo-trap", not_asked) if args.models else ("redefine-math", of_another_symbol)
    pairs = im.contrast(task, n=args.n, seed=args.seed)
    pairs = replace(pairs, pairs=tuple(map(control, pairs)))
    found = restored_rows(concat([im.read_table(path) for path in sorted(args.tables.glob(f"{task}-*.parquet"))]))
    for size in im.family(args.models or "ladder").members:
        rows = found[(found["model"] == size.name) & (found["intervention"] != "none")]
        changes = [NOTHING, *(loaded(saved) for saved in rows["saved"])]
        made = im.causal.intervene(changes, pairs, size.path_or_id, sides=("conflict", "plain"))
        made.save(args.tables / f"control-{task}-{size.name}.parquet")
        print(made.frame.pivot(index="place", columns="side", values="accuracy").round(3).to_string(), flush=True)


if __name__ == "__main__":
    main()
