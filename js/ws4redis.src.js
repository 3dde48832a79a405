/*
 * The client of django-websocket-redis, for the pages that were written for it. New pages use Uws4r.
 */
(() => {
  "use strict";

  const { Uws4r } = globalThis; // this one, whatever the page loads later

  /** With or without `new`; a second argument, once jQuery, is not needed. */
  globalThis.WS4Redis = function WS4Redis(options) {
    if (!(this instanceof WS4Redis)) return new WS4Redis(options);
    const given = { ...options };
    if (!given.uri) throw new Error("No Websocket URI in options");

    const tell = (name, ...values) => {
      if (typeof given[name] === "function") given[name](...values);
    };
    const client = new Uws4r(given.uri, {
      heartbeat: given.heartbeat_msg ? String(given.heartbeat_msg) : null,
      giveUpAfter: Infinity, // old pages have no way to hear of it
      binaryType: "blob", // the browsers' default, which they got
      onconnecting: () => tell("connecting"),
      onopen: () => tell("connected"),
      onmessage: (event) => tell("receive_message", event.data),
      onclose: (event) => tell("disconnected", event),
    });

    this.send_message = (data) => {
      // To a WebSocket that is over this was a warning in the console, and a number was text.
      if (!["connecting", "open", "waiting"].includes(client.state)) console.warn("WS4Redis is closed, not sent:", data);
      else client.send(typeof data === "object" ? data : String(data));
    };
    this.close = () => client.close();
    this.get_state = () => client.readyState;
    this.is_connecting = () => client.readyState === 0;
    this.is_connected = () => client.readyState === 1;
    this.is_closing = () => client.readyState === 2;
    this.is_closed = () => client.readyState === 3;
  };
})();
