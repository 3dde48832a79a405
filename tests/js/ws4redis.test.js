"use strict";

const assert = require("node:assert/strict");
const { Page, WS4REDIS } = require("./page.js");

const URI = "ws://example.com/ws/foo?subscribe-broadcast&echo";
const BEAT = "--heartbeat--";

/** A page with a WS4Redis written as the manual shows, and what its callbacks were told. */
function start(options = {}, ...more) {
  const page = new Page({ script: WS4REDIS });
  const told = [];
  const old = page.window.WS4Redis(
    {
      uri: URI,
      connecting: (...values) => told.push(["connecting", ...values]),
      connected: (...values) => told.push(["connected", ...values]),
      disconnected: (event) => told.push(["disconnected", event.code]),
      receive_message: (...values) => told.push(["receive_message", ...values]),
      heartbeat_msg: BEAT,
      ...options,
    },
    ...more,
  );
  return { page, old, told };
}

describe("WS4Redis", () => {
  it("K1: is made with or without new, with or without jQuery", () => {
    const { page, old } = start({}, function jQuery() {});
    assert.ok(old instanceof page.window.WS4Redis);
    assert.ok(new page.window.WS4Redis({ uri: URI }) instanceof page.window.WS4Redis);
    assert.deepEqual(page.sockets.map((socket) => socket.url), [URI, URI]);
  });

  it("K1: wants a URI", () => {
    const { WS4Redis } = new Page({ script: WS4REDIS }).window;
    const refused = { name: "Error", message: "No Websocket URI in options" };
    for (const options of [undefined, null, {}, { uri: undefined }, { uri: "" }]) {
      assert.throws(() => new WS4Redis(options), refused);
      assert.throws(() => WS4Redis(options), refused);
    }
  });

  it("K2: calls back: connecting, connected, receive_message with the data, disconnected with the event", () => {
    const { page, told } = start();
    page.socket.open();
    page.socket.receive("hello");
    page.socket.drop(1012);
    page.clock.advance(1000);
    assert.deepEqual(told, [
      ["connecting"], ["connected"], ["receive_message", "hello"], ["disconnected", 1012], ["connecting"],
    ]);
  });

  it("K2: does without callbacks, and ignores options that it does not know", () => {
    const { page, old } = start({
      connecting: undefined, connected: null, disconnected: "no function", receive_message: 5, heartbeat_msg: null, more: 1,
    });
    page.socket.open();
    page.socket.receive("x");
    page.socket.drop();
    assert.ok(old.is_closed());
  });

  it("K3: sends, and queues while it is not connected", () => {
    const { page, old } = start();
    old.send_message("early");
    page.socket.open();
    const { send_message } = old;
    send_message("detached");
    old.send_message(5);
    assert.deepEqual(page.socket.sent, ["early", "detached", "5"]);
  });

  it("K3: tells its state", () => {
    const { page, old } = start();
    const state = () => [
      old.get_state(), old.is_connecting(), old.is_connected(), old.is_closing(), old.is_closed(),
    ];
    assert.deepEqual(state(), [0, true, false, false, false]);
    page.socket.open();
    assert.deepEqual(state(), [1, false, true, false, false]);
    old.close();
    assert.deepEqual(state(), [2, false, false, true, false]);
    page.socket.drop(1005);
    assert.deepEqual(state(), [3, false, false, false, true]);
  });

  it("K3: after close() sends nothing and warns, as a WebSocket does", () => {
    const { page, old } = start();
    page.socket.open();
    old.close();
    old.send_message("late");
    page.socket.drop(1005);
    old.send_message("later");
    assert.deepEqual(page.socket.sent, []);
    assert.deepEqual(page.warnings, ["WS4Redis is closed, not sent: late", "WS4Redis is closed, not sent: later"]);
  });

  it("K5: has the heartbeat: sent every 5 seconds, not passed on", () => {
    const { page, told } = start();
    page.socket.open();
    page.clock.advance(5000);
    page.socket.receive(BEAT);
    assert.deepEqual(page.socket.sent, [BEAT]);
    assert.deepEqual(told, [["connecting"], ["connected"]]);
  });

  it("K4: does not give up, however long the server is away", () => {
    const { page } = start();
    for (let i = 0; i < 200; i++) {
      page.socket.drop();
      page.clock.advance(30000);
    }
    assert.equal(page.sockets.length, 201);
  });

  it("receives binary as a browser gives it: blobs", () => {
    assert.equal(start().page.socket.binaryType, "blob");
  });

  it("brings the new client along", () => {
    assert.equal(typeof start().page.window.Uws4r, "function");
  });
});

describe("the bugs of ws4redis.js", () => {
  it("BUG-J: !is_closing() || !is_closed() is always true: close() closes only what is open", () => {
    const { page, old } = start();
    page.socket.open();
    old.close();
    old.close();
    page.socket.drop(1005);
    const { length } = page.socket.closed;
    old.close();
    assert.equal(page.socket.closed.length, length);
    assert.deepEqual(page.socket.closed[0], [undefined, undefined]);
  });

  it("BUG-J: heartbeats missed by the old connection close the fresh one", () => {
    const { page, old, told } = start();
    page.socket.open();
    page.clock.advance(16000); // three misses
    page.socket.drop();
    page.clock.advance(1000);
    page.socket.open();
    page.clock.advance(19000);
    assert.ok(old.is_connected());
    assert.equal(page.sockets.length, 2);
    assert.deepEqual(page.socket.sent, [BEAT, BEAT, BEAT]);
    assert.equal(told.filter(([name]) => name === "disconnected").length, 1);
  });

  it("BUG-J: close() does not cancel a pending reconnect", () => {
    const { page, old } = start();
    page.socket.open();
    page.socket.drop();
    old.close();
    page.clock.advance(1e6);
    assert.equal(page.sockets.length, 1);
    assert.equal(page.clock.timers.size, 0);
  });

  it("BUG-J: if the very first WebSocket throws, the next one has no URI", () => {
    const page = new Page({ script: WS4REDIS });
    page.refuse = new Error("not now");
    const old = new page.window.WS4Redis({ uri: URI });
    assert.ok(old.is_closed());
    page.refuse = null;
    page.clock.advance(1000);
    assert.equal(page.socket.url, URI);
  });

  it("BUG-J: the manual says 3 missed heartbeats, the code 4: it is the fourth", () => {
    const { page, old } = start();
    page.socket.open();
    page.clock.advance(19999);
    assert.ok(old.is_connected());
    page.clock.advance(1);
    assert.ok(old.is_closed());
  });
});
