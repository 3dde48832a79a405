"use strict";

const assert = require("node:assert/strict");
const { Page } = require("./page.js");

/** Nothing is left that could wake up. */
function assertQuiet(page) {
  assert.equal(page.clock.timers.size, 0);
  assert.deepEqual(page.listeners, []);
}

describe("close", () => {
  it("sends its code and reason, and there is no coming back", () => {
    const page = new Page();
    const client = page.client({ heartbeat: "--" });
    page.settle();
    client.close(4100, "bye");
    assert.deepEqual(page.socket.closed, [[4100, "bye"]]);
    assertQuiet(page);
    page.socket.drop(4100, "bye");
    assert.deepEqual(client.log, ["connecting", "open", "close: 4100: bye"]);
    assert.equal(client.state, "closed");
    assertQuiet(page);
    page.clock.advance(1e7);
    assert.equal(page.sockets.length, 1);
  });

  it("cancels a pending attempt", () => {
    const page = new Page();
    const client = page.client();
    page.socket.drop();
    client.close();
    assert.equal(client.state, "closed");
    assertQuiet(page);
    page.clock.advance(1e7);
    page.dispatch("online");
    assert.equal(page.sockets.length, 1);
  });

  it("ends an attempt under way, even one that succeeds in the same moment", () => {
    const page = new Page();
    const client = page.client();
    client.close();
    page.socket.open();
    assert.equal(client.state, "closing");
    page.socket.drop();
    assert.equal(client.state, "closed");
    assert.deepEqual(client.log, ["connecting", "close: 1006"]);
    assertQuiet(page);
  });

  it("drops the queue", () => {
    const page = new Page();
    const client = page.client();
    client.send("never");
    client.close();
    client.reconnect();
    page.socket.open();
    assert.deepEqual(page.socket.sent, []);
  });

  it("with a code that the browser refuses changes nothing", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    assert.throws(() => client.close(1001));
    assert.equal(client.state, "open");
    page.socket.drop();
    assert.equal(client.state, "waiting");
  });

  it("may be called by a callback, at any moment", () => {
    for (const name of ["onconnecting", "onopen", "onmessage", "onclose"]) {
      const page = new Page();
      let client = null;
      let closed = false;
      const close = () => {
        if (client && !closed) {
          closed = true;
          client.close();
        }
      };
      client = page.client({ [name]: close });
      page.socket.open();
      page.socket.receive("x");
      page.socket.drop();
      page.clock.advance(1000);
      page.socket.drop(1005);
      page.clock.advance(1e6);
      assert.equal(client.state, "closed", name);
      assertQuiet(page);
    }
  });

  it("twice is once", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    client.close();
    client.close();
    assert.equal(page.socket.closed.length, 1);
  });

  it("after giving up is closed", () => {
    const page = new Page();
    const client = page.client();
    page.socket.drop(1008);
    assertQuiet(page);
    client.close();
    assert.equal(client.state, "closed");
    assertQuiet(page);
  });
});

describe("reconnect", () => {
  it("starts again after close()", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    client.close();
    page.socket.drop(1005);
    client.reconnect();
    page.settle();
    page.socket.drop();
    page.clock.advance(1000);
    assert.equal(page.sockets.length, 3);
    assert.equal(client.state, "connecting");
  });

  it("does not wait for a close under way", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    client.close();
    client.reconnect();
    assert.equal(client.state, "connecting");
    page.sockets[0].drop(1005);
    page.socket.open();
    assert.deepEqual(client.log, ["connecting", "open", "close: 1006: reconnect()", "connecting", "open"]);
  });

  it("ends a wait, and does nothing to a connection", () => {
    const page = new Page();
    const client = page.client();
    client.reconnect();
    page.settle();
    client.reconnect();
    assert.equal(page.sockets.length, 1);
    page.socket.drop();
    client.reconnect();
    assert.equal(page.sockets.length, 2);
    assert.equal(page.clock.timers.size, 0);
    assert.equal(page.listeners.length, 2);
  });
});

describe("two clients on one page", () => {
  it("do not disturb each other", () => {
    const page = new Page();
    const one = page.client({ heartbeat: "-1-" }, "/ws/one");
    const two = page.client({ heartbeat: "-2-", queueLimit: 1 }, "/ws/two");
    const [first, second] = page.sockets;
    one.send("to one");
    two.send("to two");
    first.open();
    second.open();
    assert.deepEqual([first.sent, second.sent], [["to one"], ["to two"]]);
    second.receive("-1-");
    assert.deepEqual(one.log, ["connecting", "open"]);
    assert.deepEqual(two.log, ["connecting", "open", "message: -1-"]);
    page.clock.advance(15000);
    second.receive("alive");
    page.clock.advance(5000);
    assert.deepEqual([one.state, two.state], ["waiting", "open"]);
    one.close();
    assert.equal(two.state, "open");
    assert.equal(page.listeners.length, 2);
    second.drop();
    page.dispatch("online");
    assert.deepEqual([one.state, two.state], ["closed", "connecting"]);
    two.close();
    page.socket.drop();
    assertQuiet(page);
  });
});
