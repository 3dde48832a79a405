"use strict";

const assert = require("node:assert/strict");
const { Page } = require("./page.js");

const BEAT = "--heartbeat--";

describe("the heartbeat", () => {
  it("is sent every 5 seconds while open, and only then", () => {
    const page = new Page();
    page.client({ heartbeat: BEAT });
    page.clock.advance(20000);
    page.socket.open();
    assert.deepEqual(page.socket.sent, []);
    page.clock.advance(4999);
    assert.deepEqual(page.socket.sent, []);
    page.clock.advance(1);
    assert.deepEqual(page.socket.sent, [BEAT]);
    page.clock.advance(10000);
    assert.deepEqual(page.socket.sent, [BEAT, BEAT, BEAT]);
  });

  it("is not sent unless asked for", () => {
    const page = new Page();
    const client = page.client();
    page.socket.open();
    page.clock.advance(1e6);
    assert.deepEqual(page.socket.sent, []);
    assert.equal(client.state, "open");
  });

  it("of the server is not passed on, everything else is", () => {
    const page = new Page();
    const client = page.client({ heartbeat: BEAT });
    page.socket.open();
    for (const data of [BEAT, "a", BEAT, `${BEAT} `]) page.socket.receive(data);
    assert.deepEqual(client.log.slice(2), ["message: a", `message: ${BEAT} `]);
  });

  it("may be missed 3 times, not 4", () => {
    const page = new Page();
    const client = page.client({ heartbeat: BEAT });
    page.socket.open();
    page.clock.advance(19999);
    assert.equal(client.state, "open");
    page.clock.advance(1);
    assert.equal(client.state, "waiting");
    assert.deepEqual(client.log.at(-1), "close: 1006: no heartbeat");
    page.clock.advance(1000);
    assert.equal(page.sockets.length, 2);
  });

  for (const [what, data] of [["heartbeat", BEAT], ["message", "news"], ["binary message", new ArrayBuffer(3)]]) {
    it(`is not missed while something comes: a ${what}`, () => {
      const page = new Page();
      const client = page.client({ heartbeat: BEAT });
      page.socket.open();
      for (let i = 0; i < 20; i++) {
        page.clock.advance(15000);
        page.socket.receive(data);
      }
      assert.equal(client.state, "open");
      assert.equal(page.sockets.length, 1);
    });
  }

  it("missed, does not wait for the close frame of a dead peer, nor hear of it when it comes", () => {
    const page = new Page();
    const client = page.client({ heartbeat: BEAT });
    page.socket.open();
    page.clock.advance(20000);
    const [dead] = page.sockets;
    assert.equal(dead.closed.length, 1);
    assert.equal(dead.readyState, 2);
    page.clock.advance(1000);
    page.socket.open();
    dead.receive("from the grave");
    dead.drop(4000);
    assert.equal(client.state, "open");
    assert.deepEqual(client.log, ["connecting", "open", "close: 1006: no heartbeat", "connecting", "open"]);
  });

  it("leaves no timer behind when the connection closes", () => {
    const page = new Page();
    const client = page.client({ heartbeat: BEAT });
    page.settle();
    page.socket.drop();
    assert.equal(page.clock.timers.size, 1); // the wait
    page.clock.advance(1000);
    page.settle();
    client.close();
    assert.equal(page.clock.timers.size, 0);
  });
});
