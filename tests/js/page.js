/*
 * A page for the tests: a window of its own, in which time passes when told to and every WebSocket is a fake.
 *
 * It decides nothing about the client. Each page has its own globals (node:vm), so that nothing is shared between
 * tests, and nothing of Node reaches the scripts but what is named below.
 */
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const STATIC = path.join(__dirname, "..", "..", "uws4r", "static");
const CLIENT = path.join(STATIC, "uws4r", "uws4r.js");
const WS4REDIS = path.join(STATIC, "js", "ws4redis.js");

/** Timers that fire in order when `advance` passes them. */
class Clock {
  now = 0; // ms
  timers = new Map(); // id -> { at, every, call }
  #last = 0;

  set(call, delay = 0, every = null) {
    this.timers.set(++this.#last, { at: this.now + delay, every, call });
    return this.#last;
  }

  clear(id) {
    this.timers.delete(id);
  }

  advance(ms) {
    const end = this.now + ms;
    for (;;) {
      const due = [...this.timers].filter(([, timer]) => timer.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      const [id, timer] = due;
      this.now = timer.at;
      if (timer.every === null) this.timers.delete(id);
      else timer.at += timer.every;
      timer.call();
    }
    this.now = end;
  }
}

/** What the browser's WebSocket does as far as the client sees, and what the server does to it. */
class FakeWebSocket {
  onopen = null;
  onmessage = null;
  onclose = null;
  readyState = 0;
  bufferedAmount = 0;
  binaryType = "blob";
  sent = [];
  closed = []; // arguments of each close()

  constructor(url) {
    this.url = url;
  }

  send(data) {
    if (this.readyState === 0) throw new Error("InvalidStateError");
    if (this.readyState === 1) this.sent.push(data);
  }

  close(...args) {
    if (args[0] !== undefined && args[0] !== 1000 && !(args[0] >= 3000 && args[0] <= 4999)) {
      throw new Error("InvalidAccessError");
    }
    this.closed.push(args);
    if (this.readyState < 2) this.readyState = 2;
  }

  open() {
    this.readyState = 1;
    this.onopen?.({});
  }

  receive(data) {
    this.onmessage?.({ data });
  }

  drop(code = 1006, reason = "") {
    this.readyState = 3;
    this.onclose?.({ code, reason, wasClean: code !== 1006 });
  }
}

class Page {
  constructor({ href = "http://example.com/news/?page=1", script = CLIENT } = {}) {
    const page = this;
    this.clock = new Clock();
    this.sockets = []; // all that were made, in order
    this.listeners = []; // [type, listener] of the window
    this.warnings = [];
    this.refuse = null; // what the constructor of WebSocket throws
    const { clock, listeners } = this;
    const window = {
      EventTarget,
      Event,
      URL,
      Blob,
      location: new URL(href),
      console: { warn: (...values) => page.warnings.push(values.join(" ")) },
      WebSocket: class extends FakeWebSocket {
        constructor(url) {
          if (page.refuse) throw page.refuse;
          super(url);
          page.sockets.push(this);
        }
      },
      setTimeout: (call, delay) => clock.set(call, delay),
      setInterval: (call, delay) => clock.set(call, delay, delay),
      clearTimeout: (id) => clock.clear(id),
      clearInterval: (id) => clock.clear(id),
      addEventListener(type, listener) {
        if (!listeners.some((one) => one[0] === type && one[1] === listener)) listeners.push([type, listener]);
      },
      removeEventListener(type, listener) {
        const at = listeners.findIndex((one) => one[0] === type && one[1] === listener);
        if (at >= 0) listeners.splice(at, 1);
      },
    };
    this.window = vm.createContext(window);
    vm.runInContext(fs.readFileSync(script, "utf8"), this.window, { filename: script });
    this.random(0.5);
  }

  /** What Math.random gives from now on: a number, or a function. */
  random(value) {
    vm.runInContext("Math", this.window).random = typeof value === "function" ? value : () => value;
  }

  /** A client, and in `log` each of its events as "type", or "type: what it carries". */
  client(options = {}, uri = "/ws/foo?subscribe-broadcast") {
    const log = [];
    const note = (name, event) => log.push([name, event.code, event.data ?? event.reason].filter((x) => x).join(": "));
    const on = Object.fromEntries(
      ["connecting", "open", "message", "close", "giveup"].map((name) => ["on" + name, (event) => note(name, event)]),
    );
    const client = new this.window.Uws4r(uri, { ...on, ...options });
    return Object.assign(client, { log });
  }

  /** The newest socket. */
  get socket() {
    return this.sockets.at(-1);
  }

  dispatch(type, fields = {}) {
    for (const [name, listener] of [...this.listeners]) if (name === type) listener({ type, ...fields });
  }

  /** Milliseconds until the only pending timer fires. */
  get wait() {
    const [timer, ...others] = [...this.clock.timers.values()];
    if (!timer || others.length) throw new Error(`${this.clock.timers.size} timers are pending`);
    return timer.at - this.clock.now;
  }

  /** Open, and long enough to count as a good connection. */
  settle() {
    this.socket.open();
    this.clock.advance(5000);
  }
}

module.exports = { CLIENT, Page, STATIC, WS4REDIS };
