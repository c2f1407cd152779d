// The page: hears the daemon, keeps what it said, and shows it; says so where it hears nothing.

import { Board, rank } from "./board.js";
import { badge, dress, h, list, say } from "./dom.js";
import { DASH, away, clock, percent, sentence, signed, span } from "./format.js";
import { History } from "./history.js";
import { announce, showIncidents } from "./incidents.js";
import { showLinks } from "./links.js";
import { showAccounts } from "./pools.js";
import { Stream, fetchHistory } from "./stream.js";

const $ = (id) => document.getElementById(id);
const board = new Board();
const history = new History();
let failure = null;
let isDue = false;
let tookMs = 0;

const stream = new Stream({
  onOpen() {
    fetchHistory().then((pools) => history.take(pools)).then(later, () => {}); // without it charts begin now
  },
  onBeat(beat) {
    board.takeBeat(beat);
    later();
  },
  onWhole(whole) {
    board.takeWhole(whole);
    later();
  },
  onChange(change) {
    board.takeChange(change);
    for (const payload of Object.values(change.states)) {
      if (payload?.schema.startsWith("marginwatch.pool/")) history.put(payload, board.now);
    }
    announce($("announcer"), change.events);
    later();
  },
});

const verdict = badge();
$("verdict").append(verdict.root);
say($("zone"), Intl.DateTimeFormat().resolvedOptions().timeZone.replace("_", " "));
setInterval(render, 1000);
addEventListener("error", ({ error }) => fail(error));
addEventListener("unhandledrejection", ({ reason }) => fail(reason));

/** Draw soon: many changes at once are one, and with much to draw it is done less often. */
function later() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => {
    const began = performance.now();
    isDue = false;
    render();
    tookMs = performance.now() - began;
  }, Math.max(50, 4 * tookMs));
}

/** What this page cannot do must not look as if all were well. */
function fail(error) {
  failure = error;
  showAlarms();
}

function render() {
  try {
    showAlarms();
    if (board.beat === null) return;
    for (const pool of board.all("pool")) if (!stream.isSilent) history.put(pool, board.now);
    showHead();
    showGlance();
    showAccounts($("accounts"), board, history);
    showIncidents(board, { open: $("incidents-open"), none: $("incidents-none"), events: $("events"), eventsNone: $("events-none") });
    showLinks($("links-rows"), board);
  } catch (error) {
    fail(error);
    throw error;
  }
}

// ---- what must not be overlooked ----

let brokerAwaySinceMs = null;

function showAlarms() {
  const alarms = [...ownAlarms(), ...(stream.isSilent ? [] : daemonAlarms())];
  list($("alarms"), alarms, ({ head }) => head, makeAlarm);
  document.body.classList.toggle("gone", stream.isSilent || failure !== null);
  for (const parked of $("alarms").querySelectorAll(":scope > .alarm:not([data-kept])")) parked.remove();
  showTitle(alarms);
}

/** What only this page knows. */
function ownAlarms() {
  if (failure !== null) return [{ head: "This page has failed.", severity: "critical", text: `Reload it. (${failure})` }];
  if (!stream.isSilent) return [];
  const why = stream.isRefused ? " It refuses this page: too many pages are open, or its token has changed." : "";
  if (board.beat === null) return [{ head: "No data.", severity: "critical", text: `This page has not heard from marginwatch yet.${why}` }];
  const since = clock(board.beat.at_ms, board.now);
  const text = `Everything below is as of ${since} and may be wrong. Is the daemon running, and the way to it open?${why}`;
  return [{ head: `No word from marginwatch since ${since}.`, severity: "critical", text }];
}

/** What the daemon says of itself. */
function daemonAlarms() {
  const { status, reasons, broker_away_s: awayS } = board.beat;
  const alarms = [];
  const of = reasons.join("; ").replaceAll("_instance ", "");
  if (status === "stuck") alarms.push({ head: "The daemon hangs.", severity: "critical", text: `${of}. Figures do not move.` });
  if (status === "blind") alarms.push({ head: "Blind.", severity: "critical", text: `${of}. Figures may be old, and an incident may not be seen.` });
  if (status === "starting") alarms.push({ head: "Starting.", severity: "warning", text: `${of}.` });
  const stale = board.all("pool").filter((pool) => pool.freshness !== "live");
  if (stale.length && status !== "blind") {
    const named = stale.slice(0, 4).map((pool) => `${pool.account} ${pool.pool}`).join(", ");
    alarms.push({ head: "Stale.", severity: "warning", text: `${named}${stale.length > 4 ? ` and ${stale.length - 4} more` : ""}: the last figures are estimates.` });
  }
  if (awayS < 3) brokerAwaySinceMs = null;
  else brokerAwaySinceMs ??= board.beat.at_ms - awayS * 1000;
  if (brokerAwaySinceMs !== null) {
    alarms.push({ head: "The MQTT broker is away.", severity: "warning", text: `Since ${clock(brokerAwaySinceMs, board.now)} no alert goes out over MQTT; this page goes on.` });
  }
  return alarms;
}

function makeAlarm({ head, severity }) {
  const text = h("span");
  const root = h("p", { class: `alarm ${severity}`, "data-kept": "" }, h("strong", {}, head), " ", text);
  return { root, show: (alarm) => say(text, alarm.text) };
}

function showTitle(alarms) {
  const worst = board.incidents[0]?.severity ?? "ok";
  const nearest = closest();
  let title = nearest === undefined ? "no liquidation price" : `${away(nearest.distance)} to liquidation`;
  if (rank(worst) >= 3) title = `${worst.toUpperCase()} · ${title}`;
  if (alarms.length) title = alarms[0].head.replace(/\.$/, "");
  say(document.querySelector("title"), `${title} · marginwatch`);
  const icon = document.querySelector("link[rel=icon]");
  const wanted = stream.isSilent ? "icon-gone.svg" : alarms.length || rank(worst) >= 3 ? "icon-alarm.svg" : "icon-ok.svg";
  if (icon.getAttribute("href") !== wanted) icon.setAttribute("href", wanted);
}

// ---- at a glance ----

const closest = () =>
  board.all("pool").filter((pool) => pool.distance !== null).sort((a, b) => a.distance - b.distance)[0];

function showHead() {
  const { instance, version, started_at: started } = board.info;
  say($("instance"), instance ?? "");
  say($("version"), version ? `marginwatch ${version}, running since ${clock(Date.parse(started), board.now)}.` : "");
  say($("beat-word"), stream.isSilent ? "as of" : "live");
  say($("beat-time"), clock(stream.isSilent ? board.beat.at_ms : board.now, board.now));
}

function showGlance() {
  const incidents = board.incidents;
  const [first] = incidents;
  const isBlind = board.beat.status !== "ready" || !board.isLive;
  if (stream.isSilent) verdict.show("info", `Unknown since ${clock(board.beat.at_ms, board.now)}`);
  else if (first && rank(first.severity) >= 2) verdict.show(first.severity, sentence(standing(first)));
  else if (isBlind) verdict.show("warning", "Nothing open, but not everything is seen");
  else verdict.show("ok", "Nothing open, every link is live");

  const near = closest();
  const ratios = board.all("pool").filter((pool) => pool.margin_ratio !== null);
  const high = ratios.sort((a, b) => b.margin_ratio - a.margin_ratio)[0];
  const at = near?.closest;
  const note = (found, none) => (board.isComplete ? (found ?? none) : [found, "not everything is known"].filter(Boolean).join("; "));
  const figures = [
    {
      name: "Nearest to liquidation",
      value: near ? away(near.distance) : DASH,
      severity: near ? worse(board.severityOfDistance(near.distance), near.severity) : "ok",
      note: note(near && [at && `${at.symbol} ${at.side}`, near.account, near.pool].filter(Boolean).join(" · "), "no position has a liquidation price"),
    },
    {
      name: "Highest margin ratio",
      value: high ? percent(high.margin_ratio) : DASH,
      severity: high ? high.severity : "ok",
      note: note(high && `${high.account} · ${high.pool}`, "no open positions"),
    },
    {
      name: "Open incidents",
      value: String(incidents.length),
      severity: first?.severity ?? "ok",
      note: tally(incidents),
    },
    funding(),
  ];
  list($("figures"), figures, ({ name }) => name, makeTile);
}

/** An incident in one line: of a pool as it stands now, else as it was told. */
function standing(incident) {
  const isMeasured = ["margin_ratio", "liquidation_distance"].includes(incident.rule);
  const pool = board.all("pool").find((pool) => pool.account === incident.account && pool.pool === incident.subject);
  if (!isMeasured || !pool || pool.distance === null) return incident.title;
  return `${pool.account} ${pool.pool}: ${away(pool.distance)} from liquidation, margin ratio ${percent(pool.margin_ratio)}`;
}

const worse = (a, b) => (rank(a) > rank(b) ? a : b);

function tally(incidents) {
  const counts = new Map();
  for (const { severity } of incidents) counts.set(severity, (counts.get(severity) ?? 0) + 1);
  return [...counts].map(([severity, count]) => `${count} ${severity}`).join(", ") || "none";
}

function funding() {
  const due = board.all("pool").filter((pool) => pool.forecast.next_funding_at !== null);
  const next = due.map((pool) => pool.forecast.next_funding_at).sort()[0];
  if (next === undefined) return { name: "Next funding", value: DASH, severity: "ok", note: "none" };
  const sums = new Map();
  for (const { forecast, asset } of due) {
    if (forecast.next_funding_at === next && forecast.payment !== null) {
      sums.set(asset, (sums.get(asset) ?? 0) + Number(forecast.payment));
    }
  }
  const note = [...sums].map(([asset, sum]) => `${signed(sum)} ${asset}`).join(", ");
  const left = Date.parse(next) - board.now;
  return { name: "Next funding", value: left > 0 ? span(left) : "now", severity: "ok", note };
}

function makeTile({ name }) {
  const value = h("dd", { class: "value" });
  const note = h("dd", { class: "note" });
  const root = h("div", { class: "tile" }, h("dt", {}, name), value, note);
  return {
    root,
    show(figure) {
      say(value, figure.value);
      say(note, figure.note);
      dress(root, "severity", figure.severity);
    },
  };
}
