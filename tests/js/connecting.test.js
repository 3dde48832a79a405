"use strict";

const assert = require("node:assert/strict");
const { Page } = require("./page.js");

describe("the address", () => {
  const HTTP = "http://example.com/news/?page=1";
  const HTTPS = "https://example.com:8443/news/";
  for (const [page, uri, url] of [
    [HTTP, "/ws/foo?subscribe-broadcast&echo", "ws://example.com/ws/foo?subscribe-broadcast&echo"],
    [HTTPS, "/ws/foo?subscribe-broadcast", "wss://example.com:8443/ws/foo?subscribe-broadcast"],
    [HTTP, "live", "ws://example.com/news/live"],
    [HTTP, "//other.example/ws/foo", "ws://other.example/ws/foo"],
    [HTTPS, "//other.example/ws/foo", "wss://other.example/ws/foo"],
    [HTTP, "http://other.example/ws/foo", "ws://other.example/ws/foo"],
    [HTTPS, "http://other.example/ws/foo", "wss://other.example/ws/foo"],
    [HTTP, "https://other.example/ws/foo", "wss://other.example/ws/foo"],
    [HTTP, "ws://other.example:8000/ws/foo", "ws://other.example:8000/ws/foo"],
    [HTTPS, "wss://other.example/ws/foo", "wss://other.example/ws/foo"],
    [HTTP, "/ws/foo?echo#part", "ws://example.com/ws/foo?echo"],
    [HTTP, new URL("http://example.com/ws/foo"), "ws://example.com/ws/foo"],
  ]) {
    it(`${uri} on ${page.split(":")[0]} is ${url}`, () => {
      const page_ = new Page({ href: page });
      const client = page_.client({}, uri);
      assert.equal(page_.socket.url, url);
      assert.equal(client.url, url);
    });
  }

  for (const uri of [undefined, null, "", "ftp://example.com/", "http://", "wss://user name@/", "mailto:me@example.com"]) {
    it(`${JSON.stringify(uri)} is refused, and the error says what to write`, () => {
      const page = new Page();
      assert.throws(() => new page.window.Uws4r(uri), { name: "TypeError", message: /write new Uws4r\("\/ws\/foo/ });
      assert.equal(page.sockets.length, 0);
      assert.equal(page.listeners.length, 0);
    });
  }
});

describe("the options", () => {
  for (const [options, message] of [
    [{ hearbeat: "--" }, /no option hearbeat; write heartbeat, giveUpAfter/],
    [{ heartbeat: 5 }, /heartbeat is 5; write the string of WS4REDIS_HEARTBEAT, or null/],
    [{ heartbeat: "" }, /heartbeat is ; write/],
    [{ giveUpAfter: 0 }, /giveUpAfter is 0; write a number of attempts from 1 on/],
    [{ giveUpAfter: "3" }, /giveUpAfter is 3; write a number/],
    [{ queueLimit: -1 }, /queueLimit is -1; write a number of messages from 0 on/],
    [{ queueLimit: NaN }, /queueLimit is NaN; write a number/],
    [{ binaryType: "text" }, /binaryType is text; write "arraybuffer" or "blob"/],
    [{ onmessage: "show" }, /onmessage is show; write a function/],
    [{ onclose: {} }, /onclose is \[object Object\]; write a function/],
    ["onmessage", /options are onmessage; write \{ onmessage/],
    [() => 1, /the options are .*; write \{ onmessage/],
  ]) {
    it(`${JSON.stringify(options)} is refused, and the error says what to write`, () => {
      const page = new Page();
      assert.throws(() => new page.window.Uws4r("/ws/foo", options), { name: "TypeError", message });
      assert.equal(page.sockets.length, 0);
    });
  }

  it("may be left out, null or undefined", () => {
    const page = new Page();
    new page.window.Uws4r("/ws/foo");
    new page.window.Uws4r("/ws/foo", null);
    new page.window.Uws4r("/ws/foo", { heartbeat: null, onopen: undefined, queueLimit: null, giveUpAfter: Infinity });
    assert.equal(page.sockets.length, 3);
  });

  it("binaryType is an arraybuffer unless it is a blob, on every socket", () => {
    const page = new Page();
    page.client();
    assert.equal(page.socket.binaryType, "arraybuffer");
    page.client({ binaryType: "blob" });
    page.socket.drop();
    page.clock.advance(1000);
    assert.equal(page.sockets.length, 3);
    assert.equal(page.socket.binaryType, "blob");
  });
});

describe("events", () => {
  it("come to callbacks and to listeners alike, as a WebSocket's do", () => {
    const page = new Page();
    const client = page.client();
    const heard = [];
    for (const name of ["connecting", "open", "message", "close", "giveup"]) {
      client.addEventListener(name, (event) => heard.push([event.type, event.code, event.data ?? event.reason]));
    }
    page.socket.open();
    page.socket.receive("hello");
    page.socket.drop(1012, "restart");
    page.clock.advance(1000);
    page.socket.open();
    page.socket.drop(4001, "banned");
    assert.deepEqual(client.log, [
      "connecting", "open", "message: hello", "close: 1012: restart",
      "connecting", "open", "close: 4001: banned", "giveup: 4001: the server closed with 4001 banned",
    ]);
    assert.deepEqual(heard, [
      ["open", undefined, undefined],
      ["message", undefined, "hello"],
      ["close", 1012, "restart"],
      ["connecting", undefined, undefined],
      ["open", undefined, undefined],
      ["close", 4001, "banned"],
      ["giveup", 4001, "the server closed with 4001 banned"],
    ]);
  });

  it("a callback's this is the client, and a listener can be removed", () => {
    const page = new Page();
    let self;
    const client = page.client({ onopen() { self = this; } });
    const never = () => assert.fail("removed");
    client.addEventListener("open", never);
    client.removeEventListener("open", never);
    page.socket.open();
    assert.equal(self, client);
  });

  it("wasClean tells a close from a loss", () => {
    const page = new Page();
    const clean = [];
    page.client({ onclose: (event) => clean.push(event.wasClean) });
    page.socket.drop(1001);
    page.clock.advance(1000);
    page.socket.drop(1006);
    assert.deepEqual(clean, [true, false]);
  });

  it("state and readyState follow", () => {
    const page = new Page();
    const client = page.client();
    const seen = () => [client.state, client.readyState];
    assert.deepEqual(seen(), ["connecting", 0]);
    page.socket.open();
    page.socket.bufferedAmount = 17;
    assert.deepEqual(seen(), ["open", 1]);
    assert.equal(client.bufferedAmount, 17);
    page.socket.drop();
    assert.deepEqual(seen(), ["waiting", 3]);
    assert.equal(client.bufferedAmount, 0);
    page.clock.advance(1000);
    assert.deepEqual(seen(), ["connecting", 0]);
    page.socket.open();
    client.close();
    assert.deepEqual(seen(), ["closing", 2]);
    page.socket.drop(1005);
    assert.deepEqual(seen(), ["closed", 3]);
    client.reconnect();
    page.socket.open();
    page.socket.drop(1008);
    assert.deepEqual(seen(), ["gaveup", 3]);
  });
});
