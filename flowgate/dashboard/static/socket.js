// The page's own WebSocket: a client of the gateway as any other, with a token that ends with the session.
import { Problem, token } from "./api.js";

const REFRESH_MS = 200_000; // tokens live for five minutes
const LONGEST_WAIT_MS = 15_000;

const refusal = (frame) => new Problem(frame.status, frame.code, frame.detail, frame.retry_after);

export class LiveSocket {
  // `told` is given: state (text), message (object), problem (what was refused), refused (a filter).
  constructor(app, socketUrl, told) {
    this.app = app;
    this.url = socketUrl;
    this.told = told;
    this.filters = new Set();
    this.pending = new Map();
    this.next = 1;
    this.wait = 500;
    this.closed = false;
    this.open();
  }

  async open() {
    this.told.state("connecting");
    let made;
    try {
      made = await token(this.app, true);
    } catch (problem) {
      if (problem.code === "missing_token") this.close();
      else this.later(problem.message);
      return;
    }
    if (this.closed) return;
    const socket = new WebSocket(`${this.url}/ws?token=${made.token}`);
    this.socket = socket;
    socket.onopen = () => {
      this.wait = 500;
      this.told.state("connected");
      for (const filter of this.filters) this.begin(filter).catch((problem) => this.told.problem(problem));
      this.timer = setInterval(() => this.refresh(), REFRESH_MS);
    };
    socket.onmessage = (event) => this.take(JSON.parse(event.data));
    socket.onclose = () => {
      clearInterval(this.timer);
      for (const { reject } of this.pending.values()) reject(new Error("The connection was lost."));
      this.pending.clear();
      if (!this.closed) this.later();
    };
  }

  later(reason) {
    if (this.closed) return;
    this.told.state("waiting", reason);
    this.again = setTimeout(() => this.open(), this.wait * (0.75 + Math.random() / 2));
    this.wait = Math.min(this.wait * 2, LONGEST_WAIT_MS);
  }

  async refresh() {
    try {
      await this.ask({ action: "auth", token: (await token(this.app, true)).token });
    } catch {
      this.socket.close(); // it is opened anew, with a new token
    }
  }

  take(frame) {
    if (frame.action === "message") this.told.message(frame);
    else if (this.pending.has(frame.id)) {
      const { resolve, reject } = this.pending.get(frame.id);
      this.pending.delete(frame.id);
      if (frame.action === "error") reject(refusal(frame));
      else resolve(frame);
    } else if (frame.action === "error") this.told.problem(refusal(frame));
  }

  ask(frame) {
    if (!this.socket || this.socket.readyState !== WebSocket.OPEN) return Promise.reject(new Error("Not connected yet: one moment."));
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject });
      this.socket.send(JSON.stringify({ ...frame, id }));
    });
  }

  begin(filter) {
    return this.ask({ action: "subscribe", topic: filter, meta: true }).catch((problem) => {
      if (this.socket.readyState === WebSocket.OPEN) {
        this.filters.delete(filter);
        this.told.refused(filter);
      } // else it was not refused: it is asked for again with the next connection
      throw problem;
    });
  }

  async subscribe(filter) {
    this.filters.add(filter);
    if (this.socket && this.socket.readyState === WebSocket.OPEN) await this.begin(filter);
  }

  async unsubscribe(filter) {
    this.filters.delete(filter);
    if (this.socket && this.socket.readyState === WebSocket.OPEN) await this.ask({ action: "unsubscribe", topic: filter });
  }

  publish(topic, message) {
    return this.ask({ action: "publish", topic, message });
  }

  close() {
    this.closed = true;
    clearInterval(this.timer);
    clearTimeout(this.again);
    if (this.socket) this.socket.close(1000);
  }
}
