"""The page's style sheet."""

from __future__ import annotations

STYLE = """
:root { --ink: #1b1b1b; --soft: #5c5c5c; --paper: #fdfdfb; --line: #d9d9d3; --card: #f4f4ef; --link: #0072b2;
  --t0: #ffd8a8; --t1: #cfe8fa; --t2: #c9ecdf; --t3: #f3d6e6; --t4: #f4efb0; --t5: #dcdcf5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e6e1; --soft: #a9a69f; --paper: #17181a; --line: #3a3c40;
  --card: #202225; --link: #56b4e9; --t0: #6d4310; --t1: #1d4a68; --t2: #14533f; --t3: #663650; --t4: #57520f;
  --t5: #40407a; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; padding: 2.5rem 1.2rem 4rem; max-width: 46rem; color: var(--ink); background: var(--paper);
  font: 1.05rem/1.55 Charter, "Bitstream Charter", "Source Serif 4", Georgia, serif; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
p { margin: .6rem 0; }
.lead { color: var(--soft); margin-top: 0; }
.small, figcaption, .legend span { font-size: .88rem; color: var(--soft); }
.finding p:first-child { font-size: 1.15rem; }
figure { margin: 1.8rem 0; }
figcaption { margin-top: .5rem; line-height: 1.45; }
figcaption b { color: var(--ink); }
img { display: block; width: auto; max-width: 100%; height: auto; margin: 0 auto; background: #fff; padding: .5rem;
  border-radius: 4px; }
pre, code { font: .85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
  white-space: pre-wrap; }
code { background: var(--card); padding: .1em .3em; border-radius: 3px; display: inline-block; max-width: 100%; }
pre { background: var(--card); padding: .8rem; margin: .3rem 0; border-radius: 4px; max-height: 22rem; overflow: auto; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 0 1.2rem; }
.cards h3 { margin-top: .6rem; }
mark { color: inherit; padding: .05em .15em; border-radius: 3px; }
.legend mark { margin-right: .2rem;
  white-space: nowrap; }
.r0 { background: var(--t0); }
.r1 { background: var(--t1); }
.r2 { background: var(--t2); }
.r3 { background: var(--t3); }
.r4 { background: var(--t4); }
.r5 { background: var(--t5); }
.factor { border-bottom: 2px solid currentColor;
  font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .5rem 1rem; margin: .6rem 0; }
dt { font-weight: 600; }
dd { margin: 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line); }
.plain th { white-space: nowrap; font-weight: 600; width: 11rem; }
summary { cursor: pointer; color: var(--link); }
@media print { body { max-width: none; padding: 0; font-size: 10.5pt; }
pre { max-height: none; }
figure, tr, .cards > div { break-inside: avoid; } }
@media (max-width: 34rem) { body { padding-top: 1.4rem; font-size: 1rem; }
dl { grid-template-columns: 1fr;
  gap: .1rem; }
dd { margin-bottom: .6rem; } }
""".strip()
