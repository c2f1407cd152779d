// Elements are made once and then only changed; data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** An element with these attributes and children (elements or text). */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Change a text, but only if it is another: screen readers and layout are left in peace. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Give an element the one class of this group that holds now. */
export function dress(element, group, word) {
  if (element.dataset[group] !== word) element.dataset[group] = word;
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

/** Let a parent have one child per item, in this order. `make(item)` gives `{root, show(item)}`. */
export function list(parent, items, keyOf, make) {
  const views = (parent.views ??= new Map());
  const keys = new Set(items.map(keyOf));
  for (const [key, view] of views) {
    if (!keys.has(key)) {
      view.root.remove();
      views.delete(key);
    }
  }
  let next = parent.firstElementChild;
  for (const item of items) {
    const key = keyOf(item);
    let view = views.get(key);
    if (view === undefined) views.set(key, (view = make(item)));
    view.show(item);
    if (view.root === next) next = next.nextElementSibling;
    else parent.insertBefore(view.root, next);
  }
}

const RING = "M8 1.5a6.5 6.5 0 1 0 .01 0";
const PATHS = {
  ok: "M3 8.5 6.5 12 13 4.5",
  info: `${RING}M8 7.5v3.7M8 4.8v.2`,
  notice: `${RING}M8 4.6v4M8 11v.2`,
  warning: "M8 2 15 14H1ZM8 6.5v3.5M8 12v.2",
  critical: "M5 1.5h6L14.5 5v6L11 14.5H5L1.5 11V5ZM8 4.5v4.5M8 11.3v.2",
  liquidation: "M5 1.5h6L14.5 5v6L11 14.5H5L1.5 11V5ZM5.5 5.5l5 5M10.5 5.5l-5 5",
};

/** The sign of a severity; the word stands beside it, always. */
export function icon() {
  const path = svg("path", { d: PATHS.ok });
  const root = svg("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, path);
  return { root, show: (severity) => path.setAttribute("d", PATHS[severity] ?? PATHS.info) };
}

/** A severity as sign and word. */
export function badge() {
  const sign = icon();
  const word = h("span");
  const root = h("span", { class: "badge" }, sign.root, word);
  return {
    root,
    show(severity, text = severity) {
      if (root.dataset.severity === severity && word.textContent === text) return;
      root.dataset.severity = severity;
      sign.show(severity);
      say(word, text);
    },
  };
}
