// What the account has used, what it may use, and what was paid.
import { html, useState } from "./lib.js";
import { call } from "./api.js";
import { Badge, Button, Empty, Heading, Tile, Trouble, useCall } from "./ui.js";
import { Chart } from "./chart.js";
import { bytes, count, date, moment } from "./format.js";

const RATES = {
  publish_rate: ["Messages", (value) => `${count(value)} a second`],
  publish_burst: ["Messages at once", count],
  key_publish_rate: ["Messages of one key", (value) => `${count(value)} a second`],
  bytes_rate: ["Payload", (value) => `${bytes(value)} a second`],
  bytes_burst: ["Payload at once", bytes],
  token_rate: ["Tokens of one key", (value) => `${count(value)} a minute`],
  connections: ["Connections", count],
  subscriptions: ["Subscriptions", count],
};

const LIMITS = {
  message_bytes: ["Largest message", bytes],
  subscriptions: ["Subscriptions of one connection", count],
  inflight_messages: ["MQTT deliveries in flight", count],
  queued_messages: ["MQTT deliveries that wait", count],
};

const KINDS = { usage: "used", topup: "paid in", adjust: "changed" };

const facts = (known, values) => Object.entries(known).filter(([name]) => values[name] !== undefined && values[name] !== null)
  .map(([name, [label, text]]) => html`<div key=${name}><dt>${label}</dt><dd>${text(values[name])}</dd></div>`);

function Ledger() {
  const [before, setBefore] = useState("");
  const { value, problem } = useCall(() => call("GET", `usage/ledger${before && `?before=${before}`}`), [before]);
  return html`<section aria-labelledby="ledger-title">
    <div class="bar"><h2 id="ledger-title">Ledger</h2><div class="actions">
      ${before && html`<${Button} onClick=${() => setBefore("")}>Newest<//>`}
      ${value?.next && html`<${Button} onClick=${() => setBefore(String(value.next))}>Older<//>`}</div></div>
    <${Trouble} problem=${problem} />
    ${value && (value.entries.length
      ? html`<div class="table"><table><thead><tr><th scope="col">When</th><th scope="col">What</th><th scope="col" class="number">Units</th><th scope="col" class="number">Balance</th></tr></thead>
        <tbody>${value.entries.map((one) => html`<tr key=${one.sequence}><th scope="row"><span class="soft">${moment(one.at)}</span></th>
          <td data-label="What">${KINDS[one.kind] || one.kind}${one.note && ` · ${one.note}`}</td>
          <td class="number" data-label="Units">${one.units ? count(one.units) : "–"}</td>
          <td class="number" data-label="Balance">${one.balance ? `${one.balance > 0 ? "+" : ""}${count(one.balance)}` : "–"}</td></tr>`)}</tbody></table></div>`
      : html`<p class="soft">Nothing was charged yet. What is used is entered about once a minute.</p>`)}
  </section>`;
}

export function Usage() {
  const { value, problem } = useCall(() => call("GET", "usage"), [], 5);
  const [span, setSpan] = useState("days");
  if (!value) return html`<${Heading}>Usage<//><${Trouble} problem=${problem} />`;
  const days = span === "days";
  const points = days ? value.days : value.hours;
  const percent = value.limit ? Math.min(100, Math.round((value.used / value.limit) * 100)) : 0;
  const rates = facts(RATES, value.rates);
  return html`
    <${Heading} lead=${html`${value.plan ? html`Plan <strong>${value.plan}</strong>` : "No plan: as much as you like"} · a unit is a started 4 KiB of a message`}>Usage<//>
    <${Trouble} problem=${problem} />
    <dl class="tiles">
      <${Tile} label=${`Used in ${value.period.name}`} value=${count(value.used)} />
      <${Tile} label="Limit of the plan" value=${value.limit === null ? "no limit" : count(value.limit)} />
      ${value.remaining !== null && html`<${Tile} label="Left" value=${count(value.remaining)} />`}
      ${value.balance !== null && html`<${Tile} label="Balance" value=${count(value.balance)} />`}
    </dl>
    ${value.limit !== null && html`<div class="card quota"><div class="bar"><h2>${percent} % of the period's units ${percent >= 100 ? html`<${Badge} kind="bad">used up<//>` : percent >= 80 ? html`<${Badge} kind="wait">nearly used up<//>` : ""}</h2>
      <span class="soft">anew on ${date(value.period.end)}</span></div>
      <progress max="100" value=${percent} aria-label="Used of the period's units"></progress></div>`}
    <section class="card" aria-labelledby="time-title"><div class="bar"><h2 id="time-title">Units ${days ? "of each day" : "of each hour"}</h2>
      <div class="actions" role="group" aria-label="Span">
        <${Button} kind="small" aria-pressed=${days ? "true" : "false"} onClick=${() => setSpan("days")}>30 days<//>
        <${Button} kind="small" aria-pressed=${days ? "false" : "true"} onClick=${() => setSpan("hours")}>24 hours<//></div></div>
      ${points.some(([, units]) => units)
        ? html`<${Chart} key=${span} bars day=${days} times=${points.map(([at]) => Date.parse(days ? `${at}T00:00Z` : `${at}:00Z`) / 1000)}
            series=${[{ label: "units", values: points.map(([, units]) => units), text: count }]} label=${`Units: ${count(points.at(-1)[1])} ${days ? "today" : "in this hour"}`} />`
        : html`<${Empty} icon="usage" title="Nothing used yet"><p>What is published shows up here within seconds.</p><//>`}
    </section>
    <div class="columns halves">
      <section class="card" aria-labelledby="rates-title"><h2 id="rates-title">Rates</h2>
        ${rates.length ? html`<dl class="list">${rates}</dl>` : html`<p class="soft">The plan has no rates: go as fast as you like.</p>`}</section>
      <section class="card" aria-labelledby="limits-title"><h2 id="limits-title">Limits for everybody</h2><dl class="list">${facts(LIMITS, value.limits)}</dl></section>
      ${Object.keys(value.keys).length > 0 && html`<section class="card" aria-labelledby="keys-title"><h2 id="keys-title">By key</h2><p class="soft">As far as it is in the ledger</p>
        <dl class="list">${Object.entries(value.keys).sort(([, one], [, other]) => other - one).slice(0, 20).map(([id, units]) => html`<div key=${id}><dt><code>${id}</code></dt><dd>${count(units)}</dd></div>`)}</dl></section>`}
    </div>
    <${Ledger} />`;
}
