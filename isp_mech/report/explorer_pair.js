// @ts-check
// The view of a pair: its prompts with attention laid over them, and what is known of it at every site and in every size.

import { attentionOf, caseOf, effectOf, lensOf, restoredOf, tokensOf } from "./explorer_data.js";
import { figure, h, lineChart, nats, percent, SIDES, table } from "./explorer_draw.js";
import { BY, changes, choice, heading, mapOf, to } from "./explorer_views.js";

/** @typedef {import("./explorer_data.js").Piece} Piece */
/** @typedef {import("./explorer_views.js").Asked} Asked */
/** @typedef {{pieces: Piece[], texts: string[], roles: string[], shares: number[]}} Looked */

const MOST = 10; // tokens, and sites, of a list
const ALL = "all"; // heads, in the address
const SEEN = 0.002; // share of attention
const READING = "Point at a token, or go there by Tab and the arrow keys, for its share.";
const spaced = (/** @type {string} */ role) => role.replaceAll("_", " ");

/** @param {Asked} asked */
export function pairView(asked) {
  const { task, size, site, pair, read } = asked;
  const given = task.pairs[pair];
  const sides = Object.keys(given.prompts);
  const near = [-1, 1].map((step) => pair + step).filter((at) => at >= 0 && at < task.pairs.length);
  const kept = size.sample.includes(pair);
  const look = lookedAt(asked);
  const shares = sides.map((side) => attentionOf(read, size, pair, look, side));
  const looked = sides.map((side) => tokensOf(read, size, pair, look, side));
  const roles = [...new Set(shares.flatMap((of) => [...(of?.keys() ?? [])]))];
  const sites = size.sites.map((each, at) => ({ site: each, at, by: Object.keys(BY).map((by) => effectOf(read, size, pair, at, by)) }))
    .sort((a, b) => Math.abs(b.by[0] ?? b.by[2] ?? 0) - Math.abs(a.by[0] ?? a.by[2] ?? 0));
  const lens = ["conflict", "plain"].map((side) => ({ side, places: lensOf(read, size, pair, side) })).filter((line) => line.places.length);
  const strongest = Math.max(0.01, ...looked.flatMap((of) => of?.pieces.map((piece) => (piece[3] ? 0 : of.shares[piece[2]] ?? 0)) ?? []));
  return [
    heading(`Pair ${pair} in the ${size.label} model: ${caseOf(size, pair)}`),
    h("p", {}, `${given.id}. `, ...near.flatMap((at) => [h("a", { href: to(asked, { pair: String(at) }) }, at < pair ? "Pair before" : "Next pair"), " "]),
      h("a", { href: to(asked, { pair: "" }) }, site ? `Pairs of ${site.name}` : "All pairs")),
    ...lookedAtWhat(asked, look, strongest, looked.some(Boolean)),
    h("div", { class: "cards" }, sides.map((side, at) => promptCard(asked, side, shares[at], looked[at], strongest))),
    tokenFigure(asked, look, sides, looked),
    roles.length ? figure({ name: `${size.model}-pair-${pair}-attention`, title: "Attention by role.", note: `${named(look)}.`,
      body: table(["role", ...sides], roles.map((role) => [spaced(role), ...shares.map((of) => percent(of?.get(role)))]), "Attention by role"),
      rows: [["role", ...sides], ...roles.map((role) => [role, ...shares.map((of) => of?.get(role))])] }) : null,
    restoredFigure(asked),
    lens.length ? lensFigure(asked, lens) : null,
    kept && size.sites.length ? mapOf(asked, pair) : null,
    kept && size.sites.length ? figure({ name: `${size.model}-pair-${pair}-sites`, title: "The strongest sites on this pair.", note: "Nats; the CSV has every site.",
      body: table(["site", ...Object.values(BY).map((by) => by.name)], sites.slice(0, MOST).map((row) => [{ text: row.site.name, href: to(asked, { site: row.site.name, look: "" }) }, ...row.by.map((value) => nats(value))]), "Sites on this pair"),
      rows: [["site", ...Object.values(BY).map((by) => by.column)], ...sites.map((row) => [row.site.name, ...row.by])] }) : null,
    figure({ name: `pair-${pair}-over-size`, title: "This pair over size.", note: "Margins, log p(answer) − log p(lure), in nats. Positive is right on the conflict and the neutral prompt, negative on the plain one, where the lure is right.",
      body: table(["size", ...sides, "case"], task.sizes.map((each) => [{ text: each.label, href: to(asked, { size: each.model, site: "", look: "" }) },
        ...sides.map((side) => nats(each.margins[side]?.[pair])), caseOf(each, pair)]), "This pair over size"),
      rows: [["model", ...sides, "case"], ...task.sizes.map((each) => [each.model, ...sides.map((side) => each.margins[side]?.[pair]), caseOf(each, pair)])] }),
    ...changes(size),
  ];
}

// --- attention ------------------------------------------------------------------------------------

/** Whose attention is shown: a head's ("a3.h1"), a layer's ("a3"), or of all heads (""): what was chosen, else that of the
 * site, if it is a head. @param {Asked} asked */
function lookedAt({ size, address }) {
  const heads = size.tokens?.heads ?? size.attention?.heads ?? [];
  const known = (/** @type {string} */ name) => heads.some((head) => head === name || head.startsWith(`${name}.`));
  const asked = address.look || address.site;
  return asked !== ALL && known(asked) ? asked : "";
}

const named = (/** @type {string} */ look) => (!look ? "Mean of all heads" : look.includes(".") ? `Head ${look}` : `Mean of the heads of layer ${look.slice(1)}`);

/** The choice of heads, and what the shading is. @param {Asked} asked @param {string} look @param {number} strongest
 * @param {boolean} byToken */
function lookedAtWhat(asked, look, strongest, byToken) {
  const { size, site, pair, address } = asked;
  const heads = size.tokens?.heads ?? size.attention?.heads ?? [];
  const layers = [...new Set(heads.map((name) => name.split(".")[0]))];
  const options = [[ALL, "all heads, mean"], ...layers.flatMap((layer) => [[layer, `layer ${layer.slice(1)}, mean of its heads`],
    ...heads.filter((name) => name.startsWith(`${layer}.`)).map((name) => [name, name])])];
  const known = byToken || (size.attention && size.sample.includes(pair));
  const mlp = site && site.kind !== "head" && !address.look ? `${site.name} is an MLP and looks nowhere; shown is the mean of all heads. ` : "";
  const sampled = size.tokens ? `Attention token by token is kept for ${size.tokens.pairs.length} pairs of this size, those that its sites move most` +
    `${size.tokens.pairs.length < size.tokens.of ? ` (of ${size.tokens.of} that were traced so)` : ""}. ` : "";
  const said = byToken ? `${named(look)}: how much the last position attends to each token; full shade is ${percent(strongest)} or more. What is not shaded gets less than 0.2 % from every head; a token between angle brackets stands for no character of the prompt.`
    : known ? `${named(look)}: how much the last position attends to each marked part. For this pair attention is known by role, so all of a role is shaded alike; what is not marked shares what is called other. ${sampled}`
      : size.attention ? "Attention and effects of this pair are not kept on this page." : "Attention was not traced in this size.";
  return [known ? choice("look", "Attention of", options, look || ALL) : null, h("p", { class: "small" }, mlp, said,
    size.tokens && !byToken ? h("a", { href: to(asked, { pair: String(size.tokens.pairs.find((each) => each > pair) ?? size.tokens.pairs[0]) }) }, "Next pair with it") : null)];
}

/** A prompt with attention laid over it: over its tokens where they are known, else over its roles.
 * @param {Asked} asked @param {string} side @param {Map<string, number> | null} shares @param {Looked | null} looked
 * @param {number} strongest */
function promptCard({ task, size, pair }, side, shares, looked, strongest) {
  const prompt = task.pairs[pair].prompts[side];
  const colour = SIDES[side]?.colour ?? "#8c8c8c";
  const label = `${side} prompt`;
  const text = looked ? tokenText(looked, strongest, label) : [h("pre", { tabindex: 0, role: "group", "aria-label": label }, roleMarks(prompt.pieces, shares))];
  return h("div", {}, h("h4", { style: `border-left: .4rem solid ${colour}; padding-left: .4rem` }, `${label}: margin ${nats(size.margins[side]?.[pair])} nats`),
    text, h("p", {}, "Right here: ", h("code", {}, prompt.right)));
}

/** Tokens, each shaded by its share. One is reached by Tab, the one that gets most; from it the arrow keys lead to the
 * others. @param {Looked} looked @param {number} strongest @param {string} label */
function tokenText({ pieces, texts, roles, shares }, strongest, label) {
  const most = shares.indexOf(Math.max(...shares));
  const reading = h("p", { class: "small reading", "aria-hidden": "true" }, READING);
  const first = pieces.findIndex((piece) => piece[2] === most);
  const text = h("pre", { role: "group", "aria-label": `${label}, token by token` }, pieces.flatMap(([whole, role, place, outside], at) => {
    if (place < 0) return [whole];
    const shown = whole.replace(/\n+$/, "") || (shares[place] < SEEN ? "" : "↵"); // line ends stand outside the mark
    if (!shown) return [outside ? "" : whole];
    const said = `${quoted(texts[place])}${roles[place] ? ` (${spaced(roles[place])})` : ""}: ${exact(shares[place])}`;
    const mark = h("mark", { class: `looked${role ? " in-role" : ""}${outside ? " outside" : ""}`, title: said, tabindex: at === first ? 0 : -1 }, outside ? `⟨${shown}⟩` : shown);
    mark.style.setProperty("--share", `${Math.round(100 * Math.min(1, shares[place] / strongest))}%`);
    return [mark, outside ? "" : (/\n+$/.exec(whole)?.[0] ?? "")];
  }));
  const tell = (/** @type {Event} */ event) => {
    const said = event.target instanceof Element ? event.target.closest("mark")?.getAttribute("title") : null;
    if (said) reading.textContent = said;
  };
  text.addEventListener("mouseover", tell);
  text.addEventListener("focusin", tell);
  text.addEventListener("keydown", (event) => {
    const marks = [...text.querySelectorAll("mark")];
    const from = marks.findIndex((mark) => mark === event.target);
    const next = /** @type {Record<string, number>} */ ({ ArrowLeft: from - 1, ArrowRight: from + 1, Home: 0, End: marks.length - 1 })[event.key];
    if (from < 0 || next === undefined || !marks[next]) return;
    event.preventDefault();
    marks[from].tabIndex = -1;
    marks[next].tabIndex = 0;
    marks[next].focus();
  });
  return [text, reading];
}

/** Roles, each shaded by its share, which is written behind its first part. @param {[string, string][]} pieces
 * @param {Map<string, number> | null} shares */
function roleMarks(pieces, shares) {
  const told = new Set();
  return pieces.flatMap(([whole, role]) => {
    if (!role) return [whole];
    const text = whole.replace(/\n+$/, "");
    const of = shares?.get(role);
    const mark = h("mark", { class: "looked in-role", title: spaced(role) + (of === undefined ? "" : `: ${percent(of)}`) }, text);
    mark.style.setProperty("--share", `${Math.round(100 * (of ?? 0))}%`);
    if (of !== undefined && !told.has(role)) mark.append(h("sub", {}, ` ${spaced(role)} ${percent(of)}`));
    told.add(role);
    return [mark, whole.slice(text.length)];
  });
}

const quoted = (/** @type {string} */ text) => `“${text.replaceAll("\n", "↵")}”`;
const exact = (/** @type {number} */ share) => `${(100 * share).toFixed(1)} %`;

/** The tokens that get most, in words: what the shading shows, for who does not see it. @param {Asked} asked
 * @param {string} look @param {string[]} sides @param {(Looked | null)[]} looked */
function tokenFigure({ size, pair }, look, sides, looked) {
  const known = sides.flatMap((side, at) => {
    const of = looked[at];
    if (!of) return [];
    const places = of.shares.map((share, place) => ({ place, share, text: of.texts[place], role: of.roles[place] }));
    const top = [...places].sort((a, b) => b.share - a.share).slice(0, MOST).filter((each) => each.share > 0);
    return [{ side, places, top, others: 1 - top.reduce((sum, each) => sum + each.share, 0) }];
  });
  if (!known.length) return null;
  const rows = Array.from({ length: Math.max(...known.map((of) => of.top.length)) }, (_, rank) => [String(rank + 1), ...known.flatMap(({ top }) => {
    const each = top[rank];
    return each ? [`${quoted(each.text)}${each.role ? `, ${spaced(each.role)}` : ""}`, exact(each.share)] : ["–", "–"];
  })]);
  rows.push(["", ...known.flatMap(({ others }) => ["all others", exact(Math.max(0, others))])]);
  return figure({ name: `${size.model}-pair-${pair}-tokens-${look || ALL}`, title: "The tokens that get most.", note: `${named(look)}, from the last position; the CSV has every token.`,
    body: table(["rank", ...known.flatMap(({ side }) => [`${side} prompt`, "share"])], rows, "Attention by token"),
    rows: [["side", "place", "text", "role", "share"], ...known.flatMap(({ side, places }) => places.map((each) => [side, each.place, each.text, each.role, Number(each.share.toPrecision(4))]))] });
}

// --- interventions, the lens ----------------------------------------------------------------------

/** Both margins without and with what was searched for. @param {Asked} asked */
function restoredFigure({ task, size, pair }) {
  const rows = restoredOf(size, pair);
  if (!rows.length) {
    return size.restored.length ? h("p", { class: "small" }, `Interventions were searched on ${new Set(size.restored.flatMap((each) => each.pairs)).size} of ${task.pairs.length} pairs; this is none of them.`) : null;
  }
  const sides = ["conflict", "plain"].filter((side) => rows.some((row) => row.margins[side]));
  const after = (/** @type {Record<string, [number, number]>} */ margins) => (margins.conflict?.[1] > 0 ? (margins.plain?.[1] < 0 ? "follows" : "contrary") : margins.plain?.[1] < 0 ? "overridden" : "lost");
  return figure({ name: `${size.model}-pair-${pair}-interventions`, title: "Before and after an intervention.",
    note: "This pair's margins in nats, as they are → with the intervention that was chosen on the half of the pairs that it is not in. Saved: the run keeps the best of this kind in a file.",
    body: table(["kind", "intervention", ...sides, "becomes", "saved"], rows.map((row) => [row.kind, row.words,
      ...sides.map((side) => `${nats(row.margins[side]?.[0])}\u00a0→ ${nats(row.margins[side]?.[1])}`), after(row.margins), row.saved ? "yes" : "no"]), "Before and after an intervention"),
    rows: [["kind", "intervention", ...sides.flatMap((side) => [`${side}_before`, `${side}_after`]), "saved"],
      ...rows.map((row) => [row.kind, row.intervention, ...sides.flatMap((side) => row.margins[side] ?? [null, null]), row.saved])] });
}

/** @param {Asked} asked @param {{side: string, places: any[]}[]} lens */
function lensFigure(asked, lens) {
  const all = lens.flatMap((line) => line.places.map((place) => place.margin));
  const ends = [Math.min(0, ...all), Math.max(0, ...all)];
  return figure({ name: `${asked.size.model}-pair-${asked.pair}-lens`, title: "The lens by depth.", note: "The margin that the stream shows at each depth: above zero it has the conflict prompt's answer ahead, below the lure.",
    drawing: lineChart({ label: "Lens margin by depth", zero: true, xLabel: "relative depth", yLabel: "margin, nats",
      lines: lens.map((line) => ({ side: line.side, points: line.places.map((place) => ({ x: place.depth, y: place.margin, label: `${line.side}, depth ${place.depth.toFixed(2)}: ${nats(place.margin)} nats` })) })),
      xTicks: [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: String(at) })), yTicks: [...new Set([ends[0], 0, ends[1]])].map((at) => ({ at, text: nats(at, 1) })) }),
    rows: [["side", "layer", "sublayer", "depth", "margin"], ...lens.flatMap((line) => line.places.map((place) => [line.side, place.layer, place.sublayer, place.depth, place.margin]))] });
}
