// Margin pools and their positions: how near each is to liquidation.

import { rank } from "./board.js";
import { chart } from "./chart.js";
import { badge, dress, h, list, say, show } from "./dom.js";
import { DASH, amount, away, clock, percent, price, quantity, signed, span, words } from "./format.js";

const POOLS_SHOWN = 40;
const POSITIONS_SHOWN = 8;

/** All accounts, each with its pools. */
export function showAccounts(parent, board, history) {
  const pools = board.pools;
  const drawn = pools.slice(0, POOLS_SHOWN);
  const positions = grouped(board.all("position"));
  const summaries = new Map(board.all("summary").map((summary) => [summary.account, summary]));
  const accounts = board.info.accounts.map(({ account, venue }) => ({
    account,
    venue,
    summary: summaries.get(account),
    pools: drawn.filter((pool) => pool.account === account),
    hidden: pools.slice(POOLS_SHOWN).filter((pool) => pool.account === account),
    positions,
    board,
    history,
  }));
  const worst = (item) => Math.max(0, ...item.pools.map((pool) => rank(pool.severity)));
  accounts.sort((a, b) => worst(b) - worst(a));
  list(parent, accounts, (item) => item.account, makeAccount);
}

const poolOf = ({ account, pool }) => `${account}/${pool}`;

function grouped(positions) {
  const groups = new Map();
  for (const position of positions) {
    const key = poolOf(position);
    groups.set(key, [...(groups.get(key) ?? []), position]);
  }
  return groups;
}

function makeAccount({ account, venue }) {
  const state = badge();
  const facts = h("p", { class: "facts" });
  const pools = h("div", { class: "pools" });
  const none = h("p", { class: "none" });
  const id = `account-${account}`;
  const title = h("h3", { id }, account);
  const root = h(
    "section",
    { class: "account", "aria-labelledby": id },
    h("header", {}, title, state.root, h("p", { class: "venue" }, venue), facts),
    pools,
    none,
  );
  return {
    root,
    show({ summary, pools: drawn, hidden, positions, board, history }) {
      const isStale = summary?.freshness === "stale";
      state.show(isStale ? "warning" : (summary?.severity ?? "info"), stateWord(summary, isStale));
      say(facts, factsOf(summary));
      list(pools, drawn.map((pool) => ({ pool, positions: positions.get(poolOf(pool)) ?? [], summary, board, history })), ({ pool }) => pool.pool, makePool);
      say(none, restOf(drawn, hidden, summary));
      show(none, none.textContent !== "");
    },
  };
}

function stateWord(summary, isStale) {
  if (summary === undefined) return "not heard of yet";
  if (isStale) return "data is stale";
  return summary.severity === "ok" ? "nothing open" : summary.severity;
}

function factsOf(summary) {
  if (summary === undefined || summary.open_positions === null) return "";
  const pnl = Object.entries(summary.unrealized_pnl).map(([asset, value]) => `${signed(value)} ${asset}`);
  const count = summary.open_positions === 1 ? "1 position" : `${summary.open_positions} positions`;
  return [count, ...(pnl.length ? [`unrealized ${pnl.join(", ")}`] : [])].join(" · ");
}

function restOf(drawn, hidden, summary) {
  if (hidden.length) {
    const ratios = hidden.map((pool) => pool.margin_ratio);
    const worst = ratios.includes(null) ? "not all of them known" : `the worst of them at ${percent(Math.max(...ratios))}`;
    return `${hidden.length} more margin pools, ${worst}.`;
  }
  if (drawn.length) return "";
  if (summary === undefined || summary.open_positions === null) return "Positions are not known yet.";
  return "No open positions.";
}

// ---- a pool ----

function makePool() {
  const state = badge();
  const title = h("h4");
  const distance = figure("from liquidation");
  const ratio = figure("margin ratio");
  const bar = gauge();
  const picture = chart();
  const money = h("dl", { class: "money" });
  const rows = h("tbody", { role: "rowgroup" });
  const more = h("button", { type: "button", class: "more" });
  let isOpen = false;
  const table = h("table", { role: "table", class: "positions" }, header(), rows);
  const root = h(
    "article",
    { class: "pool" },
    h("header", {}, title, state.root),
    h("div", { class: "risk" }, h("div", { class: "numbers" }, distance.root, ratio.root, bar.root), picture.root),
    money,
    table,
    more,
  );
  let last;
  more.addEventListener("click", () => {
    isOpen = !isOpen;
    view.show(last);
  });
  const view = {
    root,
    show(item) {
      last = item;
      const { pool, positions, summary, board, history } = item;
      const isStale = pool.freshness !== "live";
      dress(root, "severity", pool.severity);
      dress(root, "freshness", pool.freshness);
      say(title, pool.pool);
      state.show(isStale ? "warning" : pool.severity, poolWord(pool, isStale, summary, board.now));
      distance.show(pool.bankrupt ? "past it" : away(pool.distance), board.severityOfDistance(pool.distance));
      ratio.show(percent(pool.margin_ratio), pool.severity);
      bar.show(pool.margin_ratio, board.levels.margin_ratio, pool.severity);
      picture.show({
        series: history.of(pool),
        nowMs: board.now,
        levels: board.levels.margin_ratio,
        severity: pool.severity,
      });
      list(money, moneyOf(pool, board), ([name]) => name, makeFact);
      const sorted = [...positions].sort((a, b) => (a.distance ?? 9) - (b.distance ?? 9) || (a.symbol < b.symbol ? -1 : 1));
      const shown = isOpen ? sorted : sorted.slice(0, POSITIONS_SHOWN);
      list(rows, shown.map((position) => ({ position, board })), ({ position: p }) => `${p.symbol} ${p.side}`, makeRow);
      show(more, sorted.length > POSITIONS_SHOWN);
      say(more, isOpen ? `Show the nearest ${POSITIONS_SHOWN}` : `Show all ${sorted.length} positions`);
      more.setAttribute("aria-expanded", String(isOpen));
    },
  };
  return view;
}

function poolWord(pool, isStale, summary, nowMs) {
  if (isStale) return summary === undefined ? "stale" : `stale, as of ${clock(trueAt(summary), nowMs)}`;
  if (pool.margin_ratio === null) return words(pool.reason ?? "unknown");
  return pool.severity === "ok" ? "ok" : pool.severity;
}

/** When the oldest of what an account's figures are made of was true (Unix ms): they are reckoned anew all the time. */
const trueAt = (summary) => Date.parse(summary.as_of) - Math.max(summary.mark_age_ms ?? 0, summary.account_age_ms ?? 0);

function figure(label) {
  const value = h("strong");
  const root = h("p", { class: "figure" }, value, " ", h("span", {}, label));
  return {
    root,
    show(text, severity) {
      say(value, text);
      dress(root, "severity", severity);
    },
  };
}

/** A margin ratio against its levels, up to liquidation. */
function gauge() {
  const zones = h("div", { class: "zones" });
  const fill = h("div", { class: "fill" });
  const root = h("div", { class: "gauge", role: "meter", "aria-label": "Margin ratio", "aria-valuemin": 0, "aria-valuemax": 100 }, zones, fill);
  const scale = h("div", { class: "scale", "aria-hidden": "true" });
  return {
    root: h("div", { class: "gauge-box" }, root, scale),
    show(ratio, levels, severity) {
      const steps = levels.filter((step) => step.at <= 1);
      list(zones, steps, (step) => step.at, makeZone);
      list(scale, steps, (step) => step.at, makeTick);
      fill.style.width = `${Math.min(1, ratio ?? 0) * 100}%`;
      dress(root, "severity", severity);
      root.setAttribute("aria-valuenow", Math.min(100, (ratio ?? 0) * 100).toFixed(1));
      root.setAttribute("aria-valuetext", ratio === null ? "not known" : percent(ratio));
    },
  };
}

function makeZone(step) {
  const root = h("div", { class: "zone", "data-severity": step.severity });
  root.style.left = `${step.at * 100}%`;
  return { root, show() {} };
}

function makeTick(step) {
  const root = h("span", {}, String(Number((step.at * 100).toFixed(1))));
  root.style.left = `${step.at * 100}%`;
  return { root, show() {} };
}

function moneyOf(pool, board) {
  const { next_funding_at: at, payment, margin_ratio_after: after } = pool.forecast;
  const facts = [
    ["margin balance", `${amount(pool.margin_balance)} ${pool.asset}`],
    ["maintenance", `${amount(pool.maintenance_margin)} ${pool.asset}`],
    ["unrealized", `${signed(pool.unrealized_pnl)} ${pool.asset}`],
  ];
  const { down, up } = pool.market_distance;
  const market = [down !== null ? `−${away(down)}` : "", up !== null && up <= 1 ? `+${away(up)}` : ""].filter(Boolean);
  if (market.length) facts.push(["liquidated if all marks move", market.join(" or ")]);
  if (at !== null) {
    const left = Date.parse(at) - board.now;
    const effect = after === null ? "" : ` → ratio ${percent(after)}`;
    facts.push([`funding in ${left > 0 ? span(left) : "a moment"}`, `${signed(payment)} ${pool.asset}${effect}`]);
  }
  return facts.map(([name, value]) => [name.startsWith("funding") ? "funding" : name, name, value]);
}

function makeFact() {
  const name = h("dt");
  const value = h("dd");
  return {
    root: h("div", {}, name, value),
    show([, label, text]) {
      say(name, label);
      say(value, text);
    },
  };
}

// ---- a position ----

const COLUMNS = ["Position", "Liquidation, mark, entry", "Distance", "Mark", "Unrealized", "Next funding"];

function header() {
  const cells = COLUMNS.map((name) => h("th", { role: "columnheader", scope: "col" }, name));
  cells[1].replaceChildren(legend());
  return h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...cells));
}

const legend = () =>
  h("span", { class: "legend" }, h("i", { class: "edge" }), "liquidation", h("i", { class: "mark" }), "mark", h("i", { class: "entry" }), "entry");

function makeRow() {
  const symbol = h("b");
  const side = h("span", { class: "side" });
  const held = h("small");
  const bar = liquidationBar();
  const cells = [2, 3, 4, 5].map((i) => h("td", { role: "cell", "data-label": COLUMNS[i] }));
  const [distance, mark, pnl, funding] = cells;
  const rate = h("small");
  const payment = h("span");
  funding.append(payment, " ", rate);
  const root = h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, symbol, " ", side, h("br"), held),
    h("td", { role: "cell", class: "bar" }, bar.root),
    ...cells,
  );
  return {
    root,
    show({ position: p, board }) {
      const severity = board.severityOfDistance(p.distance);
      say(symbol, p.symbol);
      say(side, p.side);
      dress(side, "side", p.side);
      const unit = p.quantity_unit === "contract" ? "contracts" : p.quantity_unit;
      say(held, `${quantity(p.quantity)} ${unit} at ${price(p.entry_price)}`);
      bar.show(p, severity);
      say(distance, away(p.distance));
      dress(distance, "severity", severity);
      say(mark, price(p.mark_price));
      say(pnl, `${signed(p.unrealized_pnl)} ${p.asset}`);
      say(payment, p.funding.payment === null ? DASH : `${signed(p.funding.payment)} ${p.asset}`);
      say(rate, p.funding.rate === null ? "" : `${(p.funding.rate * 100).toFixed(4).replace("-", "−")} %`);
      dress(root, "freshness", p.freshness);
    },
  };
}

const REASONS = {
  safe_at_every_price: "no price liquidates it",
  liquidated_at_every_price: "past liquidation at every price",
};

/** Where the mark stands between liquidation (on one side, or on both) and entry. */
function liquidationBar() {
  const cushion = h("i", { class: "cushion" });
  const below = h("i", { class: "edge" });
  const above = h("i", { class: "edge" });
  const entry = h("i", { class: "entry" });
  const mark = h("i", { class: "mark" });
  const track = h("div", { class: "track", "aria-hidden": "true" }, cushion, below, above, entry, mark);
  const low = h("span");
  const high = h("span");
  const ends = h("div", { class: "ends" }, low, high);
  return {
    root: h("div", { class: "liquidation" }, track, ends),
    show(p, severity) {
      const { reason } = p.liquidation;
      const [min, max] = [p.liquidation.below, p.liquidation.above].map((at) => (at === null ? null : Number(at)));
      const has = (min !== null || max !== null) && p.mark_price !== null;
      show(track, has);
      dress(track, "severity", severity);
      say(low, has ? (min === null ? "" : price(p.liquidation.below)) : (REASONS[reason] ?? words(reason ?? "not known")));
      say(high, has && max !== null ? price(p.liquidation.above) : "");
      if (!has) return;
      const [at, from] = [Number(p.mark_price), Number(p.entry_price)];
      const points = [min, max, at, from].filter((value) => value !== null);
      const [least, most] = [Math.min(...points), Math.max(...points)];
      const width = most - least || 1;
      const place = (value) => 2 + ((value - least) / width) * 96;
      put(below, min === null ? null : place(min));
      put(above, max === null ? null : place(max));
      put(entry, place(from));
      put(mark, place(at));
      const nearer = max === null || (min !== null && at - min <= max - at) ? min : max;
      cushion.style.left = `${Math.min(place(nearer), place(at))}%`;
      cushion.style.width = `${Math.abs(place(nearer) - place(at))}%`;
    },
  };
}

function put(element, place) {
  element.hidden = place === null;
  if (place !== null) element.style.left = `${place}%`;
}
