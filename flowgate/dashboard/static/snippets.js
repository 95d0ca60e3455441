// What a program writes, for each protocol, with this gateway's addresses and a real key or token in it.
import { html, useId, useState } from "./lib.js";
import { Copy } from "./ui.js";

// Text within single quotes of a shell, of Python and of JavaScript.
const shell = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
const quoted = (text) => JSON.stringify(String(text));

// What of a key's grants the snippets use: a topic to publish to, one to subscribe to, and a queue.  Where a grant takes
// in more than one name, ours is among them.
function uses({ publish, subscribe, queues, prefix }) {
  const topic = (filter) => filter && (filter.startsWith(prefix) ? filter.slice(prefix.length) : filter).replaceAll("+", "1").replace(/#$/, "notifications");
  const whole = queues.find((one) => !one.includes(":"));
  const [verb, name] = whole ? ["", whole] : (queues[0] || ":").split(":");
  return {
    to: topic(publish[0]),
    from: topic(subscribe[0]),
    queue: name === "*" ? "orders" : name.replace("*", "1"),
    may: (wanted) => name && (!verb || verb === wanted),
  };
}

export function snippets({ place, token, apiKey, grants }) {
  const { url, socket_url: sockets, hostname, mqtt } = place;
  const { to, from, queue, may } = uses(grants);
  const bearer = `-H "Authorization: Bearer ${token}"`;
  const json = `-H "Content-Type: application/json"`;
  const found = [];
  if (apiKey) {
    found.push({
      id: "token",
      name: "Token",
      about: "Your program keeps the API key, and exchanges it for a token that lives for a quarter of an hour.",
      text: `curl -X POST ${url}/token/ -H "Authorization: Bearer ${apiKey}"`,
    });
  }
  if (to) {
    found.push({
      id: "publish",
      name: "Publish",
      about: "HTTP: the answer comes once the message is stored.",
      text: `curl ${url}/api/v1/publish \\\n  ${bearer} \\\n  ${json} \\\n  -d ${shell(JSON.stringify({ topic: to, message: "Hello World!" }))}`,
    });
  }
  if (from) {
    const query = `topic=${encodeURIComponent(from)}`;
    found.push(
      {
        id: "sse",
        name: "Events",
        about: "Server-Sent Events: the stream stays open.",
        text: `curl -N ${bearer} \\\n  ${shell(`${url}/api/v1/subscribe?${query}`)}`,
      },
      {
        id: "sse-js",
        name: "Events, JS",
        about: "In a browser, which takes up the stream again by itself where it was cut off.",
        text: `const events = new EventSource(\n  ${quoted(`${url}/api/v1/subscribe?${query}&token=${token}`)}\n);\nevents.addEventListener("message", (event) => {\n  console.log(JSON.parse(event.data).data);\n});`,
      },
    );
  }
  if (to || from) {
    const subscribe = from ? `  ws.send(JSON.stringify({ action: "subscribe", topic: ${quoted(from)} }));\n` : "";
    const publish = to ? `  ws.send(JSON.stringify({ action: "publish", topic: ${quoted(to)}, message: "Hello World!" }));\n` : "";
    found.push({
      id: "websocket",
      name: "WebSocket",
      about: "Both ways on one connection, in a browser or in Node.js from version 22 on.",
      text: `const ws = new WebSocket(${quoted(`${sockets}/ws?token=${token}`)});\nws.onopen = () => {\n${subscribe}${publish}};\nws.onmessage = (event) => console.log(JSON.parse(event.data));`,
    });
  }
  if (mqtt && (to || from)) {
    const client = `-h ${hostname} -p ${mqtt.port}${mqtt.tls ? " --tls-use-os-certs" : ""} \\\n  -u Bearer -P ${shell(token)} \\\n  -t `;
    const subscribe = `mosquitto_sub ${client}${shell(from)}`;
    const publish = `mosquitto_pub ${client}${shell(to)} \\\n  -m ${shell("Hello from MQTT!")}`;
    found.push({
      id: "mqtt",
      name: "MQTT",
      about: "Any MQTT 3.1.1 client: the user is Bearer, the password a token.",
      // Who publishes before the other one has subscribed is not heard.
      text: to && from ? `${subscribe} &\nsleep 1\n\n${publish}` : to ? publish : subscribe,
    });
  }
  if (may("send") || may("receive")) {
    const path = `${url}/api/v1/queues/${queue}/messages`;
    const send = `curl ${path} \\\n  ${bearer} \\\n  ${json} \\\n  -d '{"body": "Your message content"}'`;
    const receive = `curl ${bearer} \\\n  "${path}/receive?wait=5"`;
    found.push({
      id: "queue",
      name: "Queue",
      about: [may("send") && may("manage") ? "The first message makes the queue." : "For a queue that is there.",
        may("receive") && "Delete what you have worked on by its receipt."].filter(Boolean).join(" "),
      text: [may("send") && send, may("receive") && receive].filter(Boolean).join("\n\n"),
    });
  }
  if (apiKey && may("send") && may("receive") && may("manage")) {
    const [id, secret] = apiKey.split(".");
    found.push({
      id: "boto3",
      name: "boto3",
      about: "Amazon's SQS clients, here the one of Python, take the two parts of the API key as their credentials.",
      text: `import boto3\n\nsqs = boto3.client(\n    "sqs",\n    endpoint_url=${quoted(url)},\n    region_name="us-east-1",\n    aws_access_key_id=${quoted(id)},\n    aws_secret_access_key=${quoted(secret)},\n)\nqueue = sqs.create_queue(QueueName=${quoted(queue)})["QueueUrl"]\nsqs.send_message(QueueUrl=queue, MessageBody="Your message content")\nprint(sqs.receive_message(QueueUrl=queue, WaitTimeSeconds=5))`,
    });
  }
  return found;
}

export function Snippets(values) {
  const all = snippets(values);
  const [chosen, choose] = useState(all[0]?.id);
  const base = useId();
  const shown = all.find((one) => one.id === chosen) || all[0];
  if (!shown) return html`<p class="soft">The key has no grant that a snippet could use.</p>`;
  const move = (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = all[(all.indexOf(shown) + step + all.length) % all.length];
    choose(next.id);
    document.getElementById(`${base}-${next.id}`).focus();
  };
  return html`<div class="snippets">
    <div class="tabs" role="tablist" aria-label="Protocols" onKeyDown=${move}>
      ${all.map((one) => html`<button type="button" role="tab" key=${one.id} id=${`${base}-${one.id}`}
        aria-selected=${one === shown ? "true" : "false"} aria-controls=${`${base}-panel`}
        tabindex=${one === shown ? 0 : -1} onClick=${() => choose(one.id)}>${one.name}</button>`)}
    </div>
    <div role="tabpanel" id=${`${base}-panel`} aria-labelledby=${`${base}-${shown.id}`} class="panel">
      <div class="about"><p>${shown.about}</p><${Copy} text=${shown.text} what=${shown.name} wide /></div>
      <pre tabindex="0" role="region" aria-label=${`Snippet: ${shown.name}`}><code>${shown.text}</code></pre>
    </div>
  </div>`;
}
