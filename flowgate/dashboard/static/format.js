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
export const moment = (seconds) =>
  new Date(seconds * 1000).toLocaleString("en", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });
export const clock = (ms) => {
  const at = new Date(ms);
  return `${at.toLocaleTimeString("en", { hour12: false })}.${String(at.getMilliseconds()).padStart(3, "0")}`;
};

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
