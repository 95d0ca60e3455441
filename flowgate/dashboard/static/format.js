// Values as people read them.

const number = new Intl.NumberFormat("en");
export const count = (value) => number.format(value);

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
export function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${UNITS[unit]}`;
}

export function age(seconds) {
  if (seconds < 1) return "0 s";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${Math.round(seconds / 3600)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const date = (seconds) =>
  new Date(seconds * 1000).toLocaleDateString("en", { day: "numeric", month: "short", year: "numeric" });
// `hourCycle`, because for some browsers midnight is 24:00 with `hour12: false` in English.
const TIME = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
export const moment = (seconds) => {
  const at = new Date(seconds * 1000);
  const year = at.getFullYear() === new Date().getFullYear() ? undefined : "numeric";
  return at.toLocaleString("en", { day: "numeric", month: "short", year, ...TIME });
};
export const time = (seconds, exact) =>
  new Date(seconds * 1000).toLocaleTimeString("en", { ...TIME, second: exact ? "2-digit" : undefined });
export const clock = (ms) => `${time(ms / 1000, true)}.${String(new Date(ms).getMilliseconds()).padStart(3, "0")}`;
export const day = (seconds) =>
  new Date(seconds * 1000).toLocaleDateString("en", { day: "numeric", month: "short", timeZone: "UTC" });

// What the gateway says, as a sentence; and what can be done about it.
const ADVICE = {
  limit_reached: "The page Usage shows what the plan has.",
  insufficient_balance: "The page Usage shows the balance.",
};
export function sentence({ message, code, retryAfter }) {
  const text = `${message[0]?.toUpperCase() ?? ""}${message.slice(1)}`;
  const advice = ADVICE[code] || (code === "rate_limited" && retryAfter ? `Try again in ${age(retryAfter)}.` : "");
  return `${text}${/[.!?…]$/.test(text) ? "" : "."}${advice && ` ${advice}`}`;
}

export function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value, null, 2);
}

// JSON within text is laid out, any other text stays as it is.
export function prettyText(text) {
  const first = text.trimStart()[0];
  if (first !== "{" && first !== "[") return text;
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
