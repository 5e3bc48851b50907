// @ts-check
// Reads what explorer_data.py packed, and answers what the views ask of it.

/** @typedef {{at: number, n: number, kind: "int16" | "uint8", step: number}} Packed */
/** @typedef {{name: string, layer: number, kind: string, head: number | null, effect?: number | null,
 *   effect_lo?: number | null, effect_hi?: number | null, direct_effect?: number | null,
 *   write_conflict?: number | null, write_plain?: number | null, q?: number | null, significant?: boolean}} Site */
/** @typedef {Record<string, string | number | boolean | null>} Row */
/** A piece of a prompt: its text, its role, its place among the weights (-1: none), and 1 if it is a token that stands for
 * none of the prompt's characters. @typedef {[text: string, role: string, place: number, outside?: number]} Piece */
/** The pieces in order, and the role of each place. @typedef {{pieces: Piece[], roles: string[], at: number}} CutPrompt */
/** @typedef {{model: string, label: string, n_params: number, replacement: string,
 *   margins: Record<string, (number | null)[]>, right: Record<string, (boolean | null)[]>, sites: Site[],
 *   sample: number[], values: Record<string, Packed>,
 *   lens: {places: {layer: number, sublayer: string, depth: number}[], sides: Record<string, Packed>} | null,
 *   attention: {heads: string[], roles: string[], sides: Record<string, Packed>, mean: Record<string, Packed>} | null,
 *   tokens: {pairs: number[], of: number, heads: string[], sides: Record<string, {prompts: CutPrompt[], weights: Packed}>} | null,
 *   verification: Row[], restoration: Row[], saved: string[],
 *   restored: {kind: string, split: string, pairs: number[], margins: Record<string, [number, number][]>}[]}} Size */
/** @typedef {{id: string, factor: string,
 *   prompts: Record<string, {pieces: [string, string][], right: string, wrong: string}>}} Pair */
/** @typedef {{task: string, pairs: Pair[], curve: any[], shares: any[], sizes: Size[]}} Task */
/** @typedef {(array: Packed | null | undefined, index: number) => number | null} Read */

/**
 * The tasks that were packed, and the function that reads one value of an array (null where it is missing).
 * @param {string} text @returns {Promise<{tasks: Task[], read: Read}>}
 */
export async function unpack(text) {
  const letters = atob(text.trim());
  const bytes = new Uint8Array(letters.length);
  for (let at = 0; at < letters.length; at++) bytes[at] = letters.charCodeAt(at);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const view = new DataView(await new Response(stream).arrayBuffer());
  const start = 4 + view.getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(view.buffer, 4, start - 4)));
  return {
    tasks: head.tasks,
    read: (array, index) => {
      if (!array || index < 0 || index >= array.n) return null;
      const small = array.kind === "uint8";
      const whole = small ? view.getUint8(start + array.at + index) : view.getInt16(start + array.at + 2 * index, true);
      return whole === (small ? 255 : -32768) ? null : whole * array.step;
    },
  };
}

/** What a pair is in one size: follows, overridden, contrary or lost; unknown where a side is missing. */
export function caseOf(/** @type {Size} */ size, /** @type {number} */ pair) {
  const conflict = size.right.conflict?.[pair] ?? null;
  const plain = size.right.plain?.[pair] ?? null;
  if (conflict === null || plain === null) return "unknown";
  if (conflict) return plain ? "follows" : "contrary";
  return plain ? "overridden" : "lost";
}

/** How a pair's conflict side went from the next smaller size to this one: gained, lost, kept, missed. */
export function stepOf(/** @type {Size | undefined} */ smaller, /** @type {Size} */ size, /** @type {number} */ pair) {
  const before = smaller?.right.conflict?.[pair] ?? null;
  const after = size.right.conflict?.[pair] ?? null;
  if (before === null || after === null) return "unknown";
  return after ? (before ? "kept" : "gained") : before ? "lost" : "missed";
}

/** What a pair has at the site of this place: its total or direct effect, or what the site writes on the conflict or the
 * plain prompt; null where it is not known. */
export function effectOf(/** @type {Read} */ read, /** @type {Size} */ size, /** @type {number} */ pair,
  /** @type {number} */ site, /** @type {string} */ by) {
  const row = size.sample.indexOf(pair);
  if (row < 0 || site < 0) return null;
  return read(size.values[by], row * size.sites.length + site);
}

/** The places of the heads that are looked at: of one head, of a layer ("a3"), or of all (""). @param {string[]} heads
 * @param {string} look */
function chosenHeads(heads, look) {
  return heads.flatMap((name, at) => (!look || name === look || name.startsWith(`${look}.`) ? [at] : []));
}

/** How much the last position attends to each role: of one head, or the mean over a layer's or all; null where it is not
 * known. */
export function attentionOf(/** @type {Read} */ read, /** @type {Size} */ size, /** @type {number | null} */ pair,
  /** @type {string} */ look, /** @type {string} */ side) {
  const given = size.attention;
  const row = pair === null ? 0 : size.sample.indexOf(pair);
  const array = pair === null ? given?.mean[side] : given?.sides[side];
  if (!given || !array || row < 0) return null;
  const heads = chosenHeads(given.heads, look);
  /** @type {Map<string, number>} */
  const shares = new Map();
  given.roles.forEach((role, place) => {
    const known = heads.map((each) => read(array, (row * given.heads.length + each) * given.roles.length + place))
      .filter((value) => value !== null);
    if (known.length) shares.set(role, known.reduce((sum, value) => sum + value, 0) / known.length);
  });
  return shares;
}

/** A pair's prompt in pieces; of each place its text, its role, and how much the last position attends to it: of one head, or
 * the mean over a layer's or all. Null where it is not known. */
export function tokensOf(/** @type {Read} */ read, /** @type {Size} */ size, /** @type {number} */ pair,
  /** @type {string} */ look, /** @type {string} */ side) {
  const of = size.tokens?.sides[side];
  const cut = of?.prompts[size.tokens?.pairs.indexOf(pair) ?? -1];
  if (!size.tokens || !of || !cut) return null;
  const heads = chosenHeads(size.tokens.heads, look);
  const n = cut.roles.length;
  const shares = cut.roles.map((_, place) => heads.reduce((sum, head) => sum + (read(of.weights, cut.at + head * n + place) ?? 0), 0) / Math.max(heads.length, 1));
  const texts = cut.roles.map(() => "");
  for (const [text, , place] of cut.pieces) if (place >= 0) texts[place] += text; // a role may begin within a token
  return { pieces: cut.pieces, texts, roles: cut.roles, shares };
}

/** What interventions do to a pair that did not choose them: by kind, the margins of each side without and with it.
 * @param {Size} size @param {number} pair */
export function restoredOf(size, pair) {
  return size.restored.flatMap(({ kind, split, pairs, margins }) => {
    const at = pairs.indexOf(pair);
    const row = size.restoration.find((each) => each.kind === kind && each.split === split);
    return at < 0 ? [] : [{ kind, intervention: String(row?.intervention ?? ""), words: String(row?.words ?? ""), saved: size.saved.includes(kind),
      margins: Object.fromEntries(Object.entries(margins).map(([side, of]) => [side, of[at]])) }];
  });
}

/** A pair's lens margins on one side, from the embedding to the output: [depth, margin]. */
export function lensOf(/** @type {Read} */ read, /** @type {Size} */ size, /** @type {number} */ pair,
  /** @type {string} */ side) {
  const row = size.sample.indexOf(pair);
  if (!size.lens || row < 0) return [];
  const places = size.lens.places;
  return places.map((place, at) => ({ ...place, margin: read(size.lens?.sides[side], row * places.length + at) }))
    .filter((place) => place.margin !== null);
}
