// The pieces that pages are put together from.
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from "./lib.js";
import { sentence } from "./format.js";

// -- what is said to everybody, screen readers too

const listeners = new Set();

export function say(text, kind = "good") {
  for (const listener of listeners) listener({ text, kind, id: Symbol(text) });
}

export function Toasts() {
  const [shown, setShown] = useState([]);
  useEffect(() => {
    const listener = (toast) => {
      setShown((all) => [...all, toast].slice(-4));
      setTimeout(() => setShown((all) => all.filter((one) => one.id !== toast.id)), toast.kind === "bad" ? 9000 : 4000);
    };
    listeners.add(listener);
    return () => listeners.delete(listener);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map((one) => html`<p class="toast ${one.kind}" key=${one.id}>${one.text}</p>`)}
  </div>`;
}

// -- icons, drawn by the page itself

const ICONS = {
  live: "M3 12h4l3-8 4 16 3-8h4",
  keys: "M15.5 3a5.5 5.5 0 1 0 4.9 8L22 9.5M8 16l-5 5M11.5 12.5 6 18l2 2",
  key: "M14 4a6 6 0 1 1-4.5 10L4 19.5V21H2v-3l6.3-6.3A6 6 0 0 1 14 4zM16 8h.01",
  queues: "M4 5h16v4H4zM4 10.5h16v4H4zM4 16h16v4H4z",
  usage: "M4 20V10M10 20V4M16 20v-7M21 20H3",
  admin: "M12 3l8 3v6c0 4.5-3.2 8-8 9-4.8-1-8-4.5-8-9V6z",
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  plus: "M12 5v14M5 12h14",
  send: "M4 12l16-8-6 16-3-6z",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M4 4l1.5 1.5M18.5 18.5 20 20M2 12h2M20 12h2M4 20l1.5-1.5M18.5 5.5 20 4",
  moon: "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
  auto: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18zM12 3v18M12 7h6M12 11h8M12 15h7",
  user: "M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4 20c1-4 4-6 8-6s7 2 8 6",
  pause: "M8 5v14M16 5v14",
  play: "M7 4l13 8-13 8z",
  close: "M6 6l12 12M18 6 6 18",
  back: "M15 5l-7 7 7 7",
  check: "M5 13l4 4L19 7",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false"><path d=${ICONS[name]} /></svg>`;
}

// -- buttons

// While what it began is under way it cannot be pressed again; what goes wrong is said.
export function Button({ run, icon, kind = "", children, label, disabled, type = "button", ...rest }) {
  const [busy, setBusy] = useState(false);
  const there = useRef(true);
  useEffect(() => () => { there.current = false; }, []);
  const press = async () => {
    if (!run) return;
    setBusy(true);
    try {
      await run();
    } catch (problem) {
      say(sentence(problem), "bad");
    } finally {
      if (there.current) setBusy(false);
    }
  };
  return html`<button type=${type} class="button ${kind}" aria-label=${label} title=${label} disabled=${busy || disabled}
    aria-busy=${busy ? "true" : undefined} onClick=${run ? press : undefined} ...${rest}>
    ${icon && html`<${Icon} name=${icon} />`}${children && html`<span>${children}</span>`}
  </button>`;
}

async function copyText(text) {
  if (navigator.clipboard) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // Without TLS, or without leave: the old way.
    }
  }
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "away";
  (document.querySelector("dialog[open]") || document.body).append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

export function Copy({ text, what, wide }) {
  const [done, setDone] = useState(false);
  const copy = async () => {
    if (!(await copyText(text))) throw new Error("The browser gives no clipboard to this page: select the text and copy it.");
    setDone(true);
    say(`Copied: ${what}`);
    setTimeout(() => setDone(false), 2000);
  };
  return html`<${Button} kind="small copy" icon=${done ? "check" : "copy"} label=${`Copy: ${what}`} run=${copy}>
    ${wide ? (done ? "Copied" : "Copy") : null}<//>`;
}

// -- fields

export function Field({ label, hint, error, children }) {
  const id = useId();
  const told = hint || error ? `${id}-told` : undefined;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    ${children({ id, "aria-describedby": told, "aria-invalid": error ? "true" : undefined })}
    ${(hint || error) && html`<p id=${told} class=${error ? "hint bad" : "hint"}>${error || hint}</p>`}
  </div>`;
}

// Looks for something in a long list, while one types.
export function Find({ label, value, change }) {
  return html`<input type="search" class="find" aria-label=${label} placeholder=${label} autocomplete="off" autocapitalize="none"
    spellcheck=${false} value=${value} onInput=${(event) => change(event.target.value)} />`;
}

// A form that says by itself what was refused.
export function Form({ submit, children, label, className = "" }) {
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  const there = useRef(true);
  useEffect(() => () => { there.current = false; }, []);
  const send = async (event) => {
    event.preventDefault();
    if (busy) return;
    setBusy(true);
    setError("");
    try {
      await submit();
    } catch (problem) {
      if (there.current) setError(sentence(problem));
    } finally {
      if (there.current) setBusy(false);
    }
  };
  return html`<form onSubmit=${send} class=${className} aria-label=${label} noValidate>
    ${children(busy)}
    <p class="error" role="alert">${error}</p>
  </form>`;
}

// -- dialogs

export function Dialog({ title, close, children, wide }) {
  const dialog = useRef(null);
  const id = useId();
  useLayoutEffect(() => {
    const element = dialog.current;
    const before = document.activeElement;
    element.showModal();
    return () => {
      element.close();
      if (before && before.isConnected) before.focus();
    };
  }, []);
  return html`<dialog ref=${dialog} class=${wide ? "wide" : ""} aria-labelledby=${id}
    onCancel=${(event) => { event.preventDefault(); close(); }}>
    <header><h2 id=${id}>${title}</h2><${Button} kind="plain" icon="close" label="Close" onClick=${close} /></header>
    ${children}
  </dialog>`;
}

// Asks before something that cannot be taken back.
export function Confirm({ title, children, verb, run, close }) {
  const go = async () => {
    await run();
    close();
  };
  return html`<${Dialog} title=${title} close=${close}>
    <${Form} submit=${go}>${(busy) => html`
      <div class="text">${children}</div>
      <div class="actions">
        <${Button} onClick=${close} autofocus>Cancel<//>
        <${Button} type="submit" kind="danger" disabled=${busy}>${verb}<//>
      </div>`}<//>
  <//>`;
}

// -- smaller ones

export function Badge({ kind = "", children }) {
  return html`<span class="badge ${kind}">${children}</span>`;
}

export function Empty({ icon, title, children }) {
  return html`<div class="empty">
    <div class="medal"><${Icon} name=${icon} /></div>
    <h2>${title}</h2>
    ${children}
  </div>`;
}

let arrived = false;

export function Heading({ children, actions, lead }) {
  const heading = useRef(null);
  useEffect(() => {
    // Whoever goes from page to page by the keyboard goes on here; the first page is begun at its beginning.
    if (arrived && (document.activeElement === document.body || document.activeElement?.closest("nav.main"))) {
      heading.current.focus({ preventScroll: true });
    }
    arrived = true;
  }, []);
  return html`<div class="heading">
    <div><h1 tabindex="-1" ref=${heading}>${children}</h1>${lead && html`<p class="lead">${lead}</p>`}</div>
    <div class="actions">${actions}</div>
  </div>`;
}

export function Tile({ label, value, kind = "" }) {
  return html`<div class="tile ${kind}"><dt>${label}</dt><dd>${value}</dd></div>`;
}

// What a call gives, asked again every so many seconds while the page is seen.
export function useCall(ask, inputs, seconds = 0) {
  const [state, setState] = useState({ value: null, problem: null });
  const [round, setRound] = useState(0);
  useEffect(() => {
    let stopped = false;
    let timer = 0;
    const again = () => {
      if (seconds && !stopped) timer = setTimeout(() => (document.hidden ? again() : look()), seconds * 1000);
    };
    const look = async () => {
      try {
        const value = await ask();
        if (!stopped) setState({ value, problem: null });
      } catch (problem) {
        if (!stopped) setState((old) => ({ value: old.value, problem }));
      }
      again();
    };
    look();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [...inputs, round]);
  return { ...state, reload: () => setRound((old) => old + 1) };
}

export function Trouble({ problem }) {
  return problem ? html`<p class="trouble" role="alert">${sentence(problem)}</p>` : null;
}
