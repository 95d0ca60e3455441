// Calls to the gateway: the session is in a cookie that no script sees, the proof that this page asks in a header.

export class Problem extends Error {
  constructor(status, code, detail, retryAfter) {
    super(detail);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

let csrf = "";
let signedOut = () => {};

export function useSession(session) {
  csrf = session ? session.csrf : "";
}

export function onSignedOut(listener) {
  signedOut = listener;
}

async function request(method, path, headers, body) {
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      cache: "no-store",
      redirect: "error",
    });
  } catch {
    throw new Problem(0, "no_answer", "The gateway does not answer. Is it running, and are you online?");
  }
  if (answer.status === 204) return null;
  let value = null;
  try {
    value = await answer.json();
  } catch {
    throw new Problem(answer.status, "no_json", `The answer with status ${answer.status} cannot be read.`);
  }
  if (answer.ok) return value;
  const seconds = Number(answer.headers.get("Retry-After")) || 0;
  throw new Problem(answer.status, value.code, value.detail || value.title || `Status ${answer.status}`, seconds);
}

// A call of the dashboard.
export async function call(method, path, body) {
  const headers = method === "GET" ? {} : { "X-CSRF-Token": csrf };
  try {
    return await request(method, `/dashboard/api/${path}`, headers, body);
  } catch (problem) {
    if (problem.code === "missing_token") signedOut();
    throw problem;
  }
}

// A call of the public API with a token, as every client makes it.
export function callWithToken(method, path, token, body) {
  return request(method, `/api/v1/${path}`, { Authorization: `Bearer ${token}` }, body);
}

export const part = encodeURIComponent;

// A token of this session for an application, kept until a minute before its end.
const tokens = new Map();

export function forgetTokens() {
  tokens.clear();
}

export async function token(app, fresh = false) {
  const kept = tokens.get(app);
  if (kept && !fresh && kept.until > Date.now()) return kept;
  const made = await call("POST", "token", { app });
  const entry = { ...made, until: Date.now() + (made.expires_in - 60) * 1000 };
  tokens.set(app, entry);
  return entry;
}
