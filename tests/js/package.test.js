"use strict";

const assert = require("node:assert/strict");
const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { minify } = require("terser");
const { CLIENT, Page, STATIC } = require("./page.js");

describe("the files", () => {
  it("uws4r.js is under 5,000 bytes minified", async () => {
    const { code } = await minify(fs.readFileSync(CLIENT, "utf8"));
    const size = Buffer.byteLength(code);
    assert.ok(size > 1000 && size < 5000, `${size} bytes`);
  });

  it("uws4r.js makes one global", () => {
    const page = new Page();
    const before = new Set(Object.keys(page.window));
    delete page.window.Uws4r;
    before.delete("Uws4r");
    require("node:vm").runInContext(fs.readFileSync(CLIENT, "utf8"), page.window);
    assert.deepEqual(Object.keys(page.window).filter((name) => !before.has(name)), ["Uws4r"]);
  });

  it("uws4r.js can be required, uws4r.mjs imported; both give the global", async () => {
    const required = require(CLIENT);
    assert.equal(required, globalThis.Uws4r);
    const module = await import(pathToFileURL(path.join(STATIC, "uws4r", "uws4r.mjs")));
    assert.equal(module.Uws4r, required);
    assert.equal(module.default, required);
  });

  it("works without a window's events and location, as in Node", () => {
    const Uws4r = require(CLIENT);
    assert.throws(() => new Uws4r("/ws/foo"), TypeError); // relative to what?
    globalThis.WebSocket = class { close() {} };
    const client = new Uws4r("ws://localhost/ws/foo");
    assert.equal(client.state, "connecting");
    client.close();
  });

  it("the declarations are right: tsc", () => {
    const tsc = path.join(__dirname, "node_modules", ".bin", "tsc");
    try {
      execFileSync(tsc, ["--noEmit", "-p", path.join(__dirname, "types")], { encoding: "utf8" });
    } catch (error) {
      assert.fail(error.stdout || error.message);
    }
  }).timeout(60000);

  it("the declarations and the reference have every option and every member of the class", () => {
    const types = fs.readFileSync(path.join(STATIC, "uws4r", "uws4r.d.ts"), "utf8");
    const reference = fs.readFileSync(path.join(STATIC, "..", "..", "docs", "reference", "javascript.md"), "utf8");
    const page = new Page();
    let options;
    try {
      new page.window.Uws4r("/ws/foo", { "?": 1 });
    } catch (error) {
      options = error.message.split("write ")[1].split(", ");
    }
    assert.ok(options.length >= 9);
    for (const name of options) {
      assert.match(types, new RegExp(`^    ${name}\\?: `, "m"));
      assert.match(reference, new RegExp(`^\\| [^|]*\`${name}\``, "m"));
    }
    const members = Object.getOwnPropertyNames(page.window.Uws4r.prototype).filter((name) => name !== "constructor");
    assert.ok(members.includes("send"));
    for (const name of members) {
      assert.match(types, new RegExp(`^  (readonly )?${name}[(:]`, "m"));
      assert.match(reference, new RegExp(`^\\| \`${name}[\`(]`, "m"));
    }
  });
});
