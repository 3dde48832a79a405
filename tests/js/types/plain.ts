// What a page with <script src="uws4r/uws4r.js"> writes; each @ts-expect-error has to be one.
/// <reference path="../../../uws4r/static/uws4r/uws4r.d.ts" />

const options: Uws4r.Options = {
  heartbeat: null,
  giveUpAfter: Infinity,
  queueLimit: 0,
  binaryType: "blob",
  onconnecting: (event) => console.log(event.type),
  onopen() {
    this.send("this is the client");
  },
  onmessage: ({ data }) => (typeof data === "string" ? data.length : data),
  onclose: (event) => console.log(event.code + 1, event.reason.length, !event.wasClean),
  ongiveup: (event) => console.log(event.reason.toUpperCase()),
};
const client = new Uws4r("/ws/foo?subscribe-broadcast", options);
new Uws4r(new URL("wss://example.com/ws/foo"));

client.addEventListener("message", (event) => console.log(event.data));
client.addEventListener("giveup", (event) => console.log(event.code, event.reason), { once: true });
client.addEventListener("something else", (event) => console.log(event.type));
client.removeEventListener("close", null);

client.send("text");
client.send(new Uint8Array(3));
client.send(new ArrayBuffer(3));
client.send(new Blob(["x"]));
client.close();
client.close(1000, "bye");
client.reconnect();

const state: Uws4r.State = client.state;
if (client.state === "gaveup" || client.readyState === 3) console.log(client.url, client.bufferedAmount, state);
const target: EventTarget = client;
console.log(target);

// @ts-expect-error: an address is missing
new Uws4r();
// @ts-expect-error: misspelt
new Uws4r("/ws/foo", { hearbeat: "--" });
// @ts-expect-error: no such type
new Uws4r("/ws/foo", { binaryType: "text" });
// @ts-expect-error: objects have to be serialized
client.send({ text: "x" });
// @ts-expect-error: read only
client.state = "open";
// @ts-expect-error: no such state
if (client.state === "opened") console.log("never");
// @ts-expect-error: messages have no code
client.addEventListener("message", (event) => event.code);
