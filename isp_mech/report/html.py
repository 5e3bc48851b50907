"""The parts of the page as HTML. Whatever comes from data passes through ``text`` and cannot act."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from isp_mech.errors import InputError, visible
from isp_mech.figures.style import save_as
from isp_mech.report.task_rows import Story, site_name
from isp_mech.report.wording import nats, probability
from isp_mech.tables import Run, Table
from isp_mech.tasks import Pair, Prompt

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
N_TINTS = 6
_KINDS = {".svg": "image/svg+xml", ".png": "image/png"}

CAPTIONS: Mapping[str, tuple[str, str]] = {
    "scaling_curve": (
        "Accuracy and loss over model size.",
        "One line per side: conflict prompts ask for the answer against the lure, on plain prompts the lure is "
        "right, neutral prompts hold no lure. Bands are 95 % intervals. A dashed line is what guessing gives; it is "
        "there only where every class is equally likely beforehand. A hollow point has low coverage or ties.",
    ),
    "shares_over_size": (
        "What each size does with the pairs.",
        "Follows: right on both prompts. Overridden: right on the plain one, and answers the conflict prompt as if "
        "the twist were not there. Contrary: the reverse. Lost: wrong on both. A model that guesses puts a quarter "
        "in each.",
    ),
    "lens_over_depth": (
        "The margin on its way through each model.",
        "What the model would answer if it stopped after each sublayer: above zero the answer is ahead, below zero "
        "the lure. Mean over pairs, with a 95 % bootstrap band. A dotted line marks the depth from which the lure "
        "stays ahead on the conflict prompts, where that happens in at least half of the pairs.",
    ),
    "attention_by_role": (
        "Where the last position looks.",
        "For each size the heads whose attention differs most between conflict and plain prompts. Above: weight on "
        "each part of the conflict prompt. Below: conflict minus plain; blue is more, orange less.",
    ),
    "story_over_size": (
        "The override over model size.",
        "From left to right: how often the conflict prompt is answered rightly, and how often only the plain one is; "
        "how far all significant places together push towards the answer (blue) and towards the lure (orange); how "
        "much of the latter stands in attention heads and in MLPs; how deep in the model it stands.",
    ),
    "override_map": (
        "The places that decide.",
        "How much the margin falls when one head or MLP is replaced at the last position. Blue places push towards "
        "the prompt's answer, orange ones towards the lure. A dot marks a significant place.",
    ),
    "verification": (
        "What happens when the located places are replaced.",
        "Sites are chosen on one half of the pairs and judged on the other, both ways round, and the halves put "
        "together. A ring is the accuracy as it is, a dot the accuracy with the located sites replaced, a grey bar "
        "the same for random sets of equal kinds and layers; p is the share of random sets at least as good, the "
        "larger one of both halves.",
    ),
    "direct_vs_total": (
        "Direct against total effect of each site.",
        "On the dashed diagonal a site writes its whole effect into the output itself; away from it, later sites "
        "carry it on or make up for it. Filled marks are significant.",
    ),
    "onset_over_size": (
        "Where in depth the override sets in.",
        "Relative depth from which the lure stays ahead on the conflict prompts, with a 95 % interval, and the "
        "share of pairs with such a depth.",
    ),
}


def text(raw: object, *, keep: str = "") -> str:
    """``raw`` as HTML text that shows it and does nothing.

    >>> text("<b>&")
    '&lt;b&gt;&amp;'
    """
    return html.escape(visible(raw, keep=keep), quote=True)


def prose(raw: str) -> str:
    """A sentence as HTML in which a number is never parted from its unit."""
    shown = text(raw)
    for unit in ("%", "nats", "points"):
        shown = shown.replace(f" {unit}", f"&nbsp;{unit}")
    return shown


def paragraphs(lines: Sequence[str]) -> str:
    return "\n".join(f"<p>{prose(line)}</p>" for line in lines)


def bullets(lines: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{prose(line)}</li>" for line in lines) + "\n</ul>" if lines else ""


def image(source: Figure | str | Path) -> str:
    """A data URI of a figure, or of an SVG or PNG file. ``InputError`` for a file of another kind or none."""
    if isinstance(source, Figure):
        buffer = io.BytesIO()
        save_as(source, buffer, format="svg", outlines=True)
        return _data_uri("image/svg+xml", buffer.getvalue())
    path = Path(source)
    if path.suffix.lower() not in _KINDS:
        raise InputError(str(path), [f"found a figure of kind {path.suffix!r}, expected .svg or .png"])
    try:
        return _data_uri(_KINDS[path.suffix.lower()], path.read_bytes())
    except OSError as error:
        raise InputError(str(path), [f"the figure cannot be read ({error.strerror})"]) from None


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def figure(name: str, source: Figure | str | Path, number: int) -> str:
    """A figure with its caption: what it shows, and how to read it."""
    place, _, key = name.replace("-", "_").rpartition("/")
    title, reading = CAPTIONS.get(key, (f"{key.replace('_', ' ')}.", ""))
    title = f"{place.replace('_', '-')}: {title}" if place else title
    return (
        f'<figure>\n<img src="{image(source)}" alt="{text(title)} {text(reading)}">\n'
        f"<figcaption><b>Figure {number}. {text(title)}</b> {prose(reading)}</figcaption>\n</figure>"
    )


def example(pair: Pair) -> str:
    """One pair: both prompts with their roles marked, a legend, the answer and the lure."""
    roles = list(dict.fromkeys([pair.factor, *pair.conflict.roles, *pair.plain.roles]))
    tints = {role: i % N_TINTS for i, role in enumerate(roles)}
    legend = " ".join(
        f'<mark class="{_class(role, tints, pair)}">{text(role.replace("_", " "))}</mark>' for role in roles
    )
    cards = "".join(
        f"<div><h3>{side} prompt</h3>\n<pre>{_marked(prompt, tints, pair)}</pre>\n"
        f"<p>Right here: <code>{text(right)}</code></p></div>\n"
        for side, prompt, right in (("Conflict", pair.conflict, pair.answer), ("Plain", pair.plain, pair.lure))
    )
    return (
        f'<p class="legend">{legend} <span>(underlined: the one part in which the two prompts differ)</span></p>\n'
        f'<div class="cards">\n{cards}</div>\n'
        f"<p>The conflict prompt asks for the answer <code>{text(pair.answer)}</code>; memory or a surface cue "
        f"suggests the "
        f"lure <code>{text(pair.lure)}</code>.</p>"
    )


def _class(role: str, tints: Mapping[str, int], pair: Pair) -> str:
    return f"r{tints[role]}" + (" factor" if role == pair.factor else "")


def _marked(prompt: Prompt, tints: Mapping[str, int], pair: Pair) -> str:
    spans = sorted((start, stop, role) for role, places in prompt.roles.items() for start, stop in places)
    pieces, at = [], 0
    for start, stop, role in spans:
        pieces.append(text(prompt.text[at:start], keep="\n\t"))
        inner = prompt.text[start:stop]
        ends = inner[len(inner.rstrip("\n")) :]  # line ends stand outside the mark, so that it draws no empty line
        shown = text(inner.removesuffix(ends), keep="\n\t")
        pieces.append(f'<mark class="{_class(role, tints, pair)}" title="{text(role)}">{shown}</mark>{ends}')
        at = stop
    return "".join(pieces) + text(prompt.text[at:], keep="\n\t")


def sizes_list(rows: Sequence[tuple[str, str]]) -> str:
    items = "\n".join(f"<dt>{text(label)}</dt><dd>{prose(line)}</dd>" for label, line in rows)
    return f"<dl>\n{items}\n</dl>"


def strongest(told: Story, *, most: int = 10) -> str:
    """The ``most`` sites of largest mean effect in the largest size, as a table; nothing where there are none."""
    rows = told.rows("sites")
    if not len(rows):
        return ""
    rows = rows[rows["model"] == rows.iloc[-1]["model"]].sort_values("effect", key=abs, ascending=False).head(most)
    body = "".join(
        f"<tr><td>{text(site_name(row))}</td><td>{nats(row['effect'])}</td>"
        f"<td>{nats(row['effect_lo']).removesuffix(' nats')} to {nats(row['effect_hi']).removesuffix(' nats')}</td>"
        f"<td>{nats(row['direct_effect']) if row['direct_effect'] == row['direct_effect'] else 'not measured'}</td>"
        f"<td>{_q(row['q'])}</td><td>{'yes' if row['significant'] else 'no'}</td></tr>\n"
        for _, row in rows.iterrows()
    )
    return (
        f"<h3>The strongest sites of the largest model ({text(told.label(rows.iloc[0]))})</h3>\n"
        '<div class="wide"><table>\n<thead><tr><th>site</th><th>total effect</th>'
        "<th>95 % interval</th><th>direct effect</th>"
        f"<th>q</th><th>significant</th></tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        '<p class="small">a4.h1 is head 1 of layer 4, m4 the MLP of layer 4, counted from 0. '
        "Positive effects push towards "
        "the answer, negative ones towards the lure; q is p after control of the false discovery rate.</p>"
    )


def _q(value: float) -> str:
    return "not tested" if value != value else text(probability(value).removeprefix("p ").removeprefix("= "))


def provenance(tables: Mapping[str, Table]) -> str:
    """How each table was made, from its Run: what all share once, then table by table."""
    runs = {name: _fields(table.run) for name, table in tables.items()}
    first = next(iter(runs.values()), {})
    shared = {k: v for k, v in first.items() if all(run.get(k) == v for run in runs.values())}
    rows = "".join(f"<tr><th>{text(k)}</th><td>{text(v)}</td></tr>\n" for k, v in shared.items())
    own = "".join(
        f"<tr><th>{text(name)}</th><td>{len(table)} rows"
        + "".join(f"; {text(k)}: {text(v)}" for k, v in runs[name].items() if k not in shared)
        + "</td></tr>\n"
        for name, table in tables.items()
    )
    return (
        "<details>\n<summary>Settings and provenance</summary>\n"
        f'<div class="wide"><table class="plain"><tbody>\n{rows}</tbody></table></div>\n'
        f'<h3>Tables</h3>\n<div class="wide"><table class="plain"><tbody>\n{own}</tbody></table></div>\n</details>'
    )


def _fields(run: Run) -> dict[str, str]:
    fields: dict[str, object] = {
        "model": run.model,
        "revision": run.revision,
        "task": run.task,
        "method": run.method,
        "seed": run.seed,
        "dtype": run.dtype,
        "device": run.device,
        "commit": run.commit,
        "versions": ", ".join(f"{k} {v}" for k, v in run.versions.items()),
        **{f"setting {k}": v for k, v in run.settings.items()},
    }
    return {k: str(v) for k, v in fields.items() if v not in (None, "")}
