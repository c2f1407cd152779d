// Margin ratios of the last hours: fetched once per connection, then carried on with what comes.

const STEP_MS = 10 * 1000;
const KEEP_MS = 4 * 3600 * 1000;

export class History {
  constructor() {
    this.series = new Map();
  }

  take(pools) {
    this.series.clear();
    for (const { account, pool, from_ms: fromMs, step_ms: stepMs, low, high } of pools) {
      this.series.set(`${account}/${pool}`, { fromMs, stepMs, low, high });
    }
  }

  /** A pool as it is now; a ratio that is not known for sure leaves a gap. */
  put(pool, nowMs) {
    const key = `${pool.account}/${pool.pool}`;
    const ratio = pool.freshness === "live" ? pool.margin_ratio : null;
    let series = this.series.get(key);
    if (series === undefined) this.series.set(key, (series = { fromMs: nowMs, stepMs: STEP_MS, low: [], high: [] }));
    const { fromMs, stepMs, low, high } = series;
    const slot = Math.max(low.length - 1, Math.floor((nowMs - fromMs) / stepMs));
    const last = series.last === undefined ? (high.at(-1) ?? null) : series.last;
    while (low.length <= slot) {
      low.push(last);
      high.push(last);
    }
    if (ratio !== null) {
      low[slot] = low[slot] === null ? ratio : Math.min(low[slot], ratio);
      high[slot] = high[slot] === null ? ratio : Math.max(high[slot], ratio);
    }
    series.last = ratio;
    const over = low.length - Math.ceil(KEEP_MS / stepMs);
    if (over > 0) {
      low.splice(0, over);
      high.splice(0, over);
      series.fromMs += over * stepMs;
    }
  }

  of(pool) {
    return this.series.get(`${pool.account}/${pool.pool}`);
  }
}
