// What the daemon has published: the newest payload of each topic, and the last events.

const EVENTS_KEPT = 200;
const RANKS = ["ok", "info", "notice", "warning", "critical", "liquidation"];

export const rank = (severity) => RANKS.indexOf(severity);

/** What a payload is, by its own word: topics need no reading. */
const kind = (payload) => payload.schema?.match(/^marginwatch\.(\w+)\//)?.[1];

export class Board {
  constructor() {
    this.kinds = new Map(); // kind → topic → payload
    this.kindOf = new Map(); // topic → kind
    this.events = []; // newest first
    this.levels = { margin_ratio: [], liquidation_distance: [] };
    this.beat = null;
    this.ahead = 0; // the daemon's clock minus ours (ms)
  }

  /** All there is; a daemon that was started anew does not know the events of before, but we do. */
  takeWhole({ states, events }) {
    this.kinds.clear();
    this.kindOf.clear();
    this.put(states);
    const known = new Set(events.map((event) => event.event_id));
    this.events = [...[...events].reverse(), ...this.events.filter((event) => !known.has(event.event_id))].slice(0, EVENTS_KEPT);
  }

  takeChange({ states, events }) {
    this.put(states);
    this.events = [...[...events].reverse(), ...this.events].slice(0, EVENTS_KEPT);
  }

  /** Payloads by topic; null: there is none any more. */
  put(states) {
    for (const [topic, payload] of Object.entries(states)) {
      if (payload === null) {
        this.kinds.get(this.kindOf.get(topic))?.delete(topic);
        continue;
      }
      if (!this.kindOf.has(topic)) this.kindOf.set(topic, kind(payload));
      const found = this.kindOf.get(topic);
      if (!this.kinds.has(found)) this.kinds.set(found, new Map());
      this.kinds.get(found).set(topic, payload);
    }
  }

  takeBeat(beat) {
    this.beat = beat;
    this.levels = beat.levels;
    this.ahead = beat.at_ms - Date.now();
  }

  /** The daemon's time (Unix ms). */
  get now() {
    return Date.now() + this.ahead;
  }

  all(wanted) {
    return [...(this.kinds.get(wanted)?.values() ?? [])];
  }

  get info() {
    return this.all("info")[0] ?? { accounts: [] };
  }

  get incidents() {
    return this.all("incident").sort((a, b) => b.severity_rank - a.severity_rank || (a.opened_at < b.opened_at ? 1 : -1));
  }

  /** Pools, the most endangered first; the order is coarse, so that they stay where they are while all is calm. */
  get pools() {
    const danger = (pool) => rank(pool.severity) * 100 + Math.floor(Math.min(1, pool.margin_ratio ?? 1) * 10);
    return this.all("pool").sort((a, b) => danger(b) - danger(a) || (a.pool < b.pool ? -1 : 1));
  }

  /** Whether all figures are of now. */
  get isLive() {
    return [...this.all("summary"), ...this.all("pool")].every(({ freshness }) => freshness === "live");
  }

  /** Whether there is a figure for everything that is held; else the worst that is shown need not be the worst. */
  get isComplete() {
    const known = this.all("summary").filter((summary) => summary.worst_margin_ratio !== null);
    return known.length > 0 && known.length === this.info.accounts.length;
  }

  /** The severity that a distance has by itself. */
  severityOfDistance(distance) {
    const met = distance === null ? [] : this.levels.liquidation_distance.filter((step) => distance <= step.at);
    return met.at(-1)?.severity ?? "ok";
  }
}
