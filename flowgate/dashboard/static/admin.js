// Nodes, accounts and the audit log, for administrators.
import { html, useRef, useState } from "./lib.js";
import { Chart } from "./chart.js";
import { call, part } from "./api.js";
import { Badge, Button, Confirm, Copy, Dialog, Field, Find, Form, Heading, Tile, Trouble, say, useCall } from "./ui.js";
import { age, count, date, moment, sentence } from "./format.js";

function NewAccount({ made }) {
  const [user, setUser] = useState("");
  const [admin, setAdmin] = useState(false);
  const submit = async () => made(await call("POST", "admin/accounts", { user, admin }));
  return html`<${Form} submit=${submit} label="New account">${(busy) => html`
    <${Field} label="User name" hint="1 to 32 of a–z, 0–9 and -">${(bind) => html`<input ...${bind} name="user" maxlength="32" autocomplete="off" autocapitalize="none"
      spellcheck=${false} value=${user} onInput=${(event) => setUser(event.target.value.toLowerCase())} autofocus />`}<//>
    <label class="choice"><input type="checkbox" name="admin" checked=${admin} onChange=${(event) => setAdmin(event.target.checked)} /> Administrator: sees and changes all accounts</label>
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !user}>Create account<//></div>`}<//>`;
}

function LinkMade({ made, close }) {
  const url = `${location.origin}/dashboard/#link=${made.link}`;
  return html`<p>Give <strong>${made.user}</strong> this link. It leads to a page to choose a password, works once, and until ${moment(made.expires_at)}.</p>
    <div class="secret"><code>${url}</code><${Copy} text=${url} what="sign-in link" wide /></div>
    <div class="actions"><${Button} kind="main" onClick=${close}>Done<//></div>`;
}

// Named by the page, so that a request that is sent again adds nothing.
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");

function Balance({ user, done }) {
  const path = `admin/accounts/${part(user)}/balance`;
  const { value, problem } = useCall(() => call("GET", path), [user]);
  const [units, setUnits] = useState("");
  const [note, setNote] = useState("");
  const id = useRef(newId());
  const whole = Number(units);
  const submit = async () => {
    const body = { units: whole, id: id.current, note: note.trim() };
    try {
      done(await call("POST", path, body));
    } catch (problem) {
      if (problem.status && problem.status < 500) id.current = newId(); // refused: the next one is another change
      throw problem;
    }
  };
  return html`<${Trouble} problem=${problem} />
    ${value && html`<dl class="list"><div><dt>Balance</dt><dd>${count(value.balance)} units</dd></div>
      <div><dt>Used in this period</dt><dd>${count(value.used)}${value.limit === null ? "" : ` of ${count(value.limit)}`}</dd></div></dl>
      ${!value.prepaid && html`<p class="note">${value.plan ? html`The plan <strong>${value.plan}</strong>` : "An account without a plan"} spends no balance: it is kept for a plan that does.</p>`}
      <${Form} submit=${submit} label="Change the balance">${(busy) => html`
        <${Field} label="Units to add" hint="With - before them they are taken away">${(bind) => html`<input ...${bind} name="units" type="number" step="1" inputmode="numeric"
          value=${units} onInput=${(event) => setUnits(event.target.value)} autofocus />`}<//>
        <${Field} label="What for" hint="Stands in the ledger; the owner of the account sees it">${(bind) => html`<input ...${bind} name="note" maxlength="200" autocomplete="off"
          value=${note} onInput=${(event) => setNote(event.target.value)} />`}<//>
        <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !whole || !Number.isSafeInteger(whole)}>${whole < 0 ? "Take away" : "Add"} units<//></div>`}<//>`}`;
}

const MANY = 10;

export function Accounts({ session }) {
  const [prefix, setPrefix] = useState("");
  const [cursor, setCursor] = useState("");
  const { value, problem, reload } = useCall(
    () => call("GET", `admin/accounts?prefix=${part(prefix.trim().toLowerCase())}&cursor=${part(cursor)}`), [prefix, cursor], 10);
  const [dialog, setDialog] = useState(null);
  const close = () => setDialog(null);
  const linked = (made) => {
    setDialog({ kind: "link", made });
    reload();
  };
  const plan = async (user, name) => {
    try {
      await call("POST", `admin/accounts/${part(user)}/plan`, { plan: name });
      say(`${user} has the plan ${name || "that is the default"}.`);
    } catch (problem) {
      say(sentence(problem), "bad");
    }
    reload();
  };
  const suspend = async (user, suspended) => {
    await call("POST", `admin/accounts/${part(user)}/suspend`, { suspended });
    say(suspended ? `${user} is suspended.` : `${user} may come back.`);
    reload();
  };
  return html`
    <section aria-labelledby="accounts-title">
    <div class="bar"><h2 id="accounts-title">Accounts ${value && html`<span class="soft">${count(value.count)}</span>`}</h2>
      <${Button} kind="main" icon="plus" onClick=${() => setDialog({ kind: "new" })}>New account<//></div>
    ${value && value.count > MANY && html`<${Find} label="Find by how the name begins" value=${prefix}
      change=${(text) => { setPrefix(text); setCursor(""); }} />`}
    <${Trouble} problem=${problem} />
    ${value && html`<ul class="rows">${value.accounts.map((one) => html`<li class="card row" key=${one.user} data-user=${one.user}>
      <div class="what"><h3>${one.user} ${one.suspended ? html`<${Badge} kind="bad">suspended<//>` : ""}${one.admin ? html` <${Badge}>administrator<//>` : ""}</h3>
        <p class="soft">${one.plan ? `plan ${one.plan} · ` : ""}${one.keys} ${one.keys === 1 ? "key" : "keys"} · since ${date(one.created_at)} · ${one.signs_in ? "signs in with a password" : "has not signed in yet"}</p></div>
      <div class="actions">
        ${value.plans.length > 0 && html`<select class="apps" aria-label=${`Plan of ${one.user}`} value=${one.plan}
          onChange=${(event) => plan(one.user, event.target.value)}>
          <option value="">default${value.default_plan && ` (${value.default_plan})`}</option>
          ${value.plans.map((name) => html`<option value=${name} key=${name}>${name}</option>`)}</select>`}
        ${value.balances && html`<${Button} onClick=${() => setDialog({ kind: "balance", user: one.user })}>Balance<//>`}
        <${Button} run=${async () => linked(await call("POST", `admin/accounts/${part(one.user)}/link`, {}))}>Sign-in link<//>
        ${one.user !== session.user && (one.suspended
          ? html`<${Button} run=${() => suspend(one.user, false)}>Resume<//>`
          : html`<${Button} kind="danger-quiet" onClick=${() => setDialog({ kind: "suspend", user: one.user })}>Suspend<//>`)}
      </div></li>`)}</ul>
      ${!value.accounts.length && html`<p class="soft">No account's name begins so.</p>`}
      <div class="actions">${cursor && html`<${Button} onClick=${() => setCursor("")}>First page<//>`}
        ${value.next && html`<${Button} onClick=${() => setCursor(value.next)}>Next page<//>`}</div>`}
    </section>
    ${dialog?.kind === "new" && html`<${Dialog} title="New account" close=${close}><${NewAccount} made=${linked} /><//>`}
    ${dialog?.kind === "link" && html`<${Dialog} title="Sign-in link" close=${close}><${LinkMade} made=${dialog.made} close=${close} /><//>`}
    ${dialog?.kind === "balance" && html`<${Dialog} title=${`Balance of ${dialog.user}`} close=${close}><${Balance} user=${dialog.user}
      done=${(found) => { close(); say(`${dialog.user} has ${count(found.balance)} units.`); }} /><//>`}
    ${dialog?.kind === "suspend" && html`<${Confirm} title=${`Suspend ${dialog.user}?`} verb="Suspend" close=${close} run=${() => suspend(dialog.user, true)}>
      <p>All connections and sessions of <strong>${dialog.user}</strong> end, and nothing is accepted until you resume the account. Nothing is deleted.</p><//>`}`;
}

const KEPT = 360;
const LOOK_SECONDS = 5;
const total = (values) => Object.values(values || {}).reduce((sum, value) => sum + value, 0);

// Sums of all nodes, as long as this page is open.
function useFlow(nodes) {
  const kept = useRef({ times: [], received: [], sent: [] });
  if (nodes && kept.current.last !== nodes) {
    const flow = kept.current;
    flow.last = nodes;
    flow.times.push(Date.now() / 1000);
    flow.received.push(nodes.reduce((sum, one) => sum + total(one.messages?.received?.per_second), 0));
    flow.sent.push(nodes.reduce((sum, one) => sum + total(one.messages?.sent?.per_second), 0));
    for (const list of [flow.times, flow.received, flow.sent]) if (list.length > KEPT) list.shift();
  }
  return kept.current;
}

const rate = (value) => `${value < 10 ? value.toFixed(1) : count(Math.round(value))}/s`;

function NodeRow({ node }) {
  const protocols = Object.entries(node.connections || {}).filter(([, value]) => value);
  return html`<tr><th scope="row"><code>${node.node}</code>
      ${node.bus?.available ? (node.bus.congested ? html` <${Badge} kind="wait">bus is behind<//>` : "") : html` <${Badge} kind="bad">bus is away<//>`}
      <p class="soft">${node.version} · up ${age(node.uptime_seconds)}</p></th>
    <td class="number" data-label="Connections" title=${protocols.map(([name, value]) => `${name} ${value}`).join(", ")}>${count(total(node.connections))}</td>
    <td class="number" data-label="In">${rate(total(node.messages?.received?.per_second))}</td>
    <td class="number" data-label="Out">${rate(total(node.messages?.sent?.per_second))}</td>
    <td class="number" data-label="Queues open">${count(node.queues?.open || 0)}</td>
    <td class="number" data-label="Errors">${node.errors?.count ? html`<${Badge} kind="bad">${count(node.errors.count)}<//>` : 0}</td></tr>`;
}

function Nodes() {
  const { value, problem } = useCall(() => call("GET", "admin/nodes"), [], LOOK_SECONDS);
  const nodes = value?.nodes;
  const flow = useFlow(nodes);
  const [received, sent] = [flow.received.at(-1) || 0, flow.sent.at(-1) || 0];
  return html`<section aria-labelledby="nodes-title">
    <h2 id="nodes-title" class="away">Nodes</h2>
    <${Trouble} problem=${problem} />
    ${nodes && html`<dl class="tiles">
        <${Tile} label=${nodes.length === 1 ? "Node" : "Nodes"} value=${count(nodes.length)} />
        <${Tile} label="Connections" value=${count(nodes.reduce((sum, one) => sum + total(one.connections), 0))} />
        <${Tile} label="Messages in" value=${rate(received)} /><${Tile} label="Messages out" value=${rate(sent)} /></dl>
      <div class="card"><h2>Throughput</h2><p class="soft">Messages a second on all nodes, since this page was opened</p>
        <${Chart} live=${300} times=${flow.times} label=${`Throughput: ${rate(received)} in, ${rate(sent)} out`}
          series=${[{ label: "in", values: flow.received, text: rate }, { label: "out", values: flow.sent, text: rate }]} /></div>
      <div class="bar"><h2>Nodes</h2></div>
      <div class="table"><table><thead><tr><th scope="col">Node</th><th scope="col" class="number">Connections</th><th scope="col" class="number">In</th>
        <th scope="col" class="number">Out</th><th scope="col" class="number">Queues open</th><th scope="col" class="number">Errors</th></tr></thead>
        <tbody>${nodes.map((node) => html`<${NodeRow} node=${node} key=${node.node} />`)}</tbody></table></div>`}
  </section>`;
}

function Entry({ entry }) {
  const who = entry.actor_name || { admin: "admin token", gateway: "the gateway" }[entry.actor] || entry.actor;
  const text = (name, value) => (Array.isArray(value) ? value.join(", ") : name.endsWith("_at") ? date(value) : value);
  const detail = Object.entries(entry.detail).map(([name, value]) => `${name.replaceAll("_", " ")} ${text(name, value)}`).join(" · ");
  return html`<tr><th scope="row"><span class="soft">${moment(Date.parse(entry.at) / 1000)}</span></th>
    <td data-label="Who">${who}</td>
    <td data-label="What">${entry.action}${entry.refused && html` <${Badge} kind="bad">${entry.refused}<//>`}</td>
    <td data-label="On" class="long"><code>${entry.subject}</code>${detail && html` <span class="soft">${detail}</span>`}</td></tr>`;
}

function Audit() {
  const [before, setBefore] = useState("");
  const { value, problem } = useCall(() => call("GET", `admin/audit${before && `?before=${before}`}`), [before], before ? 0 : 10);
  return html`<section aria-labelledby="audit-title">
    <div class="bar"><h2 id="audit-title">Audit log</h2><div class="actions">
      ${before && html`<${Button} onClick=${() => setBefore("")}>Newest<//>`}
      ${value?.next && html`<${Button} onClick=${() => setBefore(String(value.next))}>Older<//>`}</div></div>
    <${Trouble} problem=${problem} />
    ${value && (value.entries.length
      ? html`<div class="table log"><table><thead><tr><th scope="col">When</th><th scope="col">Who</th><th scope="col">What</th><th scope="col">On</th></tr></thead>
        <tbody>${value.entries.map((entry) => html`<${Entry} entry=${entry} key=${entry.sequence} />`)}</tbody></table></div>`
      : html`<p class="soft">Nothing was done yet.</p>`)}
  </section>`;
}

const PARTS = [["", "Nodes", Nodes], ["accounts", "Accounts", Accounts], ["audit", "Audit log", Audit]];

export function Admin({ session, name }) {
  const [, , Part] = PARTS.find(([one]) => one === name) || PARTS[0];
  return html`<${Heading}>Administration<//>
    <nav class="sub" aria-label="Administration"><ul>${PARTS.map(([one, title, part]) => html`<li key=${one}>
      <a href=${`#/admin/${one}`} aria-current=${part === Part ? "page" : undefined}>${title}</a></li>`)}</ul></nav>
    <${Part} session=${session} />`;
}
