// Queues: how full they are, what lies in them, and what can be done about it.
import { html, useId, useState } from "./lib.js";
import { call, callWithToken, part, token } from "./api.js";
import { Badge, Button, Confirm, Dialog, Empty, Field, Find, Form, Heading, Icon, Tile, Trouble, say, useCall } from "./ui.js";
import { age, bytes, count, moment, prettyText } from "./format.js";

const LOOK_SECONDS = 3;

function NewQueue({ app, known, done }) {
  const [name, setName] = useState("");
  const [fifo, setFifo] = useState(false);
  const [dead, setDead] = useState("");
  const [receives, setReceives] = useState("5");
  const full = name && fifo ? `${name}.fifo` : name;
  const submit = async () => {
    const body = { name: full };
    if (dead) {
      body.dead_letter = dead;
      body.max_receives = Number(receives);
    }
    await call("POST", `apps/${part(app)}/queues`, body);
    done(full);
  };
  const targets = known.filter((one) => one.endsWith(".fifo") === fifo);
  const list = useId();
  return html`<${Form} submit=${submit} label="New queue">${(busy) => html`
    <${Field} label="Name" hint="1 to 80 of letters, digits, _ and -">${(bind) => html`<input ...${bind} name="name" maxlength="80" autocomplete="off"
      autocapitalize="none" spellcheck=${false} value=${name} onInput=${(event) => setName(event.target.value)} autofocus />`}<//>
    <label class="choice"><input type="checkbox" checked=${fifo} onChange=${(event) => { setFifo(event.target.checked); setDead(""); }} /> In order, each once (FIFO)</label>
    ${targets.length > 0 && html`<div class="columns">
      <${Field} label="Dead letters go to" hint="Another queue, or nowhere">${(bind) => html`<input ...${bind} list=${list} maxlength="80" autocomplete="off"
        autocapitalize="none" spellcheck=${false} value=${dead} onInput=${(event) => setDead(event.target.value)} />
        <datalist id=${list}>${targets.map((one) => html`<option value=${one} key=${one} />`)}</datalist>`}<//>
      ${dead && html`<${Field} label="After so many receives">${(bind) => html`<input ...${bind} type="number" min="1" max="1000" value=${receives}
        onInput=${(event) => setReceives(event.target.value)} />`}<//>`}</div>`}
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !name}>Create ${full || "queue"}<//></div>`}<//>`;
}

function Send({ app, name, done }) {
  const [text, setText] = useState("");
  const fifo = name.endsWith(".fifo");
  const submit = async () => {
    const made = await token(app);
    const body = fifo ? { body: text, group: "dashboard", dedup_id: crypto.randomUUID?.() || String(Math.random()) } : { body: text };
    await callWithToken("POST", `queues/${part(name)}/messages`, made.token, body);
    done();
  };
  return html`<${Form} submit=${submit} label="Send a message">${(busy) => html`
    <${Field} label="Message">${(bind) => html`<textarea ...${bind} name="body" rows="4" spellcheck=${false} value=${text}
      onInput=${(event) => setText(event.target.value)} autofocus></textarea>`}<//>
    <div class="actions"><${Button} type="submit" kind="main" icon="send" disabled=${busy || !text}>Send<//></div>`}<//>`;
}

function Redrive({ app, name, sources, known, done }) {
  const [goal, setGoal] = useState("");
  const list = useId();
  const [rate, setRate] = useState("");
  const submit = async () => {
    const body = {};
    if (goal) body.destination = goal;
    if (rate) body.max_per_second = Number(rate);
    await call("POST", `apps/${part(app)}/queues/${part(name)}/redrive`, body);
    done();
  };
  return html`<${Form} submit=${submit} label="Redrive">${(busy) => html`
    <p>Moves the messages of <strong>${name}</strong>, the oldest first.</p>
    <${Field} label="To" hint=${sources.length ? `Empty: where each came from (${sources.join(", ")})` : "Another queue"}>${(bind) => html`<input ...${bind} name="goal"
      list=${list} maxlength="80" autocomplete="off" autocapitalize="none" spellcheck=${false} value=${goal} onInput=${(event) => setGoal(event.target.value)} />
      <datalist id=${list}>${known.map((one) => html`<option value=${one} key=${one} />`)}</datalist>`}<//>
    <${Field} label="At most so many a second" hint="1 to 500; empty: as fast as it goes">${(bind) => html`<input ...${bind} name="rate" type="number" min="1" max="500"
      value=${rate} onInput=${(event) => setRate(event.target.value)} />`}<//>
    <div class="actions"><${Button} type="submit" kind="main" disabled=${busy || !(goal || sources.length)}>Redrive<//></div>`}<//>`;
}

const TASKS = { running: "wait", cancelling: "wait", completed: "good", cancelled: "", failed: "bad" };

function Task({ task, cancel }) {
  const running = task.status === "running";
  return html`<li class="card row">
    <div class="what"><h3>To ${task.destination || "where each came from"} <${Badge} kind=${TASKS[task.status]}>${task.status}<//></h3>
      <p class="soft">${count(task.moved)} of ${count(task.to_move)} moved · begun ${moment(task.started_at / 1000)}</p>
      ${task.failure && html`<p class="hint bad">${task.failure}</p>`}
      <progress max=${Math.max(task.to_move, task.moved, 1)} value=${task.status === "completed" ? Math.max(task.to_move, task.moved, 1) : task.moved} aria-label="Moved"></progress></div>
    ${running && html`<div class="actions"><${Button} run=${cancel}>Cancel<//></div>`}
  </li>`;
}

function Peeked({ messages }) {
  if (!messages.length) return html`<p class="soft">No message is visible now.</p>`;
  return html`<ul class="messages">${messages.map((one) => html`<li class="message" key=${one.id}>
    <p class="head"><code>${one.id}</code>${one.group && html`<${Badge}>group ${one.group}<//>`}
      ${one.receive_count > 0 && html`<span class="soft">received ${one.receive_count}×</span>`}
      <time class="soft">${moment(one.sent_at / 1000)}</time></p>
    <pre tabindex="0" role="region" aria-label="Message">${prettyText(one.body ?? one.body_base64)}</pre></li>`)}</ul>`;
}

export function Queue({ app, name, go }) {
  const path = `apps/${part(app)}/queues/${part(name)}`;
  const { value, problem, reload } = useCall(() => call("GET", path), [app, name], LOOK_SECONDS);
  const others = useCall(() => call("GET", `apps/${part(app)}/queues`), [app]);
  const [seen, setSeen] = useState(null);
  const [dialog, setDialog] = useState("");
  const close = () => setDialog("");
  const look = async () => setSeen((await call("GET", `${path}/messages`)).messages);
  const after = (text) => async () => {
    close();
    say(text);
    reload();
    if (seen) await look();
  };
  const known = (others.value ? others.value.queues : []).map((one) => one.name).filter((one) => one !== name && one.endsWith(".fifo") === name.endsWith(".fifo"));
  const stats = value?.stats;
  const running = value?.redrives.some((one) => one.status === "running" || one.status === "cancelling");
  return html`
    <p class="crumb"><a href="#/queues"><${Icon} name="back" /> Queues</a></p>
    <${Heading} lead=${html`In <code>${app}</code>`} actions=${value && html`
      <${Button} kind="main" icon="send" onClick=${() => setDialog("send")}>Send<//>
      <${Button} run=${look}>Peek<//>
      <${Button} onClick=${() => setDialog("redrive")} disabled=${running || !(value.dead_letters_of.length || known.length)}>Redrive<//>
      <${Button} kind="danger-quiet" onClick=${() => setDialog("purge")}>Purge<//>
      <${Button} kind="danger-quiet" onClick=${() => setDialog("remove")}>Delete<//>`}>${name}<//>
    <${Trouble} problem=${problem} />
    ${value && html`
      ${value.dead_letters_of.length > 0 && html`<p class="note">Dead letters of ${value.dead_letters_of.map((one, index) => html`${index ? ", " : ""}<a href=${`#/queues/${part(one)}`}>${one}</a>`)} come here.</p>`}
      ${stats && html`<dl class="tiles">
        <${Tile} label="Visible" value=${count(stats.visible)} />
        <${Tile} label="In flight" value=${count(stats.in_flight)} />
        <${Tile} label="Delayed" value=${count(stats.delayed)} />
        <${Tile} label="Oldest" value=${stats.visible + stats.in_flight + stats.delayed ? age(stats.oldest_age_seconds) : "–"} />
        <${Tile} label="Size" value=${bytes(stats.bytes)} /></dl>`}
      <dl class="facts">
        <div><dt>Visibility</dt><dd>${age(value.config.visibility)}</dd></div>
        <div><dt>Delay</dt><dd>${age(value.config.delay)}</dd></div>
        <div><dt>Kept for</dt><dd>${age(value.config.retention)}</dd></div>
        <div><dt>Dead letters</dt><dd>${value.config.dead_letter ? html`<a href=${`#/queues/${part(value.config.dead_letter.queue)}`}>${value.config.dead_letter.queue}</a> after ${value.config.dead_letter.max_receives === 1 ? "one receive" : `${value.config.dead_letter.max_receives} receives`}` : "none"}</dd></div>
        ${value.subscriptions.length > 0 && html`<div><dt>Subscribed to</dt><dd>${value.subscriptions.join(", ")}</dd></div>`}
      </dl>
      ${seen && html`<section aria-labelledby="peek-title"><div class="bar"><h2 id="peek-title">The oldest messages</h2>
        <div class="actions"><${Button} run=${look}>Look again<//><${Button} onClick=${() => setSeen(null)}>Close<//></div></div>
        <p class="soft">Nobody is kept from receiving them by this look.</p><${Peeked} messages=${seen} /></section>`}
      ${value.redrives.length > 0 && html`<section aria-labelledby="tasks-title"><h2 id="tasks-title">Moves</h2>
        <ul class="rows">${value.redrives.map((task) => html`<${Task} task=${task} key=${task.task}
          cancel=${async () => { await call("DELETE", `${path}/redrive/${part(task.task)}`); reload(); }} />`)}</ul></section>`}`}
    ${dialog === "send" && html`<${Dialog} title=${`Send to ${name}`} close=${close}><${Send} app=${app} name=${name} done=${after("Sent: it is stored.")} /><//>`}
    ${dialog === "redrive" && html`<${Dialog} title="Redrive" close=${close}><${Redrive} app=${app} name=${name} sources=${value.dead_letters_of} known=${known}
      done=${after("The messages are being moved.")} /><//>`}
    ${dialog === "purge" && html`<${Confirm} title=${`Purge ${name}?`} verb="Remove all messages" close=${close}
      run=${async () => { await call("POST", `${path}/purge`, {}); await after("The queue is empty.")(); }}>
      <p>All messages are removed for good, those that receivers have in their hands too.</p><//>`}
    ${dialog === "remove" && html`<${Confirm} title=${`Delete ${name}?`} verb="Delete the queue" close=${close}
      run=${async () => { await call("DELETE", path); say(`Deleted ${name}.`); go("queues"); }}>
      <p>The queue is removed with all its messages, for good.</p><//>`}`;
}

export function Queues({ app, go }) {
  const [cursor, setCursor] = useState("");
  const [prefix, setPrefix] = useState("");
  const { value, problem, reload } = useCall(
    () => call("GET", `apps/${part(app)}/queues?cursor=${part(cursor)}&prefix=${part(prefix.trim())}`), [app, cursor, prefix], LOOK_SECONDS);
  const [adding, setAdding] = useState(false);
  const create = (text) => html`<${Button} kind="main" icon="plus" onClick=${() => setAdding(true)}>${text}<//>`;
  const names = value ? value.queues.map((one) => one.name) : [];
  const targets = new Set(value ? value.queues.map((one) => one.config.dead_letter?.queue) : []);
  return html`
    <${Heading} lead=${html`In <code>${app}</code>`} actions=${create("New queue")}>Queues<//>
    <${Trouble} problem=${problem} />
    ${value && (value.next || cursor || prefix) && html`<${Find} label="Find by how the name begins" value=${prefix}
      change=${(text) => { setPrefix(text); setCursor(""); }} />`}
    ${value && (names.length || cursor || prefix
      ? html`<div class="table"><table><thead><tr><th scope="col">Queue</th><th scope="col" class="number">Visible</th><th scope="col" class="number">In flight</th>
          <th scope="col" class="number">Delayed</th><th scope="col" class="number">Oldest</th><th scope="col" class="number">Size</th></tr></thead>
        <tbody>${value.queues.map((one) => html`<tr key=${one.name}>
          <th scope="row"><a href=${`#/queues/${part(one.name)}`}>${one.name}</a>
            ${targets.has(one.name) && html` <${Badge} kind=${one.stats?.visible ? "bad" : ""}>dead letters<//>`}</th>
          ${one.stats
            ? html`<td class="number" data-label="Visible">${count(one.stats.visible)}</td><td class="number" data-label="In flight">${count(one.stats.in_flight)}</td>
              <td class="number" data-label="Delayed">${count(one.stats.delayed)}</td>
              <td class="number" data-label="Oldest">${one.stats.visible + one.stats.in_flight + one.stats.delayed ? age(one.stats.oldest_age_seconds) : "–"}</td>
              <td class="number" data-label="Size">${bytes(one.stats.bytes)}</td>`
            : html`<td colspan="5" class="soft">not to be had now</td>`}
        </tr>`)}</tbody></table></div>
        ${!names.length && html`<p class="soft">No queue's name begins so.</p>`}
        <div class="actions">${cursor && html`<${Button} onClick=${() => setCursor("")}>First page<//>`}
          ${value.next && html`<${Button} onClick=${() => setCursor(value.next)}>Next page<//>`}</div>`
      : html`<${Empty} icon="queues" title="No queue yet"><p>A queue keeps each message until one receiver has worked on it. The first message that a
          program sends makes its queue, too.</p>${create("Make the first queue")}<//>`)}
    ${adding && html`<${Dialog} title="New queue" close=${() => setAdding(false)}><${NewQueue} app=${app} known=${names}
      done=${(name) => { setAdding(false); reload(); go(`queues/${part(name)}`); }} /><//>`}`;
}
