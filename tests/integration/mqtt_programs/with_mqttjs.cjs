// MQTT.js as its users call it; see the package for what it is told and what it prints.
"use strict";

const mqtt = require("mqtt");

const request = JSON.parse(process.argv[2]);
const say = (...words) => process.stdout.write(words.join(" ") + "\n");
const { qos, filters = [], count = 0, messages = [] } = request;

const client = mqtt.connect(request.url, {
  username: "Bearer",
  password: request.token,
  clientId: request.id,
  clean: request.clean,
  keepalive: request.keepalive ?? 60,
  protocolVersion: 4,
  reconnectPeriod: count === -1 ? 100 : 0,
  resubscribe: false,
  will: request.will && {
    topic: request.will.topic,
    payload: request.will.message,
    qos: request.will.qos,
    retain: request.will.retain,
  },
});

let received = 0;
let subscribed = false;
// What was received last is acknowledged in the turn in which it is shown.
const leave = () => setImmediate(() => client.end());
const next = () => {
  if (count === 0) leave();
};

client.on("message", (topic, payload, packet) => {
  say("message", topic, packet.qos, packet.retain ? 1 : 0, payload.toString());
  received += 1;
  if (received === count) leave();
});
client.on("error", (error) => {
  process.stderr.write(`${error}\n`);
  if (count !== -1) process.exit(1);
});
client.on("close", () => say("disconnected"));
client.on("connect", async (packet) => {
  say("connected", packet.sessionPresent ? 1 : 0);
  if (messages.length) {
    const options = { qos, retain: request.retain ?? false };
    await Promise.all(messages.map((text) => client.publishAsync(request.topic, text, options)));
    leave();
  } else if (filters.length && !subscribed) {
    subscribed = true;
    const granted = await client.subscribeAsync(filters, { qos });
    say("subscribed", ...granted.map((one) => one.qos));
    next();
  } else {
    next();
  }
});
