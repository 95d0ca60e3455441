// npm's ws as its users call it; see the package for what it is told and what it prints.
"use strict";

const WebSocket = require("ws");

const request = JSON.parse(process.argv[2]);
const say = (...words) => process.stdout.write(words.join(" ") + "\n");
const url = `${request.http.replace("http:", "ws:")}/ws`;
const headers = { Authorization: `Bearer ${request.token}` };
const ascii = (value) =>
  JSON.stringify(value).replace(/[\u007f-\uffff]/g, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));

let { since: last = null, count: left } = request;

function publish() {
  const socket = new WebSocket(url, { headers });
  let sent = 0;
  const next = () => {
    if (sent === request.messages.length) {
      socket.close();
      return;
    }
    const message = request.messages[sent];
    socket.send(JSON.stringify({ action: "publish", topic: request.topic, message, id: sent }));
    sent += 1;
  };
  socket.on("open", next);
  socket.on("message", (text) => {
    const told = JSON.parse(text);
    if (told.action !== "ack") throw new Error(String(text));
    say("published", told.cursor);
    next();
  });
}

function read() {
  const socket = new WebSocket(url, { headers });
  let over = false;
  socket.on("open", () => {
    const frame = { action: "subscribe", topic: request.topic, meta: true, id: "s" };
    if (last !== null) frame.since = last;
    socket.send(JSON.stringify(frame));
  });
  socket.on("message", (text) => {
    const told = JSON.parse(text);
    if (told.action === "message") {
      if (over) return;
      last = told.id;
      say("message", told.id, ascii(told.data));
      left -= 1;
      if (left === 0) {
        over = true;
        socket.close();
      }
    } else if (told.action === "ack") {
      say("open");
    } else if (told.action === "notice") {
      say(told.code);
    } else {
      throw new Error(String(text));
    }
  });
  socket.on("error", () => {}); // "close" follows
  socket.on("close", () => {
    if (left > 0) setTimeout(read, 50);
  });
}

(request.messages ? publish : read)();
