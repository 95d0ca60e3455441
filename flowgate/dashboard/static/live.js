// What happens on topics, and a way to make something happen.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { callWithToken, token } from "./api.js";
import { Badge, Button, Empty, Field, Form, Heading, say } from "./ui.js";
import { LiveSocket } from "./socket.js";
import { bytes, clock, count, pretty, prettyText, sentence } from "./format.js";

const KEPT = 500;
const LONGEST = 16_384; // characters that are shown of one message: 500 large ones would be more than a phone can hold
const FIRST = "notifications";
const encoder = new TextEncoder();

function shown(frame, number) {
  const plain = typeof frame.data === "string";
  const text = plain ? prettyText(frame.data) : pretty(frame.data);
  return {
    number,
    topic: frame.topic,
    at: frame.ts ? Date.parse(frame.ts) : Date.now(),
    binary: frame.encoding === "base64",
    // Cloned: a part of a text keeps the whole of it in memory.
    text: text.length > LONGEST ? structuredClone(text.slice(0, LONGEST)) : text,
    cut: text.length > LONGEST,
    size: encoder.encode(plain ? frame.data : JSON.stringify(frame.data)).length,
  };
}

// The newest messages, at most so many; while it is paused they wait, as many again.
function useMessages() {
  const [messages, setMessages] = useState([]);
  const [paused, setPaused] = useState(false);
  const [total, setTotal] = useState(0);
  const [news, setNews] = useState("");
  const kept = useRef({ fresh: [], number: 0, paused: false, drawing: 0, told: 0 });
  const draw = () => {
    const state = kept.current;
    state.drawing = 0;
    setTotal(state.number);
    if (state.paused || !state.fresh.length) return;
    const fresh = state.fresh.reverse();
    state.fresh = [];
    setMessages((old) => [...fresh, ...old].slice(0, KEPT));
    if (Date.now() - state.told > 1500) {
      state.told = Date.now();
      setNews(fresh.length > 1 ? `${fresh.length} new messages` : `New message on ${fresh[0].topic}: ${fresh[0].text.slice(0, 200)}`);
    }
  };
  const later = () => {
    if (!kept.current.drawing) kept.current.drawing = setTimeout(draw, 50);
  };
  useEffect(() => () => clearTimeout(kept.current.drawing), []);
  return {
    messages, paused, total, news,
    waiting: total - (messages.length ? messages[0].number : 0),
    add(frame) {
      const state = kept.current;
      state.number += 1;
      state.fresh.push(shown(frame, state.number));
      if (state.fresh.length > KEPT) state.fresh.splice(0, state.fresh.length - KEPT);
      later();
    },
    pause(on) {
      kept.current.paused = on;
      setPaused(on);
      later();
    },
    clear() {
      kept.current.fresh = [];
      setMessages([]);
    },
  };
}

function Message({ message }) {
  return html`<li class="message">
    <p class="head"><span class="topic">${message.topic}</span>
      ${message.binary && html`<${Badge}>base64<//>`}
      <span class="soft">${bytes(message.size)}</span><time class="soft">${clock(message.at)}</time></p>
    <pre tabindex="0" role="region" aria-label=${`Message ${message.number}`}>${message.text || " "}</pre>
    ${message.cut && html`<p class="hint">Only the beginning is shown.</p>`}
  </li>`;
}

const STATES = {
  connecting: ["wait", "Connecting …"],
  connected: ["good", "Connected"],
  waiting: ["bad", "Connection lost, trying again …"],
};

export function Live({ session, app }) {
  const [state, setState] = useState("connecting");
  const [filters, setFilters] = useState([]);
  const [filter, setFilter] = useState("");
  const [topic, setTopic] = useState(FIRST);
  const [text, setText] = useState("Hello World!");
  const [topics, setTopics] = useState([]);
  const box = useMessages();
  const socket = useRef(null);
  const prefix = `${session.user}_${app}_`;

  useEffect(() => {
    const live = new LiveSocket(app, session.place.socket_url, {
      state: (name) => setState(name),
      message: box.add,
      problem: (problem) => say(sentence(problem), "bad"),
      refused: (one) => setFilters((old) => old.filter((other) => other !== one)),
    });
    socket.current = live;
    setFilters([]);
    box.clear();
    token(app).then((made) => callWithToken("GET", "topics?limit=100", made.token)).then(
      (found) => setTopics(found.topics.map((one) => one.topic)),
      () => setTopics([]), // only proposals
    );
    return () => live.close();
  }, [app]);

  const subscribe = async (one) => {
    if (!filters.includes(one)) {
      setFilters((old) => [...old, one]);
      await socket.current.subscribe(one);
    }
  };
  const unsubscribe = async (one) => {
    setFilters((old) => old.filter((other) => other !== one));
    await socket.current.unsubscribe(one);
  };
  const publish = async () => {
    await socket.current.publish(topic, text);
    if (!filters.length) say("Published. Subscribe to see what is published from now on.");
  };
  const tryIt = async () => {
    await subscribe(FIRST);
    await socket.current.publish(FIRST, "Hello World!");
  };
  const [kind, stateText] = STATES[state];
  const list = useMemo(() => box.messages.map((one) => html`<${Message} message=${one} key=${one.number} />`), [box.messages]);

  return html`
    <${Heading} lead=${html`Topics of <code>${prefix}</code>`}
      actions=${html`<span class="state ${kind}" role="status"><i></i>${stateText}</span>`}>Live<//>
    <datalist id="topics">${topics.map((one) => html`<option value=${one} key=${one} />`)}</datalist>
    <div class="columns">
      <section class="card" aria-labelledby="subscribe-title">
        <h2 id="subscribe-title">Subscribe</h2>
        <${Form} label="Subscribe" submit=${async () => { await subscribe(filter.trim()); setFilter(""); }}>${(busy) => html`
          <${Field} label="Topic or filter" hint=${html`<code>+</code> stands for one level, <code>#</code> for all that follow`}>${(bind) => html`
            <div class="joined"><input ...${bind} name="filter" list="topics" autocomplete="off" autocapitalize="none" spellcheck=${false}
              placeholder="plant/+/temperature" value=${filter} onInput=${(event) => setFilter(event.target.value)} />
            <${Button} type="submit" kind="main" disabled=${busy || !filter.trim() || state !== "connected"}>Subscribe<//></div>`}<//>`}<//>
        ${filters.length > 0 && html`<ul class="chips" aria-label="Subscriptions">${filters.map((one) => html`<li key=${one}><span>${one}</span>
          <${Button} kind="plain small" icon="close" label=${`Unsubscribe from ${one}`} run=${() => unsubscribe(one)} /></li>`)}</ul>`}
      </section>
      <section class="card" aria-labelledby="publish-title">
        <h2 id="publish-title">Publish</h2>
        <${Form} label="Publish" submit=${publish}>${(busy) => html`
          <${Field} label="Topic">${(bind) => html`<input ...${bind} name="topic" list="topics" autocomplete="off" autocapitalize="none"
            spellcheck=${false} value=${topic} onInput=${(event) => setTopic(event.target.value)} />`}<//>
          <${Field} label="Message">${(bind) => html`<textarea ...${bind} name="message" rows="2" spellcheck=${false} value=${text}
            onInput=${(event) => setText(event.target.value)}
            onKeyDown=${(event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form.requestSubmit(); }}></textarea>`}<//>
          <div class="actions"><${Button} type="submit" kind="main" icon="send" disabled=${busy || !topic || state !== "connected"}>Publish<//></div>`}<//>
      </section>
    </div>
    <section aria-labelledby="messages-title">
      <div class="bar">
        <h2 id="messages-title">Messages ${box.total > 0 && html`<span class="soft">${count(box.total)}</span>`}</h2>
        ${box.total > 0 && html`<div class="actions">
          <${Button} icon=${box.paused ? "play" : "pause"} onClick=${() => box.pause(!box.paused)}>
            ${box.paused ? `Go on${box.waiting > 0 ? ` (${count(box.waiting)} new)` : ""}` : "Pause"}<//>
          <${Button} onClick=${box.clear} disabled=${!box.messages.length}>Clear<//>
        </div>`}
      </div>
      <div class="away" role="status" aria-live="polite">${box.news}</div>
      ${box.messages.length
        ? html`<ul class="messages">${list}</ul>
          ${box.total > KEPT && html`<p class="soft">The newest ${KEPT} are kept on this page.</p>`}
          ${box.total < 3 && html`<p class="note next">That was a message. <a href="#/keys">Make an API key</a> for your own program next.</p>`}`
        : filters.length
          ? html`<${Empty} icon="live" title="Listening …"><p>What is published on ${filters.join(", ")} from now on appears here.</p><//>`
          : html`<${Empty} icon="live" title="Nothing here yet">
            <p>Subscribe to a topic above, or have it shown to you:</p>
            <${Button} kind="main" icon="send" disabled=${state !== "connected"} run=${tryIt}>Send a first message<//>
          <//>`}
    </section>`;
}
