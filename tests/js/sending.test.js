"use strict";

const assert = require("node:assert/strict");
const { Page } = require("./page.js");

describe("send", () => {
  it("while not open is queued, and sent in order before what is sent from then on", () => {
    const page = new Page();
    const client = page.client({ onopen: () => client.send("in onopen") });
    client.send("one");
    client.send("two");
    page.socket.open();
    client.send("three");
    assert.deepEqual(page.socket.sent, ["one", "two", "in onopen", "three"]);
  });

  it("while waiting is queued for the next connection, and sent once", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    page.socket.drop();
    client.send("queued");
    page.clock.advance(1000);
    page.socket.drop();
    page.clock.advance(3000);
    page.settle();
    assert.deepEqual(page.socket.sent, ["queued"]);
    page.socket.drop();
    page.clock.advance(1000);
    page.socket.open();
    assert.deepEqual(page.socket.sent, []);
  });

  it("takes text and every form of binary, of any frame", () => {
    const page = new Page();
    const client = page.client();
    const { window } = page;
    const good = ["", "text", new ArrayBuffer(1), new Uint8Array(2), new DataView(new ArrayBuffer(3)), new Blob(["x"])];
    page.socket.open();
    for (const data of good) client.send(data);
    assert.deepEqual(page.socket.sent, good);
    assert.notEqual(window.ArrayBuffer, ArrayBuffer);
  });

  for (const data of [undefined, null, 5, true, {}, [1], new Date(0)]) {
    it(`refuses ${data === undefined ? data : JSON.stringify(data)}, open or not`, () => {
      const page = new Page();
      const client = page.client();
      const refused = { name: "TypeError", message: /^Uws4r: cannot send \w+; write JSON\.stringify/ };
      assert.throws(() => client.send(data), refused);
      page.socket.open();
      assert.throws(() => client.send(data), refused);
      assert.deepEqual(page.socket.sent, []);
    });
  }

  it("throws when 100 messages wait", () => {
    const page = new Page();
    const client = page.client();
    for (let i = 0; i < 100; i++) client.send(String(i));
    const full = { name: "Error", message: "Uws4r: cannot send, it is connecting and 100 messages wait (option queueLimit)" };
    assert.throws(() => client.send("100"), full);
    page.socket.open();
    assert.equal(page.socket.sent.length, 100);
    client.send("100");
    assert.equal(page.socket.sent.at(-1), "100");
  });

  it("queues as many as queueLimit says: 2, 0, any number", () => {
    const page = new Page();
    const two = page.client({ queueLimit: 2 });
    two.send("1");
    two.send("2");
    assert.throws(() => two.send("3"), /2 messages wait/);
    assert.throws(() => page.client({ queueLimit: 0 }).send("1"), /0 messages wait \(option queueLimit\)/);
    const any = page.client({ queueLimit: Infinity });
    for (let i = 0; i < 1000; i++) any.send("x");
    page.socket.open();
    assert.equal(page.socket.sent.length, 1000);
  });

  it("throws after close() and after giving up", () => {
    const page = new Page();
    const client = page.client();
    page.socket.open();
    client.close();
    assert.throws(() => client.send("x"), /cannot send, the client is closing; reconnect\(\) starts it again/);
    page.socket.drop(1005);
    assert.throws(() => client.send("x"), /the client is closed/);
    client.reconnect();
    page.socket.drop(1008);
    assert.throws(() => client.send("x"), /the client is gaveup/);
  });
});
