// The daemon's words as they come, and how long it is since the last one.

const SILENT_AFTER_MS = 6000; // three beats
const AGAIN_MS = 3000;
const GIVE_UP_AFTER_S = 15;
const DRIFT_MS = 2; // per beat: more than the speed of two clocks differs

/**
 * Hears the daemon, for ever.
 *
 * `onOpen`: called with each connection; `onBeat`, `onWhole`, `onChange`: with what has come. A browser connects again by
 * itself after a loss, and gets what it has missed; after a refusal it does not, nor where it has not noticed the loss or
 * is behind: then we do.
 */
export class Stream {
  constructor({ onOpen, onBeat, onWhole, onChange }) {
    this.onOpen = onOpen;
    this.on = { beat: onBeat, whole: onWhole, change: onChange };
    this.heardAt = null; // performance.now() of the last word, and the clock then
    this.heardMs = null;
    this.lateMs = 0;
    this.silentS = 0;
    this.isRefused = false;
    this.connect();
    setInterval(() => {
      this.silentS = this.isSilent ? this.silentS + 1 : 0;
      if (this.silentS >= GIVE_UP_AFTER_S) this.connect();
    }, 1000);
  }

  /** Whether what has come is so old that what is shown may be wrong. Of the two clocks one may be set, the other stands
   * still while a machine sleeps. How late it is cannot be told where a daemon of another version beats otherwise. */
  get isSilent() {
    if (this.heardAt === null) return true;
    return !(Math.max(performance.now() - this.heardAt, Date.now() - this.heardMs) + this.lateMs <= SILENT_AFTER_MS);
  }

  connect() {
    this.source?.close();
    this.silentS = 0;
    const source = (this.source = new EventSource(new URL("stream", location.origin + location.pathname)));
    source.onopen = () => {
      this.soonestMs = Infinity;
      this.onOpen();
    };
    source.onerror = () => {
      if (source.readyState !== EventSource.CLOSED) return;
      this.isRefused = true;
      setTimeout(() => this.connect(), AGAIN_MS);
    };
    for (const [name, take] of Object.entries(this.on)) {
      source.addEventListener(name, ({ data }) => {
        this.isRefused = false;
        const told = JSON.parse(data);
        if (name === "beat") this.time(told);
        this.heardAt = performance.now();
        this.heardMs = Date.now();
        take(told);
      });
    }
  }

  /** How much later a beat has come than those that came at once: on a slow way all comes, and is minutes old. */
  time(beat) {
    const tookMs = performance.now() - beat.mono_ms; // and what the clocks differ by, which nobody sets
    this.soonestMs = Math.min(this.soonestMs + DRIFT_MS, tookMs);
    this.lateMs = tookMs - this.soonestMs;
  }
}

/** The margin ratios of the last hours: one line of JSON for each pool. */
export async function fetchHistory() {
  const answer = await fetch(new URL("history", location.origin + location.pathname), { cache: "no-store" });
  if (!answer.ok) throw new Error(`history: ${answer.status}`);
  return (await answer.text()).split("\n").filter(Boolean).map((line) => JSON.parse(line));
}
