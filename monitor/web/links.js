// The links to the exchange: whether each can be believed, and for how long not.

import { badge, h, list, say } from "./dom.js";
import { span, words } from "./format.js";

const SEVERITY = { live: "ok", idle: "info", connecting: "notice", proving: "notice", mute: "warning", down: "critical" };

export function showLinks(rows, board) {
  const items = board.all("health").flatMap((health) =>
    Object.entries(health.links).map(([name, link]) => ({
      name,
      account: health.account === "_instance" ? "shared" : health.account,
      link,
      agedMs: link.age_s === 0 ? 0 : link.age_s * 1000 + Math.max(0, board.now - Date.parse(health.as_of)),
    })),
  );
  items.sort((a, b) => (a.account < b.account ? -1 : a.account > b.account ? 1 : a.name < b.name ? -1 : 1));
  list(rows, items, ({ account, name }) => `${account} ${name}`, makeRow);
}

function makeRow({ account, name }) {
  const state = badge();
  const note = h("small");
  const reconnects = h("td", { role: "cell", "data-label": "Reconnects" });
  const root = h(
    "tr",
    { role: "row" },
    h("th", { role: "rowheader", scope: "row" }, name, h("br"), h("small", {}, account)),
    h("td", { role: "cell" }, state.root, note),
    reconnects,
  );
  return {
    root,
    show({ link, agedMs }) {
      state.show(SEVERITY[link.state] ?? "info", agedMs > 0 ? `${words(link.state)} for ${span(agedMs)}` : link.state);
      say(note, link.note);
      say(reconnects, String(link.reconnects + link.mutes));
    },
  };
}
