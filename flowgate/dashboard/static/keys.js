// API keys: made, tried, replaced, revoked.
import { html, useId, useState } from "./lib.js";
import { call, part } from "./api.js";
import { Badge, Button, Confirm, Copy, Dialog, Empty, Field, Find, Form, Heading, Trouble, say, useCall } from "./ui.js";
import { Snippets } from "./snippets.js";
import { date, moment } from "./format.js";

const lines = (text) => text.split("\n").map((one) => one.trim()).filter(Boolean);

const prefixOf = (session, key) => `${session.user}_${key.app}_`;

const MANY = 10;
const EXPIRIES = [["", "Never"], ["30", "In 30 days"], ["90", "In 90 days"], ["365", "In a year"]];

function NewKey({ session, app, made }) {
  const [name, setName] = useState("");
  const [chosen, setApp] = useState(app);
  const [expires, setExpires] = useState("");
  const [narrow, setNarrow] = useState(false);
  const [grants, setGrants] = useState({ publish: "", subscribe: "", queues: "" });
  const apps = useId();
  const submit = async () => {
    const body = { app: chosen, name: name.trim() };
    if (expires) body.expires_days = Number(expires);
    if (narrow) for (const [kind, text] of Object.entries(grants)) body[kind] = lines(text);
    made(await call("POST", "keys", body));
  };
  const grant = (kind, label, placeholder) => html`<${Field} label=${label}>${(bind) => html`<textarea ...${bind} rows="2" name=${kind}
    spellcheck=${false} placeholder=${placeholder} value=${grants[kind]}
    onInput=${(event) => setGrants({ ...grants, [kind]: event.target.value })}></textarea>`}<//>`;
  return html`<${Form} submit=${submit} label="New API key">${(busy) => html`
    <${Field} label="Name" hint="What it is for; you see it in the list">${(bind) => html`<input ...${bind} name="name" maxlength="100" autocomplete="off"
      placeholder="Web shop, production" value=${name} onInput=${(event) => setName(event.target.value)} autofocus />`}<//>
    <div class="columns">
      <${Field} label="Application" hint="A new name makes a new application">${(bind) => html`<input ...${bind} name="app" list=${apps} maxlength="32" autocomplete="off"
        autocapitalize="none" spellcheck=${false} value=${chosen} onInput=${(event) => setApp(event.target.value.toLowerCase())} />
        <datalist id=${apps}>${session.apps.map((one) => html`<option value=${one} key=${one} />`)}</datalist>`}<//>
      <${Field} label="Expires">${(bind) => html`<select ...${bind} name="expires" value=${expires} onChange=${(event) => setExpires(event.target.value)}>
        ${EXPIRIES.map(([value, text]) => html`<option value=${value} key=${value}>${text}</option>`)}</select>`}<//>
    </div>
    <fieldset><legend>It may do</legend>
      <label class="choice"><input type="radio" name="grants" checked=${!narrow} onChange=${() => setNarrow(false)} /> Everything in this application</label>
      <label class="choice"><input type="radio" name="grants" checked=${narrow} onChange=${() => setNarrow(true)} /> Only what I list, one on each line</label>
    </fieldset>
    ${narrow && html`<div class="grants">
      ${grant("publish", "Publish to", "telemetry/#")}
      ${grant("subscribe", "Subscribe to", "commands/+")}
      ${grant("queues", "Use queues", "orders\nsend:invoices\nreceive:jobs-*")}</div>`}
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !chosen}>Create key<//></div>`}<//>`;
}

function Made({ made, session, close, rotated }) {
  return html`<div class="made">
    <p class="note strong">${rotated ? "This key takes the place of the old one. " : ""}Copy it now: it is shown this once, and nobody can find it out later.</p>
    <div class="secret"><code data-testid="key">${made.key}</code><${Copy} text=${made.key} what="API key" wide /></div>
    <h3>Use it</h3>
    <p class="soft">The snippets have a fresh token of this key in them, good for ${Math.round(made.token.expires_in / 60)} minutes.</p>
    <${Snippets} place=${session.place} token=${made.token.token} apiKey=${made.key} grants=${{ ...made, prefix: prefixOf(session, made) }} />
    <div class="actions"><${Button} kind="main" onClick=${close}>I have copied it<//></div>
  </div>`;
}

function Rotate({ item, made }) {
  const [overlap, setOverlap] = useState("86400");
  const submit = async () => made(await call("POST", `keys/${part(item.id)}/rotate`, { overlap_seconds: Number(overlap) }));
  return html`<${Form} submit=${submit} label="Rotate">${(busy) => html`
    <p>A new key with the same grants takes the place of <strong>${item.name || item.id}</strong>.</p>
    <${Field} label="The old one goes on working" hint="Long enough for your programs to get the new one">${(bind) => html`<select ...${bind} name="overlap"
      value=${overlap} onChange=${(event) => setOverlap(event.target.value)}>
      <option value="0">not at all</option><option value="3600">for an hour</option><option value="86400">for a day</option>
      <option value="604800">for a week</option></select>`}<//>
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy}>Rotate<//></div>`}<//>`;
}

function TryKey({ item, session }) {
  const { value, problem } = useCall(() => call("POST", `keys/${part(item.id)}/token`, {}), [item.id]);
  return html`<${Trouble} problem=${problem} />
    ${value && html`<p class="soft">With a fresh token of this key, good for ${Math.round(value.expires_in / 60)} minutes.</p>
      <${Snippets} place=${session.place} token=${value.token} grants=${item} />`}`;
}

function summary(key) {
  const whole = `${key.prefix}#`;
  if (key.publish.includes(whole) && key.subscribe.includes(whole) && key.queues.includes("*")) return "Everything in this application";
  const short = (one) => (one.startsWith(key.prefix) ? one.slice(key.prefix.length) : one);
  const parts = [];
  if (key.publish.length) parts.push(`publish ${key.publish.map(short).join(", ")}`);
  if (key.subscribe.length) parts.push(`subscribe ${key.subscribe.map(short).join(", ")}`);
  if (key.queues.length) parts.push(`queues ${key.queues.join(", ")}`);
  return parts.join(" · ") || "Nothing";
}

function state(key) {
  const now = Date.now() / 1000;
  if (key.disabled) return html`<${Badge} kind="bad">revoked<//>`;
  if (key.expires_at && key.expires_at <= now) return html`<${Badge} kind="bad">expired<//>`;
  if (key.expires_at) return html`<${Badge} kind="wait">until ${key.expires_at - now < 172800 ? moment(key.expires_at) : date(key.expires_at)}<//>`;
  return html`<${Badge} kind="good">active<//>`;
}

function Key({ item, open }) {
  const usable = !item.disabled && (!item.expires_at || item.expires_at * 1000 > Date.now());
  return html`<li class="card row" data-key=${item.id}>
    <div class="what">
      <h2>${item.name || "Unnamed key"} ${state(item)}</h2>
      <p><code>${item.id}</code></p>
      <p class="soft">${item.app} · ${summary(item)}${item.successor ? html` · replaced by <code>${item.successor}</code>` : ""}</p>
      <p class="soft">made ${date(item.created_at)}${item.last_used_at ? ` · last used ${moment(item.last_used_at)}` : " · never used"}</p>
    </div>
    ${usable && html`<div class="actions">
      <${Button} onClick=${() => open("try", item)}>Snippets<//>
      ${!item.successor && html`<${Button} onClick=${() => open("rotate", item)}>Rotate<//>`}
      <${Button} kind="danger-quiet" onClick=${() => open("revoke", item)}>Revoke<//>
    </div>`}
  </li>`;
}

export function Keys({ session, app, refresh }) {
  const { value, problem, reload } = useCall(() => call("GET", "keys"), []);
  const [dialog, setDialog] = useState(null);
  const [everything, setEverything] = useState(false);
  const [wanted, setWanted] = useState("");
  const open = (kind, item, made) => setDialog({ kind, item, made });
  const close = () => setDialog(null);
  const made = (rotated) => (result) => {
    setDialog({ kind: "made", made: result, rotated });
    reload();
    refresh();
  };
  const revoke = async (item) => {
    await call("DELETE", `keys/${part(item.id)}`);
    say(`Revoked ${item.name || item.id}: its connections end now.`);
    reload();
  };
  const all = (value ? value.keys : []).map((key) => ({ ...key, prefix: prefixOf(session, key) }));
  const own = all.filter((key) => !key.own);
  const gone = own.filter((key) => key.disabled);
  const has = (text) => text.toLowerCase().includes(wanted.trim().toLowerCase());
  const shown = own.filter((key) => (everything || !key.disabled) && (has(key.name) || has(key.id) || has(key.app)));
  const create = (kind) => html`<${Button} kind="main" icon="plus" onClick=${() => open("new")}>${kind}<//>`;
  return html`
    <${Heading} lead="A program exchanges its API key for short-lived tokens." actions=${create("New key")}>API keys<//>
    <${Trouble} problem=${problem} />
    ${own.length > MANY && html`<${Find} label="Find a key" value=${wanted} change=${setWanted} />`}
    ${value && wanted && !shown.length && html`<p class="soft">No key has that in its name, its id or its application.</p>`}
    ${value && !(wanted && !shown.length) && (shown.length
      ? html`<ul class="rows">${shown.map((item) => html`<${Key} item=${item} key=${item.id} open=${open} />`)}</ul>`
      : html`<${Empty} icon="key" title="No key yet"><p>Make one for each program that publishes or subscribes: then you can revoke one
          without touching the others.</p>${create("Make the first key")}<//>`)}
    ${gone.length > 0 && html`<p><${Button} kind="plain link" aria-expanded=${everything ? "true" : "false"} onClick=${() => setEverything(!everything)}>
      ${everything ? "Hide revoked keys" : `Show ${gone.length} revoked ${gone.length === 1 ? "key" : "keys"}`}<//></p>`}
    ${dialog?.kind === "new" && html`<${Dialog} title="New API key" close=${close}><${NewKey} session=${session} app=${app} made=${made(false)} /><//>`}
    ${dialog?.kind === "made" && html`<${Dialog} title="Your API key" close=${close} wide><${Made} made=${dialog.made} session=${session}
      rotated=${dialog.rotated} close=${close} /><//>`}
    ${dialog?.kind === "try" && html`<${Dialog} title=${`Use ${dialog.item.name || "the key"}`} close=${close} wide><${TryKey} item=${dialog.item} session=${session} /><//>`}
    ${dialog?.kind === "rotate" && html`<${Dialog} title="Rotate the key" close=${close}><${Rotate} item=${dialog.item} made=${made(true)} /><//>`}
    ${dialog?.kind === "revoke" && html`<${Confirm} title="Revoke the key?" verb="Revoke" close=${close} run=${() => revoke(dialog.item)}>
      <p><strong>${dialog.item.name || dialog.item.id}</strong> is refused from now on, for good. Connections made with it end within two seconds, on every node.</p><//>`}`;
}
