// Figures for people: rounded, in the words of the alerts. Exact digits are in the MQTT payloads.

const MINUS = "−";
export const DASH = "–";

/** `81.2 %`; below one percent two decimals. Never rounded up to 100 %: that is said of a liquidation alone. */
export function percent(fraction) {
  if (fraction === null || fraction === undefined) return DASH;
  if (fraction >= 10) return "over 1000 %";
  const value = fraction * 100;
  let text = value.toFixed(decimals(value));
  if (value > 0 && Number(text) === 0) text = value.toPrecision(1);
  if (value < 100 && Number(text) >= 100) text = "99.9";
  return `${text.replace("-", MINUS)} %`;
}

/** A distance, rounded down: what is near must not read as farther. */
export function away(fraction) {
  if (fraction === null || fraction === undefined) return DASH;
  const value = Number((fraction * 100).toPrecision(12)); // 0.07 * 100 is a little more than 7
  const first = -Number(value.toExponential().split("e")[1]); // where its first digit is
  const places = Math.max(decimals(value), first);
  const rounded = Math.floor(Number((value * 10 ** places).toPrecision(12))) / 10 ** places;
  return `${rounded.toFixed(places)} %`;
}

const decimals = (value) => (Math.abs(value) >= 1 || value === 0 ? 1 : 2);

/** A level: `80 %`, `0.5 %`. */
export const level = (fraction) => `${Number((fraction * 100).toFixed(2))} %`;

/** A price in at least six significant digits. */
export function price(text) {
  if (text === null || text === undefined) return DASH;
  const value = Number(text);
  if (value === 0) return "0";
  const places = Math.min(12, Math.max(0, 5 - Math.floor(Math.log10(Math.abs(value)))));
  return grouped(value, 0, places);
}

/** Money: to the cent, without it above ten thousand, in significant digits below one. */
export function amount(text) {
  if (text === null || text === undefined) return DASH;
  const value = Number(text);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1) return grouped(value, 0, Math.min(8, 3 - Math.floor(Math.log10(size))));
  return size >= 10000 ? grouped(value, 0, 0) : grouped(value, 2, 2);
}

/** The same with its sign, for what is gained or lost. */
export function signed(text) {
  if (text === null || text === undefined) return DASH;
  return Number(text) > 0 ? `+${amount(text)}` : amount(text);
}

/** A quantity without its sign, in its own digits. */
export function quantity(text) {
  const value = Math.abs(Number(text));
  return grouped(value, 0, 8);
}

function grouped(value, least, most) {
  const text = value.toLocaleString("en-US", { minimumFractionDigits: least, maximumFractionDigits: Math.max(least, most) });
  return text.replace("-", MINUS);
}

/** `04:13:44`, in this browser's time zone, with the day where that is not today. */
export const clock = (ms, nowMs = ms) => dated(ms, nowMs, { hour: "2-digit", minute: "2-digit", second: "2-digit" });

/** The same to the minute. */
export const moment = (ms, nowMs) => dated(ms, nowMs, { hour: "2-digit", minute: "2-digit" });

function dated(ms, nowMs, parts) {
  const at = new Date(ms);
  const time = at.toLocaleTimeString("en-GB", parts);
  if (at.toDateString() === new Date(nowMs).toDateString()) return time;
  return `${at.toLocaleDateString("en-GB", { day: "numeric", month: "short" })} ${time}`;
}

/** `8 s`, `3 min`, `2 h 5 min`, `4 d`. */
export function span(ms) {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return `${Math.floor(hours / 24)} d`;
}

/** A sentence whose figures keep their units. */
export const sentence = (text) => text.replaceAll(" %", "\u00a0%");

/** `margin_ratio` → `margin ratio`. */
export const words = (name) => name.replaceAll("_", " ");
