// The daemon's words as they come, and how long it is since the last one.

const SILENT_AFTER_MS = 6000; // three beats
const AGAIN_MS = 3000;

/**
 * Hears the daemon, for ever.
 *
 * `onOpen`: called with each connection; `onBeat`, `onWhole`, `onChange`: with what has come. A browser connects again by
 * itself after a loss, and gets what it has missed; after a refusal it does not, then we do.
 */
export class Stream {
  constructor({ onOpen, onBeat, onWhole, onChange }) {
    this.onOpen = onOpen;
    this.on = { beat: onBeat, whole: onWhole, change: onChange };
    this.heardAt = null; // performance.now() of the last word, and the clock then
    this.heardMs = null;
    this.isRefused = false;
    this.connect();
  }

  /** Whether nothing has come for so long that what is shown may be wrong. */
  get isSilent() {
    return this.heardAt === null || performance.now() - this.heardAt > SILENT_AFTER_MS;
  }

  connect() {
    const source = new EventSource(new URL("stream", location.origin + location.pathname));
    source.onopen = this.onOpen;
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      this.isRefused = true;
      setTimeout(() => this.connect(), AGAIN_MS);
    };
    for (const [name, take] of Object.entries(this.on)) {
      source.addEventListener(name, ({ data }) => {
        this.isRefused = false;
        this.heardAt = performance.now();
        this.heardMs = Date.now();
        take(JSON.parse(data));
      });
    }
  }
}

/** The margin ratios of the last hours: one line of JSON for each pool. */
export async function fetchHistory() {
  const answer = await fetch(new URL("history", location.origin + location.pathname), { cache: "no-store" });
  if (!answer.ok) throw new Error(`history: ${answer.status}`);
  return (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}
