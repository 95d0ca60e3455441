// npm's eventsource as its users call it; it comes back by itself. See the package for what it is told and prints.
"use strict";

const { EventSource } = require("eventsource");

const request = JSON.parse(process.argv[2]);
const say = (...words) => process.stdout.write(words.join(" ") + "\n");
const ascii = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));

async function publish() {
  for (const message of request.messages) {
    const answer = await fetch(`${request.http}/api/v1/publish`, {
      method: "POST",
      headers: { Authorization: `Bearer ${request.token}`, "Content-Type": "application/json" },
      body: JSON.stringify({ topic: request.topic, message }),
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(JSON.stringify(told));
    say("published", told.id);
  }
}

function read() {
  const query = new URLSearchParams({ topic: request.topic, token: request.token });
  if (request.since !== undefined) query.set("last_event_id", request.since);
  const source = new EventSource(`${request.http}/api/v1/subscribe?${query}`);
  let left = request.count;
  source.addEventListener("open", () => say("open"));
  source.addEventListener("gap", () => say("gap"));
  source.addEventListener("message", (event) => {
    if (left === 0) return;
    say("message", event.lastEventId, ascii(JSON.parse(event.data).data));
    left -= 1;
    if (left === 0) source.close();
  });
}

(request.messages ? publish : read)();
