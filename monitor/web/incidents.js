// What is wrong, and what has happened.

import { badge, dress, h, list, say, show } from "./dom.js";
import { clock, moment, sentence, span, words } from "./format.js";

const EVENTS_SHOWN = 40;

export function showIncidents(board, { open, none, events, eventsNone }) {
  const now = board.now;
  const incidents = board.incidents;
  list(open, incidents.map((incident) => ({ incident, now })), ({ incident }) => incident.incident_id, makeIncident);
  show(none, incidents.length === 0);
  const shown = board.events.slice(0, EVENTS_SHOWN);
  list(events, shown.map((event) => ({ event, now })), ({ event }) => event.event_id, makeEvent);
  show(eventsNone, shown.length === 0);
}

function makeIncident() {
  const sign = badge();
  const since = h("time");
  const title = h("h3");
  const text = h("p", { class: "text" });
  const more = h("details", {}, h("summary", {}, "more"), text);
  const foot = h("p", { class: "foot" });
  const root = h("li", {}, h("p", { class: "head" }, sign.root, since), title, more, foot);
  return {
    root,
    show({ incident: i, now }) {
      const opened = Date.parse(i.opened_at);
      if (root.dataset.severity !== i.severity) more.open = i.severity_rank >= 3; // a notice may be short
      dress(root, "severity", i.severity);
      sign.show(i.severity);
      since.setAttribute("datetime", i.opened_at);
      say(since, `since ${moment(opened, now)}, ${span(now - opened)}`);
      say(title, sentence(i.title));
      say(text, sentence(i.text));
      const acked = i.acknowledged_at ? [`acknowledged ${moment(Date.parse(i.acknowledged_at), now)}`] : [];
      const peak = i.peak_severity === i.severity ? [] : [`was ${i.peak_severity}`];
      say(foot, [words(i.rule), i.subject, `told ${clock(Date.parse(i.at), now)}`, ...peak, ...acked].join(" · "));
    },
  };
}

function makeEvent({ event: e }) {
  const sign = badge();
  const at = Date.parse(e.at);
  const kind = e.event === "resolved" ? `resolved: ${words(e.resolution)}` : e.event;
  const text = h("details", {}, h("summary", {}, sentence(e.title)), h("p", { class: "text" }, sentence(e.text)));
  const over = e.event === "resolved" && e.resolution === "recovered";
  sign.show(over ? "ok" : e.severity);
  const time = h("time", { datetime: e.at });
  const head = h("p", { class: "head" }, time, sign.root, h("span", { class: "kind" }, over ? "" : kind));
  if (over) sign.show("ok", "recovered");
  const root = h("li", { "data-severity": over ? "ok" : e.severity }, head, text);
  return { root, show: ({ now }) => say(time, clock(at, now)) };
}

/** What a screen reader is told of new events: the worst of them, once. */
export function announce(announcer, events) {
  const told = events.filter((event) => event.severity_rank >= 2);
  if (told.length === 0) return;
  const worst = told.reduce((a, b) => (b.severity_rank > a.severity_rank ? b : a));
  say(announcer, `${worst.severity}: ${worst.title}${told.length > 1 ? `, and ${told.length - 1} more` : ""}`);
}
