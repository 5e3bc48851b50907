// @ts-check
// Elements, numbers, tables and drawings. All text is set as text; a drawing has its colours in itself, to be saved.

const SVG = "http://www.w3.org/2000/svg";
const SHADES = ["#7f3b08", "#d55e00", "#f4a261", "#f7f7f7", "#6baed6", "#0072b2", "#023858"]; // lure ... answer
export const SIDES = /** @type {Record<string, {colour: string, mark: string}>} */ ({
  conflict: { colour: "#d55e00", mark: "circle" },
  plain: { colour: "#0072b2", mark: "square" },
  neutral: { colour: "#009e73", mark: "triangle" },
});

/** @typedef {string | Element | null | undefined | (string | Element | null | undefined)[]} Inside */
/** @typedef {{text?: string, number?: number | null, href?: string, digits?: number}} Cell */

/** An HTML element with attributes; strings inside become text. @param {string} tag @param {Record<string, any>} attributes
 * @param {Inside[]} inside @returns {HTMLElement} */
export function h(tag, attributes = {}, ...inside) {
  return /** @type {HTMLElement} */ (filled(document.createElement(tag), attributes, inside));
}

/** The same for SVG. @param {string} tag @param {Record<string, any>} attributes @param {Inside[]} inside
 * @returns {SVGElement} */
export function s(tag, attributes = {}, ...inside) {
  return /** @type {SVGElement} */ (filled(document.createElementNS(SVG, tag), attributes, inside));
}

/** @param {Element} element @param {Record<string, any>} attributes @param {Inside[]} inside */
function filled(element, attributes, inside) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of inside.flat()) if (child !== null && child !== undefined) element.append(child);
  return element;
}

/** A signed number with a true minus sign. @param {number | null | undefined} value */
export function nats(value, digits = 2) {
  if (value === null || value === undefined) return "–";
  const shown = value.toFixed(digits);
  return (Number(shown) > 0 ? `+${shown}` : Number(shown) === 0 ? (0).toFixed(digits) : shown).replace("-", "−");
}

/** @param {number | null | undefined} share */
export function percent(share) {
  return share === null || share === undefined ? "–" : `${Math.round(100 * share)} %`;
}

/** The colour of a value between -most and most: orange to the lure, blue to the answer. @param {number} most */
export function shade(/** @type {number} */ value, most) {
  const at = ((Math.max(-1, Math.min(1, value / (most || 1))) + 1) / 2) * (SHADES.length - 1);
  const low = Math.min(SHADES.length - 2, Math.floor(at));
  const parts = [1, 3, 5].map((from) => {
    const [a, b] = [SHADES[low], SHADES[low + 1]].map((colour) => parseInt(colour.slice(from, from + 2), 16));
    return Math.round(a + (b - a) * (at - low)).toString(16).padStart(2, "0");
  });
  return `#${parts.join("")}`;
}

// --- saving ---------------------------------------------------------------------------------------

/** @param {string} name @param {string} content @param {string} kind */
function save(name, content, kind) {
  const link = h("a", { href: URL.createObjectURL(new Blob([content], { type: kind })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.getAttribute("href") ?? ""), 10_000);
}

/** Rows as CSV; a text that a spreadsheet would run as a formula gets a quote before it.
 * @param {(string | number | boolean | null | undefined)[][]} rows */
export function csv(rows) {
  return rows.map((row) => row.map((value) => {
    const text = value === null || value === undefined ? "" : String(value);
    const inert = typeof value === "string" && /^[=+\-@\t]/.test(text) ? `'${text}` : text;
    return /[",\n\r]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
  }).join(",")).join("\n") + "\n";
}

/** A drawing as a file of its own. @param {SVGElement} drawing */
export function standalone(drawing) {
  const copy = /** @type {SVGElement} */ (drawing.cloneNode(true));
  copy.setAttribute("xmlns", SVG);
  copy.setAttribute("style", "color: #1b1b1b; background: #ffffff; font-family: sans-serif");
  for (const link of copy.querySelectorAll("a")) link.replaceWith(...link.childNodes);
  return new XMLSerializer().serializeToString(copy);
}

/** A figure with its caption and its two buttons. @param {{name: string, title: string, note?: string, rows: any[][],
 * drawing?: SVGElement, body?: Element}} given */
export function figure({ name, title, note, rows, drawing, body }) {
  const file = name.replace(/[^A-Za-z0-9.-]+/g, "_");
  const buttons = h("span", { class: "save" });
  /** @param {string} label @param {() => void} act */
  const button = (label, act) => {
    const made = h("button", { type: "button", "aria-label": `${label} of: ${title}` }, label);
    made.addEventListener("click", act);
    buttons.append(made);
  };
  if (drawing) button("SVG", () => save(`${file}.svg`, standalone(drawing), "image/svg+xml"));
  button("CSV", () => save(`${file}.csv`, csv(rows), "text/csv"));
  const caption = h("figcaption", {}, h("b", {}, title), note ? ` ${note} ` : " ", buttons);
  return h("figure", { class: "asked" }, caption, h("div", { class: "wide", role: "group", "aria-label": title }, drawing ?? body));
}

/** A table; a cell is a text, or a text with an address. @param {string[]} heads @param {(string | Cell)[][]} rows */
export function table(heads, rows, /** @type {string} */ label) {
  const cell = (/** @type {string | Cell} */ given) => {
    const of = typeof given === "string" ? { text: given } : given;
    return h("td", {}, of.href ? h("a", { href: of.href }, of.text ?? "") : of.text ?? "");
  };
  return h("table", { "aria-label": label },
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map(cell)))));
}

// --- drawings -------------------------------------------------------------------------------------

/** @param {string} mark @param {number} x @param {number} y @param {string} colour */
function marked(mark, x, y, colour) {
  if (mark === "square") return s("rect", { x: x - 5, y: y - 5, width: 10, height: 10, fill: colour });
  if (mark === "triangle") return s("path", { d: `M${x} ${y - 6}l6 11h-12z`, fill: colour });
  return s("circle", { cx: x, cy: y, r: 5.5, fill: colour });
}

/** @typedef {{x: number, y: number, label: string, href?: string}} Point */
/** Lines through points over one axis. @param {{label: string, lines: {side: string, points: Point[]}[],
 * xTicks: {at: number, text: string}[], yTicks: {at: number, text: string}[], xLabel: string, yLabel: string,
 * zero?: boolean}} given */
export function lineChart({ label, lines, xTicks, yTicks, xLabel, yLabel, zero }) {
  const [left, right, top, bottom] = [64, 620, 34, 250];
  const all = lines.flatMap((line) => line.points);
  const span = (/** @type {number[]} */ values) => [Math.min(...values), Math.max(...values)];
  const [x0, x1] = span([...all.map((point) => point.x), ...xTicks.map((tick) => tick.at)]);
  const [y0, y1] = span([...all.map((point) => point.y), ...yTicks.map((tick) => tick.at)]);
  const px = (/** @type {number} */ x) => (x1 > x0 ? left + 12 + ((x - x0) / (x1 - x0)) * (right - left - 24) : (left + right) / 2);
  const py = (/** @type {number} */ y) => (y1 > y0 ? bottom - ((y - y0) / (y1 - y0)) * (bottom - top) : (bottom + top) / 2);
  const text = (/** @type {number} */ x, /** @type {number} */ y, /** @type {string} */ words, /** @type {string} */ anchor) =>
    s("text", { x, y, "text-anchor": anchor, "font-size": 13, fill: "currentColor" }, words);
  return s("svg", { viewBox: "0 0 640 300", width: 640, role: "group", "aria-label": label },
    s("path", { d: `M${left} ${top}V${bottom}H${right}`, fill: "none", stroke: "currentColor" }),
    zero ? s("path", { d: `M${left} ${py(0)}H${right}`, stroke: "currentColor", "stroke-dasharray": "4 3", opacity: 0.6 }) : null,
    xTicks.map((tick) => text(px(tick.at), bottom + 18, tick.text, "middle")),
    yTicks.map((tick) => text(left - 8, py(tick.at) + 4, tick.text, "end")),
    text((left + right) / 2, bottom + 40, xLabel, "middle"),
    s("text", { x: 14, y: (top + bottom) / 2, "text-anchor": "middle", "font-size": 13, fill: "currentColor",
      transform: `rotate(-90 14 ${(top + bottom) / 2})` }, yLabel),
    lines.flatMap(({ side, points }, place) => {
      const { colour, mark } = SIDES[side] ?? { colour: "#8c8c8c", mark: "circle" };
      const path = points.map((point, at) => `${at ? "L" : "M"}${px(point.x).toFixed(1)} ${py(point.y).toFixed(1)}`).join("");
      return [
        marked(mark, left + 20 + place * 110, 14, colour), text(left + 32 + place * 110, 18, side, "start"),
        s("path", { d: path, fill: "none", stroke: colour, "stroke-width": 2 }),
        ...points.map((point) => {
          const drawn = marked(mark, px(point.x), py(point.y), colour);
          drawn.append(s("title", {}, point.label));
          return point.href ? s("a", { href: point.href, "aria-label": point.label }, drawn) : drawn;
        }),
      ];
    }));
}

/** Heads and MLPs as squares, layer 0 below; a dot marks a significant one. One square is reached by Tab, the others
 * from it by the arrow keys. @param {{label: string, squares: {name: string, layer: number, head: number | null,
 * value: number | null, dot: boolean, href: string, said: string}[], chosen: string}} given */
export function siteMap({ label, squares, chosen }) {
  const layers = Math.max(...squares.map((square) => square.layer)) + 1;
  const heads = Math.max(-1, ...squares.map((square) => square.head ?? -1)) + 1;
  const size = Math.max(9, Math.min(34, Math.floor(560 / (heads + 2)), Math.max(14, Math.floor(700 / layers))));
  const [left, top, gap] = [52, 8, 10];
  const most = Math.max(1e-9, ...squares.map((square) => Math.abs(square.value ?? 0)));
  const [width, height] = [left + (heads + 1) * size + gap + 10, top + layers * size + 74];
  const small = { "font-size": Math.min(12, size), fill: "currentColor", "text-anchor": "middle" };
  const every = Math.ceil(16 / size);
  const drawing = s("svg", { viewBox: `0 0 ${Math.max(width, 330)} ${height}`, width: Math.max(width, 330), role: "group", "aria-label": label });
  const x = (/** @type {number | null} */ head) => left + (head === null ? heads * size + gap : head * size);
  const y = (/** @type {number} */ layer) => top + (layers - 1 - layer) * size;
  for (let layer = 0; layer < layers; layer += every) {
    drawing.append(s("text", { ...small, x: left - 18, y: y(layer) + size / 2 + 4 }, String(layer)));
  }
  for (let head = 0; head < heads; head += every) {
    drawing.append(s("text", { ...small, x: x(head) + size / 2, y: top + layers * size + 14 }, String(head)));
  }
  const middle = top + (layers * size) / 2;
  drawing.append(s("text", { ...small, x: x(null) + size / 2, y: top + layers * size + 14 }, "MLP"),
    s("text", { ...small, x: 12, y: middle, transform: `rotate(-90 12 ${middle})` }, "layer"),
    s("text", { ...small, x: left + (heads * size) / 2, y: top + layers * size + 30 }, "head"));
  const first = squares.some((square) => square.name === chosen) ? chosen : squares[0].name;
  for (const square of squares) {
    const [left0, top0] = [x(square.head), y(square.layer)];
    const colour = square.value === null ? "#c4c4c4" : shade(square.value, most);
    const dark = Math.abs(square.value ?? 0) > 0.55 * most;
    drawing.append(s("a", { href: square.href, "aria-label": square.said, tabindex: square.name === first ? 0 : -1,
      "aria-current": square.name === chosen ? "true" : null, "data-at": `${square.layer} ${square.head ?? heads}` },
    s("rect", { x: left0 + 0.5, y: top0 + 0.5, width: size - 1, height: size - 1, fill: colour,
      stroke: square.name === chosen ? "currentColor" : "#8c8c8c", "stroke-width": square.name === chosen ? 3 : 0.5 }),
    square.dot ? s("circle", { cx: left0 + size / 2, cy: top0 + size / 2, r: Math.max(1.5, size / 9), fill: dark ? "#ffffff" : "#1b1b1b" }) : null,
    s("title", {}, square.said)));
  }
  const base = height - 30;
  for (let at = 0; at < 60; at++) {
    drawing.append(s("rect", { x: left + at * 3, y: base, width: 3.2, height: 10, fill: shade((at - 29.5) / 29.5, 1) }));
  }
  drawing.append(s("text", { ...small, "font-size": 12, x: left, y: base + 23 }, `${nats(-most)} lure`),
    s("text", { ...small, "font-size": 12, x: left + 180, y: base + 23 }, `${nats(most)} answer`));
  drawing.addEventListener("keydown", (event) => {
    const step = /** @type {Record<string, number[]>} */ ({ ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] })[event.key];
    const from = /** @type {Element} */ (event.target).getAttribute("data-at")?.split(" ").map(Number);
    if (!step || !from) return;
    const to = /** @type {SVGAElement | null} */ (drawing.querySelector(`[data-at="${from[0] + step[0]} ${from[1] + step[1]}"]`));
    event.preventDefault();
    to?.focus();
  });
  return drawing;
}
