// @ts-check
// The views of the curve, a size and a site. Each is made from the address and from the data alone.

import { attentionOf, caseOf, effectOf, stepOf } from "./explorer_data.js";
import { figure, h, lineChart, nats, percent, siteMap, table } from "./explorer_draw.js";

/** @typedef {import("./explorer_data.js").Task} Task */
/** @typedef {import("./explorer_data.js").Size} Size */
/** @typedef {import("./explorer_data.js").Read} Read */
/** @typedef {import("./explorer_data.js").Site} Site */
/** @typedef {Record<string, string>} Address */
/** @typedef {{task: Task, read: Read, size: Size, smaller: Size | undefined, site: Site | undefined, siteAt: number,
 *   pair: number, address: Address}} Asked */

const FIRST = 25; // rows of a list of pairs before the button that shows all
/** What there may be of a site: its name, the column of its mean over pairs, and what it is.
 * @type {Record<string, {name: string, column: "effect" | "direct_effect" | "write_conflict" | "write_plain", what: string}>} */
export const BY = {
  total: { name: "total effect", column: "effect", what: "What is lost of the margin when the site is replaced" },
  direct: { name: "direct effect", column: "direct_effect", what: "What of the total effect goes straight to the output: the site's own write, less that of its replacement" },
  conflict: { name: "own write, conflict prompt", column: "write_conflict", what: "What the site itself writes on the margin" },
  plain: { name: "own write, plain prompt", column: "write_plain", what: "What the site itself writes on the margin" },
};
const there = (/** @type {Size} */ size) => Object.keys(BY).filter((by) => size.values[by]);
const CASES = ["follows", "overridden", "contrary", "lost"];
const STEPS = ["gained", "lost", "kept", "missed"];

/** An address as it stands behind the page's; what is empty is left out. @param {Address} parts */
export function hash(parts) {
  return `#${new URLSearchParams(Object.entries(parts).filter(([, value]) => value !== ""))}`;
}

/** @param {Asked} asked @param {Address} changed */
export const to = ({ address }, changed) => hash({ ...address, ...changed });
const share = (/** @type {any} */ value) => (typeof value === "number" ? percent(value) : "–");
const word = (/** @type {any} */ value) => (value === null || value === undefined ? "–" : typeof value === "number" ? String(Number(value.toPrecision(3))) : String(value));

/** @param {Site} a @param {Site} b */
const stronger = (a, b) => Math.abs(main(b) ?? 0) - Math.abs(main(a) ?? 0);
const main = (/** @type {Site} */ site) => site.effect ?? site.write_conflict ?? null;
export const strongest = (/** @type {Size} */ size) => [...size.sites].sort(stronger);

// --- the curve --------------------------------------------------------------------------------------

/** @param {Asked} asked */
export function overview(asked) {
  const { task } = asked;
  const sides = [...new Set(task.curve.map((row) => row.side))];
  const point = (/** @type {any} */ row) => {
    const size = task.sizes.find((each) => each.model === row.model);
    return { x: Math.log10(Math.max(size?.n_params ?? 1, 1)), y: row.accuracy, href: to(asked, { size: row.model }),
      label: `${size?.label ?? row.model}, ${row.side}: ${percent(row.accuracy)} right. Open this size.` };
  };
  const drawing = lineChart({
    label: "Accuracy over size; each point opens its size",
    lines: sides.map((side) => ({ side, points: task.curve.filter((row) => row.side === side && task.sizes.some((size) => size.model === row.model)).map(point) })),
    xTicks: task.sizes.map((size) => ({ at: Math.log10(Math.max(size.n_params, 1)), text: size.label })),
    yTicks: [0, 0.25, 0.5, 0.75, 1].map((at) => ({ at, text: percent(at) })),
    xLabel: "parameters without embeddings", yLabel: "accuracy",
  });
  const rows = task.sizes.map((size) => {
    const shares = task.shares.find((row) => row.model === size.model);
    const best = strongest(size)[0];
    return [{ text: size.label, href: to(asked, { size: size.model }) }, ...CASES.map((name) => share(shares?.[name])),
      best ? { text: `${best.name} (${nats(main(best))})`, href: to(asked, { size: size.model, site: best.name }) } : "–"];
  });
  return [
    heading("Over size"),
    task.curve.length ? figure({ name: "curve", title: "Accuracy over size.", note: "A point opens its size.", drawing,
      rows: [["model", "side", "accuracy", "accuracy_lo", "accuracy_hi", "n"], ...task.curve.map((row) => [row.model, row.side, row.accuracy, row.accuracy_lo, row.accuracy_hi, row.n])] }) : null,
    figure({ name: "shares", title: "What the pairs are in each size.", note: "Follows: right on both prompts; overridden: right on the plain one alone; contrary: right on the conflict one alone; lost: on neither.",
      body: table(["size", ...CASES, "strongest site (nats)"], rows, "Shares of pairs by size"),
      rows: [["model", ...CASES], ...task.shares.map((row) => [row.model, ...CASES.map((name) => row[name])])] }),
  ];
}

// --- a size, a site -----------------------------------------------------------------------------------

/** @param {Asked} asked */
export function sizeView(asked) {
  const { size } = asked;
  const top = strongest(size).slice(0, 10);
  const cells = (/** @type {Site} */ site) => [{ text: site.name, href: to(asked, { site: site.name }) }, nats(site.effect), nats(site.direct_effect), nats(site.write_conflict), nats(site.write_plain), site.significant ? "yes" : "no"];
  return [
    heading(`The ${size.label} model`),
    size.sites.length ? mapOf(asked, null) : h("p", {}, "No effects of sites were measured in this size."),
    size.sites.length ? figure({ name: `${size.model}-sites`, title: "The strongest sites.", note: "Means over the pairs, in nats; the CSV has every site.",
      body: table(["site", ...Object.values(BY).map((by) => by.name), "significant"], top.map(cells), "Strongest sites"),
      rows: [["site", "effect", "effect_lo", "effect_hi", "direct_effect", "write_conflict", "write_plain", "q", "significant"],
        ...size.sites.map((site) => [site.name, site.effect, site.effect_lo, site.effect_hi, site.direct_effect, site.write_conflict, site.write_plain, site.q, site.significant])] }) : null,
    ...changes(size),
    ...pairList(asked),
  ];
}

/** @param {Asked} asked */
export function siteView(asked) {
  const { size, site, read } = asked;
  if (!site) return [];
  const low = site.effect_lo === null || site.effect_lo === undefined ? "" : ` (95 % interval ${nats(site.effect_lo)} to ${nats(site.effect_hi)})`;
  const means = ["conflict", "plain"].map((side) => attentionOf(read, size, null, site.name, side));
  const roles = [...new Set(means.flatMap((mean) => [...(mean?.keys() ?? [])]))];
  return [
    heading(`Site ${site.name} of the ${size.label} model`),
    h("p", {}, `Total effect ${nats(site.effect)} nats${low}, direct effect ${nats(site.direct_effect)} nats; `,
      `own write ${nats(site.write_conflict)} nats on the conflict and ${nats(site.write_plain)} on the plain prompt; `,
      `${site.significant ? "significant" : "not significant"}. Positive pushes towards the answer, negative towards the lure. `,
      h("a", { href: to(asked, { site: "" }) }, "All sites of this size")),
    ...pairList(asked),
    site.kind === "head" && roles.length ? figure({ name: `${size.model}-${site.name}-attention`, title: `Where ${site.name} looks.`, note: "Attention of the last position to each role, mean over all pairs.",
      body: table(["role", "conflict", "plain"], roles.map((role) => [role.replaceAll("_", " "), ...means.map((mean) => percent(mean?.get(role)))]), "Attention by role"),
      rows: [["role", "conflict", "plain"], ...roles.map((role) => [role, ...means.map((mean) => mean?.get(role))])] }) : null,
    mapOf(asked, null),
  ];
}

/** The map of sites: of a pair where one is given, else of the means. @param {Asked} asked @param {number | null} pair */
export function mapOf(asked, pair) {
  const { size, read, address } = asked;
  const known = there(size);
  const by = known.includes(address.by) ? address.by : known[0] ?? "total";
  const { name, column, what } = BY[by];
  const values = size.sites.map((site, at) => (pair === null ? site[column] ?? null : effectOf(read, size, pair, at, by)));
  const squares = size.sites.map((site, at) => ({ name: site.name, layer: site.layer, head: site.head, value: values[at],
    dot: pair === null && by === "total" && site.significant === true, href: to(asked, { site: site.name }), said: `${site.name}: ${nats(values[at])} nats` }));
  const how = what + (column.endsWith("effect") ? ` (${size.replacement}).` : ".");
  return h("div", {}, choice("by", "Show", known.map((each) => [each, BY[each].name]), by),
    figure({ name: `${size.model}-map${pair === null ? "" : `-pair-${pair}`}-${by}`, title: `Heads and MLPs: ${name}${pair === null ? "" : " on this pair"}, nats.`,
      note: `${how}${pair === null && by === "total" ? " A dot: significant." : ""} A square opens its site; arrow keys go from square to square.`,
      drawing: siteMap({ label: `Map of ${name}`, squares, chosen: asked.site?.name ?? "" }),
      rows: [["site", column], ...size.sites.map((site, at) => [site.name, values[at]])] }));
}

/** What replacing sites did, and what restored. @param {Size} size */
export function changes(size) {
  const made = (/** @type {string} */ name, /** @type {string} */ title, /** @type {any[]} */ rows, /** @type {string[]} */ columns) => {
    const shown = rows.map((row) => columns.map((column) => (/_before|_after|^restored$/.test(column) ? share(row[column]) : word(row[column]))));
    return rows.length ? figure({ name: `${size.model}-${name}`, title, body: table(columns.map((column) => column.replaceAll("_", " ")), shown, title),
      rows: [columns, ...rows.map((row) => columns.map((column) => row[column]))] }) : null;
  };
  return [
    made("verification", "Before and after the located sites are replaced (all pairs of a half together).", size.verification, ["sites", "split", "n_sites", "accuracy_before", "accuracy_after", "plain_before", "plain_after", "p_random"]),
    made("restoration", "Before and after an intervention that was searched for.", size.restoration, ["kind", "split", "words", "conflict_before", "conflict_after", "plain_before", "plain_after", "restored", "q"]),
  ];
}

// --- pairs ----------------------------------------------------------------------------------------

/** The pairs that the filters leave, by the effect of the site where there is one. @param {Asked} asked */
function pairList(asked) {
  const { task, size, smaller, site, siteAt, read, address } = asked;
  const text = (address.q ?? "").toLowerCase();
  const shownBy = site ? there(size).filter((by) => by !== "plain" && (by !== "conflict" || !size.values.total)) : [];
  const found = task.pairs.map((pair, at) => ({
    pair, at, case: caseOf(size, at), step: stepOf(smaller, size, at), margin: size.margins.conflict?.[at] ?? null,
    moved: shownBy.map((by) => effectOf(read, size, at, siteAt, by)),
    // what is searched: the pair's name, both prompts, both completions
    words: [pair.id, ...Object.values(pair.prompts).flatMap((prompt) => [...prompt.pieces.map((piece) => piece[0]), prompt.right])].join("\n").toLowerCase(),
    roles: Object.values(pair.prompts).flatMap((prompt) => prompt.pieces.map((piece) => piece[1])),
  })).filter((row) => (!text || row.words.includes(text)) && (!address.case || row.case === address.case)
    && (!address.step || row.step === address.step) && (!address.role || row.roles.includes(address.role)));
  const by0 = (/** @type {{moved: (number | null)[]}} */ row) => Math.abs(row.moved[0] ?? -1e-9);
  if (site) found.sort((a, b) => by0(b) - by0(a));
  const shown = address.all ? found : found.slice(0, FIRST);
  const heads = ["pair", "asks for", "changed part", ...shownBy.map((by) => BY[by].name), "margin", "case", "from the smaller size"];
  const rows = shown.map((row) => [{ text: `${row.at}: ${row.pair.id}`, href: to(asked, { pair: String(row.at) }) }, row.pair.prompts.conflict.right.trim(),
    row.pair.prompts.conflict.pieces.filter((piece) => piece[1] === row.pair.factor).map((piece) => piece[0].trim()).join(" … ").slice(0, 60) || "–",
    ...row.moved.map((value) => nats(value)), nats(row.margin), row.case, smaller ? row.step : "–"]);
  const roles = [...new Set(task.pairs.flatMap((pair) => pair.prompts.conflict.pieces.map((piece) => piece[1])))].filter((role) => role);
  const kept = size.sample.length < task.pairs.length ? ` Effects are kept for ${size.sample.length} of ${task.pairs.length} pairs, those that the strongest sites move most.` : "";
  return [
    h("div", { class: "filters", role: "search", "aria-label": "Pairs" },
      h("label", {}, "Search ", h("input", { type: "search", id: "ask-q", "data-key": "q", value: address.q ?? "" })),
      choice("case", "Case", [["", "any"], ...CASES.map((name) => [name, name])], address.case ?? ""),
      smaller ? choice("step", `From ${smaller.label}`, [["", "any"], ...STEPS.map((name) => [name, name])], address.step ?? "") : null,
      choice("role", "Role", [["", "any"], ...roles.map((name) => [name, name.replaceAll("_", " ")])], address.role ?? "")),
    figure({ name: `${size.model}-pairs${site ? `-${site.name}` : ""}`, title: site ? `The pairs that ${site.name} moves most.` : "The pairs.",
      note: `${found.length} of ${task.pairs.length} pairs${shown.length < found.length ? `, the first ${shown.length} shown` : ""}; effects and the margin on the conflict prompt in nats.${kept}`,
      body: table(heads, rows, "Pairs"),
      rows: [["pair", "id", ...shownBy.map((by) => BY[by].column), "margin", "case", "step"], ...found.map((row) => [row.at, row.pair.id, ...row.moved, row.margin, row.case, row.step])] }),
    shown.length < found.length ? h("p", {}, h("a", { href: to(asked, { all: "1" }) }, `Show all ${found.length} pairs`)) : null,
  ];
}

// --- parts ----------------------------------------------------------------------------------------

export function heading(/** @type {string} */ text) {
  return h("h3", { tabindex: -1, id: "ask-heading" }, text);
}

/** A labelled list to choose from; what is chosen goes into the address under ``key``.
 * @param {string} key @param {string} label @param {string[][]} options @param {string} chosen */
export function choice(key, label, options, chosen) {
  return h("label", {}, `${label} `, h("select", { id: `ask-${key}`, "data-key": key },
    options.map(([value, text]) => h("option", { value, selected: value === chosen }, text))), " ");
}
