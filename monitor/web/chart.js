// The margin ratio of a pool over the last hours: a band from the lowest to the highest of each moment.

import { dress, h, list, say, show, svg } from "./dom.js";
import { clock, level, percent, span } from "./format.js";

const SPANS_MS = [5, 15, 60, 120, 240].map((minutes) => minutes * 60000);
const COLUMNS = 240;
const TOPS = [0.1, 0.25, 0.5, 0.8, 1, 1.5];
const LABEL_HEIGHT = 18; // of the chart, in percent
const HEADROOM = 1.1;

export function chart() {
  const band = svg("path", { class: "band" });
  const line = svg("path", { class: "line", "vector-effect": "non-scaling-stroke" });
  const blind = svg("path", { class: "blind" });
  const drawing = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" }, blind, band, line);
  const lines = h("div", { class: "lines" });
  const cursor = h("div", { class: "cursor" });
  const readout = h("span", { class: "readout" });
  const plot = h("div", { class: "plot", role: "img" }, drawing, lines, cursor);
  const from = h("span");
  const root = h("div", { class: "chart" }, plot, h("div", { class: "axis" }, from, readout, h("span", {}, "now")));
  let drawn = { columns: [], startMs: 0, stepMs: 1 };
  cursor.hidden = true;

  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const part = Math.min(0.999, Math.max(0, (event.clientX - box.left) / box.width));
    const at = Math.floor(part * COLUMNS);
    const [low, high] = drawn.columns[at] ?? [null, null];
    const said = low === null ? "not known" : percent(low) === percent(high) ? percent(high) : `${percent(low)} to ${percent(high)}`;
    say(readout, `${clock(drawn.startMs + at * drawn.stepMs)}  ${said}`);
    cursor.style.left = `${part * 100}%`;
    cursor.hidden = false;
  });
  plot.addEventListener("pointerleave", () => {
    say(readout, "");
    cursor.hidden = true;
  });

  return {
    root,
    show({ series, nowMs, levels, severity }) {
      const known = series !== undefined && series.high.some((ratio) => ratio !== null);
      show(root, known);
      if (!known) return;
      const spanMs = SPANS_MS.find((ms) => nowMs - series.fromMs <= ms) ?? SPANS_MS.at(-1);
      const columns = condensed(series, nowMs - spanMs, spanMs);
      drawn = { columns, startMs: nowMs - spanMs, stepMs: spanMs / COLUMNS };
      const highest = Math.max(...columns.map(([, high]) => high ?? 0));
      const lowest = Math.min(...columns.map(([low]) => low ?? Infinity));
      const top = TOPS.find((limit) => highest <= limit / HEADROOM) ?? TOPS.at(-1);
      const y = (ratio) => (100 - (Math.min(ratio, top * HEADROOM) / (top * HEADROOM)) * 100).toFixed(2);
      const paths = traced(columns, y);
      line.setAttribute("d", paths.line);
      band.setAttribute("d", paths.band);
      blind.setAttribute("d", paths.blind);
      dress(root, "severity", severity);
      const shown = levels.filter((step) => step.at <= top);
      const marks = shown.length ? shown : [{ at: top, severity: "ok" }];
      list(lines, marks, (step) => step.at, levelLine);
      placed([...lines.children], y);
      say(from, `${span(spanMs)} ago`);
      const now = series.high.at(-1);
      const range = `between ${percent(lowest)} and ${percent(highest)}`;
      const label = `Margin ratio in the last ${span(spanMs)}: ${range}, now ${now === null ? "not known" : percent(now)}`;
      if (plot.getAttribute("aria-label") !== label) plot.setAttribute("aria-label", label);
    },
  };
}

const levelLine = (step) => {
  const root = h("div", { class: "level", "data-at": step.at, "data-severity": step.severity }, h("span", {}, level(step.at)));
  return { root, show() {} };
};

/** Put each level where it is; of two whose words would overlap the higher is named. */
function placed(marks, y) {
  let free = -Infinity;
  for (const mark of marks.sort((a, b) => b.dataset.at - a.dataset.at)) {
    const top = Number(y(Number(mark.dataset.at)));
    mark.style.top = `${top}%`;
    mark.classList.toggle("unnamed", top < free);
    if (top >= free) free = top + LABEL_HEIGHT;
  }
}

/** Lowest and highest of each column; nulls where nothing is known. */
function condensed({ fromMs, stepMs, low, high }, startMs, spanMs) {
  const columns = [];
  for (let column = 0; column < COLUMNS; column++) {
    const begin = startMs + (column * spanMs) / COLUMNS;
    const end = begin + spanMs / COLUMNS;
    let least = null;
    let most = null;
    const first = Math.max(0, Math.floor((begin - fromMs) / stepMs));
    const last = Math.min(low.length - 1, Math.ceil((end - fromMs) / stepMs) - 1);
    for (let slot = first; slot <= last; slot++) {
      if (high[slot] === null) continue;
      least = least === null ? low[slot] : Math.min(least, low[slot]);
      most = most === null ? high[slot] : Math.max(most, high[slot]);
    }
    columns.push([least, most]);
  }
  return columns;
}

/** Paths through the columns: a line along the highest, the band below it, and where it is blind in between. */
function traced(columns, y) {
  const x = (column) => ((column / (COLUMNS - 1)) * 100).toFixed(2);
  let line = "";
  let band = "";
  let blind = "";
  const begun = columns.findIndex(([, high]) => high !== null);
  for (let start = begun; start < COLUMNS; ) {
    const isKnown = columns[start][1] !== null;
    let end = start;
    while (end + 1 < COLUMNS && (columns[end + 1][1] !== null) === isKnown) end++;
    if (isKnown) {
      const run = columns.slice(start, end + 1).map((column, i) => [x(start + i), ...column]);
      const upper = run.map(([at, , high]) => `${at} ${y(high)}`);
      const lower = run.map(([at, low]) => `${at} ${y(low)}`).reverse();
      line += `M${upper.join("L")}${upper.length === 1 ? "h.3" : ""}`;
      band += `M${upper.join("L")}L${x(end)} 100L${x(start)} 100Z`;
      if (run.some(([, low, high]) => low !== high)) band += `M${upper.join("L")}L${lower.join("L")}Z`;
    } else {
      blind += `M${x(start)} 0H${x(end)}V100H${x(start)}Z`;
    }
    start = end + 1;
  }
  return { line, band, blind };
}
