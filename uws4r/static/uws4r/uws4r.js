/*
 * The browser client of uws4r: a WebSocket that comes back.
 *
 *   <script src="{% static 'uws4r/uws4r.js' %}"></script>
 *   <script>
 *     const client = new Uws4r("/ws/news?subscribe-broadcast&publish-broadcast", {
 *       onopen: () => console.log("open"),
 *       onmessage: (event) => console.log(event.data),
 *       onclose: (event) => console.log(event.code, client.state), // "waiting": it comes back by itself
 *       ongiveup: (event) => console.log(event.reason), // it does not: client.reconnect() starts again
 *     });
 *     client.addEventListener("message", (event) => console.log("the same", event.data));
 *     client.send("hello"); // queued until it is open
 *   </script>
 *
 * docs/reference/javascript.md has every option, method and event.
 */
(() => {
  "use strict";

  const SECOND = 1000;
  const HEARTBEAT_EVERY = 5 * SECOND; // the server sends its own about every 4 seconds
  const MISSES = 3;
  const LONGEST_WAIT = 30 * SECOND;
  const TRY_AGAIN_LATER_WAIT = 5 * SECOND; // at least, after close code 1013
  const LASTING = 5 * SECOND; // a server that accepts and drops at once is not to be hammered

  const number = (least) => (value) => typeof value === "number" && value >= least;

  // name: [default, test, what to write]
  const OPTIONS = {
    heartbeat: [null, (value) => value && typeof value === "string", "the string of WS4REDIS_HEARTBEAT, or null"],
    giveUpAfter: [null, number(1), "a number of attempts from 1 on, or Infinity"],
    queueLimit: [100, number(0), "a number of messages from 0 on, or Infinity"],
    binaryType: ["arraybuffer", (value) => value === "arraybuffer" || value === "blob", '"arraybuffer" or "blob"'],
  };
  const EVENTS = ["connecting", "open", "message", "close", "giveup"];
  for (const type of EVENTS) OPTIONS["on" + type] = [null, (value) => typeof value === "function", "a function"];

  function addressOf(uri) {
    const page = globalThis.location;
    let url;
    try {
      url = new URL(uri || "wrong:", page && page.href);
    } catch {}
    if (url && /^https?:$/.test(url.protocol)) {
      // A page that came over TLS may not open an unencrypted websocket (mixed content).
      url.protocol = url.protocol === "https:" || (page && page.protocol === "https:") ? "wss:" : "ws:";
    }
    if (!url || !/^wss?:$/.test(url.protocol)) {
      throw new TypeError(`Uws4r: ${uri} is no address; write new Uws4r("/ws/foo?subscribe-broadcast") or wss://…`);
    }
    url.hash = ""; // a WebSocket must not have one (RFC 6455 §3)
    return url.href;
  }

  function complete(options) {
    const known = {};
    for (const name in OPTIONS) known[name] = OPTIONS[name][0];
    if (typeof options !== "object") {
      throw new TypeError(`Uws4r: the options are ${options}; write { onmessage: (event) => … }`);
    }
    for (const [name, value] of Object.entries(options || {})) {
      if (!(name in known)) {
        throw new TypeError(`Uws4r: there is no option ${name}; write ${Object.keys(known).join(", ")}`);
      }
      if (value == null) continue;
      if (!OPTIONS[name][1](value)) throw new TypeError(`Uws4r: option ${name} is ${value}; write ${OPTIONS[name][2]}`);
      known[name] = value;
    }
    return known;
  }

  class Uws4r extends EventTarget {
    #options;
    #state = "closed";
    #socket = null;
    #queue = [];
    #opened = false; // ever
    #lasted = false; // the present connection, for LASTING
    #waits = 0; // in a row: the exponent of the next one
    #failures = 0; // attempts in a row that made no connection, or none that lasted
    #misses = 0; // heartbeats sent since something was received
    #beat; // interval of the heartbeat
    #timer; // while open: until it has lasted; while waiting: until the next attempt

    constructor(uri, options = {}) {
      super();
      this.url = addressOf(uri);
      this.#options = complete(options);
      for (const type of EVENTS) {
        const listener = this.#options["on" + type];
        if (listener) this.addEventListener(type, listener);
      }
      this.reconnect();
    }

    get state() {
      return this.#state;
    }

    get readyState() {
      return this.#socket ? this.#socket.readyState : 3;
    }

    get bufferedAmount() {
      return this.#socket ? this.#socket.bufferedAmount : 0;
    }

    send(data) {
      // By name, not by instanceof: what comes out of another frame has another frame's classes.
      const type = Object.prototype.toString.call(data).slice(8, -1);
      if (!/^(String|Blob|File|ArrayBuffer)$/.test(type) && !ArrayBuffer.isView(data)) {
        throw new TypeError(`Uws4r: cannot send ${type}; write JSON.stringify(…), ArrayBuffer, typed array or Blob`);
      }
      if (this.#state === "open") {
        this.#socket.send(data);
        return;
      }
      const waiting = this.#queue.length;
      if (this.#state !== "connecting" && this.#state !== "waiting") {
        throw new Error(`Uws4r: cannot send, the client is ${this.#state}; reconnect() starts it again`);
      }
      if (waiting >= this.#options.queueLimit) {
        throw new Error(`Uws4r: cannot send, it is ${this.#state} and ${waiting} messages wait (option queueLimit)`);
      }
      this.#queue.push(data);
    }

    close(code, reason) {
      if (this.#state === "closing") return;
      if (this.#socket) this.#socket.close(code, reason); // first of all: it throws for a wrong code
      this.#stop(this.#socket ? "closing" : "closed");
    }

    reconnect() {
      if (this.#state === "closing") this.#lost(1006, "reconnect()");
      if (this.#state !== "waiting" && this.#socket) return;
      this.#waits = this.#failures = 0;
      if (globalThis.addEventListener) {
        addEventListener("online", this.#wake);
        addEventListener("pageshow", this.#wake);
      }
      this.#connect();
    }

    #connect() {
      clearTimeout(this.#timer);
      this.#lasted = false;
      this.#state = "connecting";
      let socket;
      try {
        socket = new WebSocket(this.url);
      } catch (error) {
        this.#lost(1006, error.message);
        return;
      }
      this.#socket = socket;
      socket.binaryType = this.#options.binaryType;
      socket.onopen = () => this.#open();
      socket.onmessage = (event) => {
        this.#misses = 0;
        if (event.data !== this.#options.heartbeat) this.#fire("message", { data: event.data });
      };
      socket.onclose = (event) => this.#lost(event.code, event.reason, event.wasClean);
      this.#fire("connecting");
    }

    #open() {
      if (this.#state === "closing") return;
      this.#state = "open";
      this.#opened = true;
      this.#misses = 0;
      this.#timer = setTimeout(() => {
        this.#lasted = true;
        this.#waits = this.#failures = 0;
      }, LASTING);
      if (this.#options.heartbeat) this.#beat = setInterval(() => this.#heartbeat(), HEARTBEAT_EVERY);
      for (const data of this.#queue.splice(0)) this.#socket.send(data);
      this.#fire("open");
    }

    #heartbeat() {
      if (++this.#misses > MISSES) this.#lost(1006, "no heartbeat");
      else this.#socket.send(this.#options.heartbeat);
    }

    /** The connection is over, or the attempt at one: decide what follows, then tell. */
    #lost(code, reason, wasClean = false) {
      const socket = this.#socket;
      this.#socket = null;
      clearInterval(this.#beat);
      clearTimeout(this.#timer);
      if (socket) {
        // The browser waits minutes for the close frame of a dead peer; nobody here does.
        socket.onopen = socket.onmessage = socket.onclose = null;
        socket.close();
      }
      let why;
      if (this.#state === "closing") this.#state = "closed";
      else {
        if (!this.#lasted) this.#failures++;
        const limit = this.#options.giveUpAfter || (this.#opened ? Infinity : 10);
        if (code === 1008 || (code >= 4000 && code < 4500)) why = `the server closed with ${code} ${reason}`;
        else if (this.#failures >= limit) {
          // A 403 looks like a refused connection: a page must not be able to explore a network.
          why = `${this.#failures} attempts in a row failed, the server is away or refuses: see its log. ${reason}`;
        }
        if (why) this.#stop("gaveup");
        else {
          this.#state = "waiting";
          // Anything from 0 on: clients that were dropped in one instant must not come back in one.
          const jitter = Math.random() * Math.min(LONGEST_WAIT, (2 ** ++this.#waits - 1) * SECOND);
          this.#timer = setTimeout(() => this.#connect(), jitter + (code === 1013 ? TRY_AGAIN_LATER_WAIT : 0));
        }
      }
      this.#fire("close", { code, reason, wasClean });
      if (why) this.#fire("giveup", { code, reason: why.trim() });
    }

    #stop(state) {
      this.#state = state;
      this.#queue = [];
      clearInterval(this.#beat);
      clearTimeout(this.#timer);
      if (globalThis.removeEventListener) {
        removeEventListener("online", this.#wake);
        removeEventListener("pageshow", this.#wake);
      }
    }

    /** The network is back ("online"), or the page ("pageshow", which comes with every load too). */
    #wake = (event) => {
      if (event.persisted === false) return;
      // The close event of a page that lies in the back/forward cache may never come.
      if (this.readyState === 3 && this.#socket) this.#lost(1006, "noticed late");
      if (this.#state === "waiting") this.#connect();
    };

    #fire(type, fields) {
      this.dispatchEvent(Object.assign(new Event(type), fields));
    }
  }

  globalThis.Uws4r = Uws4r;
  if (typeof module === "object") module.exports = Uws4r;
})();
