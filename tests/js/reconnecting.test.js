"use strict";

const assert = require("node:assert/strict");
const { Page } = require("./page.js");

/** The longest waits of `count` failures in a row. */
function longestWaits(page, count, code = 1006) {
  const waits = [];
  for (let i = 0; i < count; i++) {
    page.socket.drop(code);
    waits.push(page.wait);
    page.clock.advance(page.wait);
  }
  return waits;
}

describe("the wait", () => {
  it("is at most 2^k - 1 seconds before attempt k, and at most 30", () => {
    const page = new Page();
    page.random(1);
    page.client({ giveUpAfter: Infinity });
    assert.deepEqual(longestWaits(page, 8), [1000, 3000, 7000, 15000, 30000, 30000, 30000, 30000]);
  });

  it("is anything from 0 on: full jitter", () => {
    for (const part of [0, 0.25, 0.999]) {
      const page = new Page();
      page.random(part);
      page.client({ giveUpAfter: Infinity });
      assert.deepEqual(longestWaits(page, 5), [1000, 3000, 7000, 15000, 30000].map((longest) => longest * part));
    }
  });

  it("stays within its bounds and fills them, with the real Math.random", () => {
    const page = new Page();
    page.random(Math.random);
    const waits = [];
    for (let i = 0; i < 400; i++) {
      const client = page.client();
      page.socket.drop(1012);
      waits.push(page.wait);
      client.close();
    }
    assert.ok(waits.every((wait) => wait >= 0 && wait < 1000));
    for (let tenth = 0; tenth < 1000; tenth += 100) {
      // 40 are expected; fewer than 10 in one tenth happens once in 10^9 runs.
      assert.ok(waits.filter((wait) => wait >= tenth && wait < tenth + 100).length >= 10, `${tenth} ms: ${waits}`);
    }
  });

  it("after the restart of a server is jittered the first time too: 50 tabs do not come back in one instant", () => {
    const page = new Page();
    let count = 0;
    page.random(() => count++ / 50);
    const clients = Array.from({ length: 50 }, () => page.client());
    const first = [...page.sockets];
    for (const socket of first) socket.open();
    page.clock.advance(60000);
    for (const socket of first) socket.drop(1012);
    assert.equal(page.sockets.length, 50);
    let most = 0;
    for (let ms = 0; ms < 1000; ms += 50) {
      const before = page.sockets.length;
      page.clock.advance(50);
      most = Math.max(most, page.sockets.length - before);
    }
    assert.equal(page.sockets.length, 100);
    assert.ok(most <= 4, `${most} within 50 ms`);
    assert.ok(clients.every((client) => client.state === "connecting"));
  });

  it("starts afresh after a connection that lasted", () => {
    const page = new Page();
    page.random(1);
    page.client();
    assert.deepEqual(longestWaits(page, 3), [1000, 3000, 7000]);
    page.settle();
    assert.deepEqual(longestWaits(page, 2), [1000, 3000]);
  });

  it("goes on growing where a server accepts and drops at once", () => {
    const page = new Page();
    page.random(1);
    page.client();
    const waits = [];
    for (let i = 0; i < 5; i++) {
      page.socket.open();
      page.clock.advance(4999);
      page.socket.drop(1011);
      waits.push(page.wait);
      page.clock.advance(page.wait);
    }
    assert.deepEqual(waits, [1000, 3000, 7000, 15000, 30000]);
  });
});

describe("close codes", () => {
  for (const code of [1000, 1001, 1002, 1003, 1005, 1006, 1007, 1009, 1011, 1012, 3000, 3999, 4500, 4999]) {
    it(`${code}: comes back with jitter`, () => {
      const page = new Page();
      const client = page.client();
      page.settle();
      page.socket.drop(code);
      assert.equal(client.state, "waiting");
      assert.equal(page.wait, 500);
      page.clock.advance(500);
      assert.equal(page.sockets.length, 2);
    });
  }

  it("1013: comes back after 5 seconds at least, and jitter", () => {
    for (const [part, wait] of [[0, 5000], [0.5, 5500], [1, 6000]]) {
      const page = new Page();
      page.random(part);
      page.client();
      page.settle();
      page.socket.drop(1013);
      assert.equal(page.wait, wait);
      page.clock.advance(wait);
      assert.equal(page.sockets.length, 2);
    }
  });

  for (const code of [1008, 4000, 4001, 4499]) {
    it(`${code}: never comes back, and says so`, () => {
      const page = new Page();
      const client = page.client({ giveUpAfter: Infinity });
      page.settle();
      page.socket.drop(code, "because");
      assert.equal(client.state, "gaveup");
      assert.deepEqual(client.log.slice(2), [
        `close: ${code}: because`, `giveup: ${code}: the server closed with ${code} because`,
      ]);
      page.clock.advance(1e7);
      assert.equal(page.sockets.length, 1);
    });
  }

  it("state says in the close event already what follows", () => {
    const page = new Page();
    const states = [];
    const client = page.client({ onclose: () => states.push(client.state) });
    page.settle();
    page.socket.drop(1012);
    page.clock.advance(1000);
    page.socket.open();
    page.socket.drop(1008);
    assert.deepEqual(states, ["waiting", "gaveup"]);
  });
});

describe("the network comes back", () => {
  it("ends a wait at once", () => {
    const page = new Page();
    page.client();
    page.settle();
    page.socket.drop();
    page.dispatch("online");
    assert.equal(page.sockets.length, 2);
    assert.equal(page.clock.timers.size, 0);
    page.clock.advance(60000);
    assert.equal(page.sockets.length, 2);
  });

  it("does nothing to a connection, or an attempt at one", () => {
    const page = new Page();
    const client = page.client();
    page.dispatch("online");
    page.settle();
    page.dispatch("online");
    assert.equal(page.sockets.length, 1);
    assert.equal(client.state, "open");
  });
});

describe("a page in the back/forward cache", () => {
  it("notices a dead socket whose close event never came", () => {
    const page = new Page();
    const client = page.client();
    page.settle();
    page.socket.readyState = 3;
    page.dispatch("pageshow", { persisted: true });
    assert.equal(page.sockets.length, 2);
    assert.deepEqual(client.log, ["connecting", "open", "close: 1006: noticed late", "connecting"]);
    page.sockets[0].drop(); // late after all: nobody listens
    assert.equal(client.log.length, 4);
  });

  it("leaves a live socket alone, and the first pageshow of every page means nothing", () => {
    const page = new Page();
    page.client();
    page.settle();
    page.dispatch("pageshow", { persisted: true });
    page.socket.readyState = 3;
    page.dispatch("pageshow", { persisted: false });
    assert.equal(page.sockets.length, 1);
  });
});

describe("giving up", () => {
  /** How many attempts there are until it gives up; fails after 100. */
  function attempts(page, client) {
    for (let count = 1; count <= 100; count++) {
      page.socket.drop();
      if (client.state === "gaveup") return count;
      page.clock.advance(30000);
    }
    return assert.fail("does not give up");
  }

  it("comes after 10 attempts where it has never been open, with a reason", () => {
    const page = new Page();
    const client = page.client();
    assert.equal(attempts(page, client), 10);
    assert.equal(page.sockets.length, 10);
    assert.equal(client.log.filter((line) => line.startsWith("giveup")).length, 1);
    assert.match(client.log.at(-1), /^giveup: 1006: 10 attempts in a row failed, the server is away or refuses: see its log\.$/);
    page.clock.advance(1e7);
    page.dispatch("online");
    assert.equal(page.sockets.length, 10);
  });

  it("never comes once it has been open", () => {
    const page = new Page();
    const client = page.client();
    page.socket.open();
    for (let i = 0; i < 100; i++) {
      page.socket.drop();
      page.clock.advance(30000);
    }
    assert.equal(client.state, "connecting");
    assert.equal(page.sockets.length, 101);
  });

  it("comes after giveUpAfter attempts, never open", () => {
    const page = new Page();
    assert.equal(attempts(page, page.client({ giveUpAfter: 1 })), 1);
    assert.equal(attempts(page, page.client({ giveUpAfter: 3 })), 3);
  });

  it("comes after giveUpAfter attempts, once open; the loss of a good connection is no failed attempt", () => {
    const page = new Page();
    const client = page.client({ giveUpAfter: 3 });
    page.settle();
    page.socket.drop();
    page.clock.advance(1000);
    assert.equal(attempts(page, client), 3);
  });

  it("counts a connection that did not last as a failed attempt", () => {
    const page = new Page();
    const client = page.client({ giveUpAfter: 2 });
    page.socket.open();
    page.socket.drop();
    page.clock.advance(1000);
    page.socket.open();
    page.socket.drop();
    assert.equal(client.state, "gaveup");
  });

  it("counts attempts in a row only", () => {
    const page = new Page();
    const client = page.client({ giveUpAfter: 2 });
    for (let i = 0; i < 5; i++) {
      page.socket.drop();
      page.clock.advance(30000);
      page.settle();
      page.socket.drop();
      page.clock.advance(30000);
    }
    assert.equal(client.state, "connecting");
  });

  it("says what the browser said where there cannot even be a WebSocket", () => {
    const page = new Page();
    page.refuse = new Error("insecure");
    const client = page.client({ giveUpAfter: 2 });
    assert.equal(client.state, "waiting");
    page.clock.advance(1000);
    assert.equal(client.state, "gaveup");
    assert.match(client.log.at(-1), /^giveup: 1006: 2 attempts .* insecure$/);
  });

  it("can be followed by reconnect(), which counts anew", () => {
    const page = new Page();
    page.random(1);
    const client = page.client({ giveUpAfter: 2 });
    assert.equal(attempts(page, client), 2);
    client.reconnect();
    assert.equal(client.state, "connecting");
    assert.equal(page.sockets.length, 3);
    page.socket.drop();
    assert.equal(page.wait, 1000);
    page.dispatch("online");
    assert.equal(page.sockets.length, 4);
  });
});
