// @ts-check
// The page's own script: from the address to a view, and from what is clicked and chosen to the address.

import { unpack } from "./explorer_data.js";
import { h } from "./explorer_draw.js";
import { pairView } from "./explorer_pair.js";
import { choice, hash, overview, siteView, sizeView } from "./explorer_views.js";

/** @typedef {import("./explorer_views.js").Address} Address */

const KEYS = ["task", "size", "site", "pair", "by", "look", "q", "case", "step", "role", "all"];
const OF_LIST = { q: "", case: "", step: "", role: "", all: "" };

/** @returns {Address} */
function address() {
  const given = new URLSearchParams(location.hash.slice(1));
  return Object.fromEntries(KEYS.map((key) => [key, given.get(key) ?? ""]));
}

/** Only the part behind # is set, so that it works in a frame without an address of its own, too. */
function go(/** @type {Address} */ parts) {
  location.hash = hash(parts);
}

async function start() {
  const root = document.getElementById("explorer");
  const { tasks, read } = await unpack(document.getElementById("explorer-data")?.textContent ?? "");
  if (!root || !tasks.length) return;
  const body = h("div", {});
  const status = h("p", { class: "small", "aria-live": "polite" });
  let seen = "";

  /** What is wider than the page is scrolled by keys, too. */
  function reach() {
    for (const wide of body.querySelectorAll(".wide")) {
      if (wide.scrollWidth > wide.clientWidth) wide.setAttribute("tabindex", "0");
      else wide.removeAttribute("tabindex");
    }
  }

  function show() {
    const at = address();
    const task = tasks.find((each) => each.task === at.task) ?? tasks[0];
    const wanted = at.size.toLowerCase();
    const place = task.sizes.findIndex((each) => [each.model, each.label].some((name) => name.toLowerCase() === wanted || name.toLowerCase().endsWith(`-${wanted}`)));
    const size = task.sizes[wanted ? place : -1];
    const siteAt = size ? size.sites.findIndex((each) => each.name === at.site) : -1;
    const byId = task.pairs.findIndex((each) => each.id === at.pair);
    const pair = /^\d+$/.test(at.pair) && Number(at.pair) < task.pairs.length ? Number(at.pair) : byId;
    const asked = { task, read, size, smaller: task.sizes[place - 1], site: size?.sites[siteAt], siteAt, pair, address: at };
    const unknown = [at.size && !size && `size ${at.size}`, size && at.site && siteAt < 0 && !size.attention?.heads.includes(at.site) && `site ${at.site}`,
      at.pair && (pair < 0 || !size) && `pair ${at.pair}`].filter(Boolean);
    const view = !size ? overview(asked) : pair >= 0 ? pairView(asked) : asked.site ? siteView(asked) : sizeView(asked);
    const focused = document.activeElement?.id ?? "";
    const place0 = document.activeElement?.closest("svg") ? document.activeElement.getAttribute("data-at") : null;
    body.replaceChildren(...view.filter((part) => part !== null));
    reach();
    const trail = [[task.task, {}], ...(size ? [[size.label, { size: at.size }]] : []), ...(size && asked.site ? [[at.site, { size: at.size, site: at.site }]] : []),
      ...(size && pair >= 0 ? [[`pair ${pair}`, { size: at.size, site: at.site, pair: at.pair }]] : [])];
    const list = { q: at.q, case: at.case, step: at.step, role: at.role };
    nav.replaceChildren(
      h("ol", {}, trail.map(([text, parts], i) => h("li", {}, h("a", { href: hash({ ...list, task: at.task && tasks.length > 1 ? at.task : "", .../** @type {Address} */ (parts) }), "aria-current": i === trail.length - 1 ? "page" : null }, String(text))))),
      tasks.length > 1 ? choice("task", "Task", tasks.map((each) => [each.task, each.task]), task.task) : "",
      choice("size", "Size", [["", "all sizes"], ...task.sizes.map((each) => [each.model, each.label])], size?.model ?? ""));
    status.textContent = unknown.length ? `The page has no ${unknown.join(", no ")}.` : "";
    const now = [at.task, at.size, at.site, at.pair].join("\n");
    const again = focused.startsWith("ask-") && focused !== "ask-heading" ? document.getElementById(focused) : null;
    const square = place0 ? body.querySelector(`[data-at="${place0}"]`) : null;
    if (seen && again) again.focus({ preventScroll: true });
    else if (seen && seen === now && square instanceof SVGElement) square.focus();
    else if (seen && seen !== now) {
      document.getElementById("ask-heading")?.focus({ preventScroll: true });
      if ((root?.getBoundingClientRect().top ?? 0) < 0) root?.scrollIntoView();
    } else if (!seen && location.hash.length > 1) root?.scrollIntoView();
    seen = now;
  }

  const nav = h("nav", { "aria-label": "Where you are" });
  root.append(h("h2", {}, "Ask the page"),
    h("p", { class: "small" }, "From the curve to a size, to a head or MLP, to the pairs it moves, to one pair. Every view has its own address. Effects and lens margins of single pairs are kept to a 32767th of the largest of their size, shares of attention to 0.2 %."),
    nav, status, body);
  root.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest("a[href^='#']") : null;
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    event.preventDefault();
    const parts = new URLSearchParams((link.getAttribute("href") ?? "").slice(1));
    go({ ...Object.fromEntries(parts) });
  });
  root.addEventListener("change", (event) => {
    const input = /** @type {HTMLInputElement} */ (event.target);
    const key = input.dataset.key;
    if (!key) return;
    const { [key]: _, ...others } = address();
    /** @type {Address} */
    const more = key === "task" ? { size: "", site: "", pair: "", ...OF_LIST } : key === "size" ? { site: "", step: "" } : {};
    go({ ...others, ...more, [key]: input.value });
  });
  window.addEventListener("hashchange", show);
  window.addEventListener("resize", reach);
  show();
  root.hidden = false;
  reach(); // what is hidden has no width
  if (location.hash.length > 1) root.scrollIntoView();
}

start();
